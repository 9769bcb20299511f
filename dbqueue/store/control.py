"""Commands to workers and their replies, as rows of one small table. The same for every database.

    sender   send ─► a row with a method ─► NOTIFY          replies: reads until all have come
    worker   pending ─► its loop does it ─► answer ─► a row with command_id

A command is for those workers that were alive when it was sent: one that starts later passes over
it, or a shutdown would end the worker that was started in its place. After COMMAND_SECONDS it has
expired, and the next sender deletes it with its replies.

The worker's side runs over its watch connection (`WatchSession.run`), so that a worker of any size
keeps to its two connections.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa

from dbqueue.codec.plain import json_object
from dbqueue.jobs import new_job_id
from dbqueue.store.base import Store
from dbqueue.store.changing import Ask, changed
from dbqueue.store.reading import reading, time_on
from dbqueue.store.sessions import WatchSession
from dbqueue.store.tables import Json, control, database_now
from dbqueue.store.values import sqlite_time

COMMAND_SECONDS: Final = 60.0
"""How long a worker that was cut off from its database may still do a command. Celery's queues of commands keep 300."""


@dataclass(frozen=True, slots=True)
class Command:
    """`arguments` and `destination` are JSON text; no destination is every worker."""

    id: str
    method: str
    arguments: str
    destination: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """`worker` is an id of `dbqueue_workers`, `body` is JSON text."""

    command_id: str
    worker: str
    body: str


def addressed(destination: str | None, worker: str) -> bool:
    """Whether a command with this destination is for the worker of this name."""
    if destination is None:
        return True
    wanted = json_object(destination)
    pattern, names = wanted.get("pattern"), wanted.get("workers")
    if not isinstance(pattern, str):
        return isinstance(names, list) and worker in names
    if wanted.get("matcher") in ("pcre", "regex"):
        try:
            return re.match(pattern, worker) is not None  # as in Celery: from the beginning of the name
        except re.error:
            return False  # the sender was told
    return fnmatch.fnmatchcase(worker, pattern)


# the sender's side


def send(store: Store, method: str, arguments: str, destination: str | None = None) -> str:
    """Write a command and wake the workers; its id. Deletes what has expired."""
    command_id = new_job_id()
    row = {
        "id": command_id,
        "method": method,
        "body": _json(arguments),
        "destination": sa.null() if destination is None else _json(destination),
    }

    def change(connection: sa.Connection, ask: Ask) -> None:
        connection.execute(sa.delete(control).where(control.c.expires_at < database_now()))
        expires_at: Any = time_on(connection) + timedelta(seconds=COMMAND_SECONDS)
        if store.dialect == "sqlite":
            expires_at = sqlite_time(expires_at)
        connection.execute(store.insert(control).values(row | {"expires_at": expires_at}).on_conflict_do_nothing())
        store.announce_command(connection)

    changed(store, change)
    return command_id


def replies(store: Store, command_id: str, *, seen: Collection[str] = ()) -> list[Reply]:
    """The replies to a command that have come, in the order of their coming; not those of the workers in `seen`."""
    columns = (control.c.command_id, control.c.worker, sa.cast(control.c.body, sa.Text))
    query = sa.select(*columns).where(control.c.command_id == command_id).order_by(control.c.created_at, control.c.id)
    with reading(store) as connection:
        return [reply for row in connection.execute(query) if (reply := Reply(*row)).worker not in seen]


# the worker's side: `:name` parameters, and {names} that the dialect fills in

PENDING: Final = """
SELECT id, method, {text_of_body}, {text_of_destination} FROM {control}
WHERE method IS NOT NULL AND expires_at > {now}
  AND created_at >= (SELECT started_at FROM {workers} WHERE id = :worker)
ORDER BY created_at, id"""

ANSWER: Final = """
INSERT INTO {control} (id, command_id, worker, body, expires_at)
VALUES (:id, :command, :worker, :body, coalesce((SELECT expires_at FROM {control} WHERE id = :command), {now}))"""

DESCRIBE: Final = """
UPDATE {workers} SET queues = :queues, concurrency = :concurrency WHERE id = :worker AND closed_at IS NULL"""


def pending(session: WatchSession, worker_id: str) -> list[Command]:
    """Commands that were sent since this worker registered and have not expired, the oldest first."""
    return [Command(*row) for row in session.run(PENDING, {"worker": worker_id})]


def answer(session: WatchSession, reply: Reply) -> None:
    """Write a reply."""
    session.run(
        ANSWER,
        {"id": new_job_id(), "command": reply.command_id, "worker": reply.worker, "body": reply.body},
    )


def describe(session: WatchSession, worker_id: str, *, queues: Sequence[str], concurrency: int) -> None:
    """Let the worker's row say what it consumes from, and how many jobs it runs at once."""
    queues_text = json.dumps(list(queues), ensure_ascii=False)
    session.run(DESCRIBE, {"worker": worker_id, "queues": queues_text, "concurrency": concurrency})


def _json(text: str) -> sa.ColumnElement[str]:
    """JSON text as a value of a JSON column, byte for byte."""
    return sa.cast(sa.bindparam(None, text, type_=sa.Text), Json)
