"""Events for monitors, as rows of one small table: written in batches, read by number, gone after a minute.

An event is a JSON object with Celery's fields. No job depends on one: they are for people who watch,
and a monitor sees what is written while it reads. The numbers of rows are given out before their
transactions commit, so a reader looks again at the last OVERLAP of them.

Whoever may write to the table may give a row any number. One that no sequence has given out is not read; after one
below that bound a monitor hears nothing until the row is old and deleted, and then goes on.

`:name` parameters, and {names} that the dialect fills in, as in `store.control`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa

from dbqueue.codec.plain import json_object
from dbqueue.store.base import Store
from dbqueue.store.sessions import WatchSession
from dbqueue.store.statements import Statement, pyformat
from dbqueue.store.values import LAST

KEPT_SECONDS: Final = 60.0
"""How long events are kept for readers that are slow."""
KEPT_ROWS: Final = 50_000
"""And how many at most."""
OVERLAP: Final = 2000
"""How many of the last numbers a reader looks at again: a transaction of this many events may still commit."""
BATCH: Final = 1000
"""Most events in one statement or one look."""

Event = Mapping[str, Any]

WRITE: Final = "INSERT INTO {events} (body) SELECT body FROM {batch_rows}"
LATEST: Final = "SELECT coalesce(max(seq), 0) FROM {events} WHERE seq <= {highest_seq}"
READ: Final = """
SELECT seq, {text_of_body} FROM {events}
WHERE seq > :after AND seq <= {highest_seq} ORDER BY seq LIMIT :limit"""
PRUNE: Final = f"""
DELETE FROM {{events}}
WHERE created_at < {{seconds_ago}} OR created_at > {{seconds_ahead}}
   OR seq <= ({LATEST}) - :rows OR seq > {{highest_seq}}"""


def write(session: WatchSession, events: Sequence[Event]) -> None:
    """Write a worker's events, over its second connection."""
    session.run(WRITE, {"batch": _json(events)})


def prune(session: WatchSession) -> None:
    """Delete what is old, what is too much, and what was never written like this."""
    session.run(PRUNE, {"seconds": KEPT_SECONDS, "ahead": KEPT_SECONDS, "rows": KEPT_ROWS})


def send(store: Store, events: Sequence[Event]) -> None:
    """Write events from a program that has no worker's connection."""
    with store.connect() as connection:
        for start in range(0, len(events), BATCH):
            connection.execute(sa.text(store.text(WRITE)), {"batch": _json(events[start : start + BATCH])})


def send_in(store: Store, connection: Any, events: Sequence[Event]) -> None:
    """Write events in a caller's transaction: nobody sees them unless it commits."""
    from dbqueue.store.transactions.joining import join  # not needed by workers, and it loads SQLAlchemy's ORM

    join(connection).reply(_statement(store, events))


async def asend_in(store: Store, connection: Any, events: Sequence[Event]) -> None:
    """As `send_in`, for asynchronous connections too."""
    from dbqueue.store.transactions.joining import is_async

    if not is_async(connection):
        send_in(store, connection, events)
    elif hasattr(connection, "run_sync"):
        await connection.run_sync(lambda sync_connection: send_in(store, sync_connection, events))
    elif callable(connection):  # async_scoped_session
        await asend_in(store, connection(), events)
    else:
        statement = _statement(store, events)
        await connection.execute(pyformat(statement.sql), statement.parameters)


def _statement(store: Store, events: Sequence[Event]) -> Statement:
    return Statement(store.text(WRITE), {"batch": _json(events)})


class Reader:
    """Reads the events that are written from now on, in the order of their numbers."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._start: int | None = None
        self._seen: set[int] = set()
        self._last = 0

    def start(self) -> None:
        """What is there already is not read."""
        self._start = self._last = self._latest()

    def read(self) -> list[dict[str, Any]]:
        """The events that are new since the last call, each as a dict; at most BATCH of them."""
        if self._start is None:
            self.start()
        assert self._start is not None
        after = max(self._start, self._last - OVERLAP)
        rows = self._run(READ, {"after": after, "limit": BATCH + OVERLAP})
        new = [(int(seq), body) for seq, body in rows if seq not in self._seen][:BATCH]
        if new:
            self._seen |= {seq for seq, _ in new}
            self._last = max(self._last, new[-1][0])
            self._seen = {seq for seq in self._seen if seq > self._last - OVERLAP}
        elif self._last > 0:
            self._go_back()
        events = []
        for _, body in new:
            event = json_object(body)
            if _is_sound(event):
                events.append(event)
        return events

    def _go_back(self) -> None:
        """Read on from lower numbers where those that were read are gone.

        SQLite begins at 1 again in an empty table; a database was restored, or a row had a number of its own.
        """
        latest = self._latest()
        if latest < self._last:
            self._start, self._last = min(self._start or 0, latest), latest
            self._seen = {seq for seq in self._seen if seq <= latest}

    def _latest(self) -> int:
        (row,) = self._run(LATEST, {})
        return int(row[0])

    def _run(self, template: str, parameters: Mapping[str, Any]) -> Sequence[Any]:
        with self._store.translating(), self._store.engine.connect() as connection:
            return connection.execute(sa.text(self._store.text(template)), dict(parameters)).fetchall()


def _is_sound(event: Event) -> bool:
    """Whether monitors can make something of it: whoever may write to the table may write anything."""
    texts = (event.get(name, "") for name in ("hostname", "uuid", "name", "parent_id", "root_id"))
    moment = event.get("timestamp", 0.0)
    return (
        isinstance(event.get("type"), str)
        and all(isinstance(text, str | None) for text in texts)
        and isinstance(moment, int | float)
        and 0.0 <= moment <= LAST.timestamp()
    )


def _json(events: Sequence[Event]) -> str:
    # Escaped, so that a lone surrogate in a value's text is no error of the database.
    try:
        text = json.dumps(list(events), default=str, allow_nan=False)
    except ValueError:  # NaN and the infinities, of which JSON has none: as text, too
        text = json.dumps(json.loads(json.dumps(list(events), default=str), parse_constant=str))
    return text.replace("\\u0000", "\\ufffd")
