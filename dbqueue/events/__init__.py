"""Events for monitors: reading them, keeping count of them, sending one's own; Celery's `app.events`.

    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"task-failed": tell, "*": state.event})
        receiver.capture(limit=None, timeout=None, wakeup=True)

Workers send them with `-E` (or `worker_send_task_events`), programs that enqueue with
`task_send_sent_event`. A receiver sees what is sent while it captures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from dbqueue import task_events

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.events.state import State

__all__ = ["Event", "EventDispatcher", "EventReceiver", "Events", "group_from"]

FIRST_PAUSE_SECONDS: Final = 0.02
LAST_PAUSE_SECONDS: Final = 0.25
"""Pauses between two looks for events, short while they come. A look is a read of the newest rows by their key."""

Handler = Callable[[dict[str, Any]], Any]


def Event(type: str, _fields: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:  # noqa: N802 - Celery's name
    """An event as a dict: its type, a timestamp, and these fields."""
    given = {**(_fields or {}), **fields}
    return {"timestamp": time.time()} | given | {"type": type}


def group_from(type: str) -> str:
    """`task` of `task-failed`."""
    return type.partition("-")[0]


class EventReceiver:
    """Calls a handler for each event: that of its type in `handlers`, else that of `*`.

    `connection` comes from `app.connection()`; an application does as well. Celery's other
    arguments (`routing_key`, `node_id`, ...) have no effect.
    """

    def __init__(
        self, channel: Any, handlers: Mapping[str, Handler] | None = None, *args: Any, app: DBQueue | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        self.app: DBQueue = app if app is not None else getattr(channel, "app", channel)
        self.handlers: dict[str, Handler] = dict(handlers or {})
        self.should_stop = False
        """Set it to True in a handler to end `capture`."""

    def process(self, type: str, event: dict[str, Any]) -> None:
        """Call the handler of an event."""
        handler = self.handlers.get(type, self.handlers.get("*"))
        if handler is not None:
            handler(event)

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> None:
        """Call the handlers of the events that come, until `limit` of them have, or `should_stop` is set.

        Raises TimeoutError when none has come for `timeout` seconds, and OperationalError where the database cannot
        be reached. With `wakeup` the workers are asked for a heartbeat.
        """
        for _ in self.itercapture(limit=limit, timeout=timeout, wakeup=wakeup):
            pass

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[dict[str, Any]]:
        """As `capture`; gives each event after its handler was called."""
        from dbqueue.store.events import Reader

        reader = Reader(self.app.database.store)
        reader.start()
        if wakeup:
            self.wakeup_workers()
        count, heard_at, pause = 0, time.monotonic(), FIRST_PAUSE_SECONDS
        while not self.should_stop:
            events = reader.read()
            for event in events:
                event["local_received"] = time.time()
                self.process(event["type"], event)
                yield event
                count += 1
                if self._is_done(count, limit):
                    return
            now = time.monotonic()
            if events:
                heard_at, pause = now, FIRST_PAUSE_SECONDS
                continue
            left = float("inf") if timeout is None else heard_at + timeout - now
            if left <= 0:
                raise TimeoutError(f"no event came for {timeout:g} s: do the workers send any (-E)?")
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LAST_PAUSE_SECONDS)

    def _is_done(self, count: int, limit: int | None) -> bool:
        return self.should_stop or (limit is not None and count >= limit)

    def wakeup_workers(self, channel: Any = None) -> None:
        """Ask all workers for a heartbeat event."""
        self.app.control.broadcast("heartbeat")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.should_stop = True


class EventDispatcher:
    """Sends events of a program's own: `dispatcher.send("task-custom", uuid=..., step=3)`.

    Each is a row when `send` returns. `hostname` is by default Celery's name for a process that is
    no worker. With `enabled=False`, or for a group that is not in `groups`, nothing is sent.
    """

    def __init__(
        self, connection: Any = None, hostname: str | None = None, enabled: bool = True, *, app: DBQueue | None = None,
        groups: Iterable[str] | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        self.app: DBQueue = app if app is not None else getattr(connection, "app", connection)
        self.hostname = hostname or task_events.sender_name()
        self.enabled = enabled
        self.groups = frozenset(groups or ())

    def send(self, type: str, blind: bool = False, **fields: Any) -> None:
        """Send one event. Celery's `retry` and `retry_policy` have no effect. Raises OperationalError."""
        from dbqueue.store import events

        for name in ("retry", "retry_policy", "utcoffset"):
            fields.pop(name, None)
        if self.enabled and (not self.groups or group_from(type) in self.groups):
            events.send(self.app.database.store, [task_events.event(type, self.hostname, **fields)])

    def enable(self) -> None:
        self.enabled = True

    def disable(self) -> None:
        self.enabled = False

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Events:
    """`app.events`: the classes above, for this application."""

    receiver_cls = EventReceiver
    dispatcher_cls = EventDispatcher

    def __init__(self, app: DBQueue) -> None:
        self.app = app

    def Receiver(  # noqa: N802 - Celery's name
        self, channel: Any = None, handlers: Mapping[str, Handler] | None = None, *args: Any, **kwargs: Any
    ) -> EventReceiver:
        """See `EventReceiver`."""
        return self.receiver_cls(channel, handlers, *args, **{**kwargs, "app": self.app})

    def Dispatcher(self, connection: Any = None, *args: Any, **kwargs: Any) -> EventDispatcher:  # noqa: N802
        """See `EventDispatcher`."""
        return self.dispatcher_cls(connection, *args, **{**kwargs, "app": self.app})

    def State(self, *args: Any, **kwargs: Any) -> State:  # noqa: N802
        """See `dbqueue.events.state.State`."""
        from dbqueue.events.state import State

        return State(*args, **kwargs)

    @contextmanager
    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> Iterator[EventDispatcher]:
        """A dispatcher for a block."""
        yield self.Dispatcher(None, hostname, enabled)
