"""Questions to the workers that run; Celery's `app.control.inspect()`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from dbqueue.jobs import storable

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

Reply = dict[str, Any]
"""`{worker's name: what it says}`."""
Destination = str | Iterable[str] | None
REPLY_SECONDS: Final = 1.0
"""How long to wait for replies at the most, unless the caller says so."""


class Inspect:
    """Questions to workers. Each answer is `{worker's name: reply}`, or None where nobody answered."""

    def __init__(
        self,
        app: DBQueue,
        destination: Destination = None,
        timeout: float | None = REPLY_SECONDS,
        callback: Callable[[Reply], Any] | None = None,
        *,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self.app, self.destination, self.timeout, self.callback = app, destination, timeout, callback
        self.limit, self.pattern, self.matcher = limit, pattern, matcher

    def _request(self, command: str, **arguments: Any) -> Reply | None:
        replies = self.app.control.broadcast(
            command,
            arguments,
            destination=self.destination,
            reply=True,
            timeout=self.timeout,
            limit=self.limit,
            callback=self.callback,
            pattern=self.pattern,
            matcher=self.matcher,
        )
        return {name: said for reply in replies or () for name, said in reply.items()} or None

    def ping(self, destination: Destination = None) -> Reply | None:
        """`{'ok': 'pong'}`."""
        if destination is not None:
            self.destination = destination
        return self._request("ping")

    def active(self, safe: bool | None = None) -> Reply | None:
        """The tasks that run: a list of `{id, name, args, kwargs, time_start, worker_pid, ...}`."""
        return self._request("active", safe=safe)

    def reserved(self, safe: bool | None = None) -> Reply | None:
        """The tasks that are claimed and not started."""
        return self._request("reserved")

    def scheduled(self, safe: bool | None = None) -> Reply | None:
        """Tasks that wait for their time in the worker's queues: a list of `{eta, priority, request}`."""
        return self._request("scheduled")

    def registered(self, *taskinfoitems: str) -> Reply | None:
        """The tasks that the worker knows, with these attributes."""
        return self._request("registered", taskinfoitems=taskinfoitems)

    registered_tasks = registered

    def stats(self) -> Reply | None:
        """Counts and facts about the worker and its pool."""
        return self._request("stats")

    def active_queues(self) -> Reply | None:
        """The queues that the worker takes jobs from."""
        return self._request("active_queues")

    def revoked(self) -> Reply | None:
        """The ids of revoked tasks."""
        return self._request("revoked")

    def query_task(self, *ids: str | Sequence[str]) -> Reply | None:
        """Where these tasks are: `{id: ['active' or 'reserved', {...}]}`."""
        flat = ids[0] if len(ids) == 1 and not isinstance(ids[0], str) else ids
        return self._request("query_task", ids=storable(map(str, flat)))

    def conf(self, with_defaults: bool = False) -> Reply | None:
        """The worker's settings; passwords are masked."""
        return self._request("conf", with_defaults=with_defaults)

    def report(self) -> Reply | None:
        """Versions and settings, for bug reports."""
        return self._request("report")

    def clock(self) -> Reply | None:
        """The worker's logical clock."""
        return self._request("clock")
