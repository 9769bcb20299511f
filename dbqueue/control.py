"""Remote control: telling and asking the workers that run, over the database; Celery's `app.control`.

    app.control.revoke(result.id, terminate=True)
    app.control.inspect().active()          # {'celery@host': [{'id': ..., 'name': ...}]}

A command reaches each worker that was alive when it was sent. A call with `reply` returns as soon
as all of them have answered, and after `timeout` seconds at the latest.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from dbqueue import codec, signals, stamped
from dbqueue.context import Context
from dbqueue.errors import DecodeError
from dbqueue.inspection import REPLY_SECONDS, Destination, Inspect, Reply
from dbqueue.jobs import storable, worker_name
from dbqueue.limits import Limit

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.store.revoking import Revoked

FIRST_PAUSE_SECONDS: Final = 0.005
LAST_PAUSE_SECONDS: Final = 0.05
"""Pauses between two looks for replies: workers answer within milliseconds, or are busy."""
IDS_AT_ONCE: Final = 2000
"""That one command names at most: more would be too long for one."""
COMMAND_BYTES: Final = 64 * 1024
"""How long the arguments of a command may be in any case: a small `max_payload_bytes` is meant for jobs."""
DEFAULT_SIGNAL: Final = "SIGTERM"


class Control:
    """Commands to workers. All take `destination` (names of workers; default: all), and `reply=True` for replies."""

    def __init__(self, app: DBQueue) -> None:
        self.app = app

    def inspect(
        self,
        destination: Destination = None,
        timeout: float | None = REPLY_SECONDS,
        callback: Callable[[Reply], Any] | None = None,
        connection: Any = None,
        app: Any = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> Inspect:
        """Questions to workers; see `Inspect`. `connection` and `app` are Celery's and have no effect."""
        return Inspect(self.app, destination, timeout, callback, limit=limit, pattern=pattern, matcher=matcher)

    def broadcast(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Destination = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float | None = REPLY_SECONDS,
        limit: int | None = None,
        callback: Callable[[Reply], Any] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **more: Any,
    ) -> list[Reply] | None:
        """Send a command, and with `reply` collect what the workers say, each as `{name: reply}`.

        Waits at most `timeout` seconds (None: one), or until `limit` workers have replied; `callback` is called
        with each reply as it comes. `pattern` chooses workers by their names, as a glob, or with
        `matcher="pcre"` as a regular expression of how they begin. `more` are further arguments of the command.
        `connection` and `channel` are Celery's and have no effect.
        Raises OperationalError, and ValueError for a pattern that is none.
        """
        from dbqueue.store import control, queries

        store = self.app.database.store
        wanted = _destination(destination, pattern, matcher)
        arguments = {**(arguments or {}), **more}
        body = codec.dumps(arguments, what=f"the arguments of {command}", max_bytes=self._most_bytes)
        command_id = control.send(store, command, body, wanted)
        if not reply:
            return None
        alive = [each for each in queries.open_workers(store) if each.alive]
        missing = {each.id for each in alive if control.addressed(wanted, each.name)}
        replies: list[Reply] = []
        seen: set[str] = set()
        deadline, pause = time.monotonic() + (REPLY_SECONDS if timeout is None else timeout), FIRST_PAUSE_SECONDS
        while missing:
            for each in control.replies(store, command_id, seen=seen)[: _left_of(limit, replies)]:
                seen.add(each.worker)
                missing.discard(each.worker)
                replies.append({worker_name(each.worker): _said(each.body)})
                if callback is not None:
                    callback(replies[-1])
            left = deadline - time.monotonic()
            if left <= 0 or (limit is not None and len(replies) >= limit):
                break
            if missing:
                time.sleep(min(pause, left))
                pause = min(pause * 1.5, LAST_PAUSE_SECONDS)
        return replies

    def ping(
        self, destination: Destination = None, timeout: float | None = REPLY_SECONDS, **options: Any
    ) -> list[Reply]:
        """Which workers answer: `[{name: {'ok': 'pong'}}]`."""
        return self.broadcast("ping", destination=destination, reply=True, timeout=timeout, **options) or []

    def revoke(
        self,
        task_id: str | UUID | Iterable[str | UUID],
        destination: Destination = None,
        terminate: bool = False,
        signal: str | int = DEFAULT_SIGNAL,
        **options: Any,
    ) -> list[Reply] | None:
        """Call off one job, or many by a list of ids.

        One that waits ends as REVOKED at once, and `get()` raises TaskRevokedError. One that is not
        enqueued yet will not run. One that runs goes on and is not run again; with `terminate` its
        worker ends it with the signal, and it is REVOKED: on prefork by ending its pool process, on
        threads and asyncio by raising SoftTimeLimitExceeded in the task, on solo not at all. A pool
        process whose task takes no notice of the signal may be sent a harder one.
        """
        from dbqueue.store import revoking

        ids = storable(map(str, [task_id] if isinstance(task_id, (str, UUID)) else task_id))
        found = revoking.revoke(self.app.database.store, ids)
        self._announce(found)
        # What was terminated has ended in its row, though its task may run on.
        may_run = found.running or (terminate and not found.ended.keys() >= set(ids))
        if not may_run and not options.get("reply"):
            return None  # no worker has anything to do with it
        arguments = [{"task_id": part, "terminate": terminate, "signal": signal} for part in self._in_parts(ids)]
        replies = [self.broadcast("revoke", each, destination=destination, **options) for each in arguments]
        return [reply for told in replies for reply in told or ()] if options.get("reply") else None

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any] | Iterable[str],
        destination: Destination = None,
        terminate: bool = False,
        signal: str | int = DEFAULT_SIGNAL,
        **options: Any,
    ) -> list[Reply] | None:
        """Call off all jobs that have one of these stamps: `{"customer": "acme"}`, or a list of values for a name.

        Those that wait end as REVOKED, those that run are treated as by `revoke`. The workers that
        run remember the stamps, as Celery's do: jobs that are sent later are not run by them either.
        Waits until they know, for at most `timeout` seconds (1 by default).
        """
        from dbqueue.store import stamps

        wanted = stamped.wanted(headers)
        # First the workers, then the rows: a job that is enqueued between the two is refused by its worker.
        arguments = {"headers": wanted, "terminate": terminate, "signal": signal}
        told = {**options, "reply": True}
        replies = self.broadcast("revoke_by_stamped_headers", arguments, destination=destination, **told)
        ids = stamps.find(self.app.database.store, wanted)
        if ids:
            self.revoke(ids, destination=destination, terminate=terminate, signal=signal)
        return replies if options.get("reply") else None

    def terminate(
        self,
        task_id: str | UUID | Iterable[str | UUID],
        destination: Destination = None,
        signal: str | int = DEFAULT_SIGNAL,
        **options: Any,
    ) -> list[Reply] | None:
        """`revoke` with `terminate=True`."""
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **options)

    @property
    def _most_bytes(self) -> int:
        """How long the arguments of a command may be."""
        most: int = self.app.conf.max_payload_bytes
        return max(COMMAND_BYTES, most)

    def _in_parts(self, ids: Sequence[str]) -> list[list[str]]:
        """The ids as commands name them, none of which is too long; without what is no job's by its length alone."""
        parts: list[list[str]] = [[]]
        size, room = 0, self._most_bytes // 2  # the other half is for what is beside them
        for job_id in ids:
            length = len(json.dumps(job_id)) + len(",")
            if length > room:
                continue
            if size + length > room or len(parts[-1]) == IDS_AT_ONCE:
                parts.append([])
                size = 0
            parts[-1].append(job_id)
            size += length
        return parts

    def _announce(self, found: Revoked) -> None:
        """The signal for jobs that waited: no worker has seen them, so it is sent here."""
        for job_id, task in found.ended.items():
            request = Context(id=job_id, task=task, name=task, called_directly=False)
            sender = self.app.tasks.get(task) or task
            signals.task_revoked.send(sender, request=request, terminated=False, signum=None, expired=False)

    def purge(self, connection: Any = None) -> int:
        """Delete all jobs that wait, in all queues; how many. There is no undo."""
        from dbqueue.store import changes

        return changes.purge(self.app.database.store)

    discard_all = purge

    # limits over all workers

    def limits(self) -> list[dict[str, Any]]:
        """The limits over all workers, by key.

        Each is `{key, max_running, rate, source, task, running, held}`: `source` is `user` where
        `set_limit` set it, `settings` or `call` where code did; `running` jobs have permits, and
        `held` ones wait for them.
        """
        from dbqueue.store import limits

        return [asdict(row) for row in limits.rows(self.app.database.store)]

    def set_limit(self, key: str, running: int | None = None, rate: str | float | None = None) -> None:
        """Let so many jobs of this key run at once (0: none), and so many start in a time (`'100/m'`); None: no limit.

        It acts at once, in all workers, and goes before what code says until `clear_limit`. Raises ValueError.
        """
        from dbqueue.store import limits

        limits.set_limit(self.app.database.store, key, Limit(running=running, rate=rate))

    def clear_limit(self, key: str) -> bool:
        """Let the key have the limit that code gives it, or none; False where it had no row."""
        from dbqueue.store import limits

        return limits.clear_limit(self.app.database.store, key)

    # what a worker does

    def rate_limit(
        self, task_name: str, rate_limit: str | float | None, destination: Destination = None, **options: Any
    ) -> list[Reply] | None:
        """Change a task's rate limit (`'10/m'`; 0 or None: no limit), in each worker until it ends."""
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", arguments, destination=destination, **options)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Destination = None,
        **options: Any,
    ) -> list[Reply] | None:
        """Change a task's time limits, in seconds, for runs that begin from now on."""
        arguments = {"task_name": task_name, "soft": soft, "hard": hard}
        return self.broadcast("time_limit", arguments, destination=destination, **options)

    def add_consumer(
        self,
        queue: str,
        exchange: Any = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Any = None,
        destination: Destination = None,
        **more: Any,
    ) -> list[Reply] | None:
        """Take jobs from one more queue. `exchange` and what belongs to it are Celery's and have no effect."""
        return self.broadcast("add_consumer", {"queue": queue}, destination=destination, **more)

    def cancel_consumer(self, queue: str, destination: Destination = None, **options: Any) -> list[Reply] | None:
        """Take no more jobs from a queue."""
        return self.broadcast("cancel_consumer", {"queue": queue}, destination=destination, **options)

    def pool_grow(self, n: int = 1, destination: Destination = None, **options: Any) -> list[Reply] | None:
        """Add pool processes."""
        return self.broadcast("pool_grow", {"n": n}, destination=destination, **options)

    def pool_shrink(self, n: int = 1, destination: Destination = None, **options: Any) -> list[Reply] | None:
        """Let pool processes go, idle ones first; running tasks end."""
        return self.broadcast("pool_shrink", {"n": n}, destination=destination, **options)

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Destination = None,
        **options: Any,
    ) -> list[Reply] | None:
        """Replace pool processes as their running tasks end; needs the workers' setting `worker_pool_restarts`.

        The new ones import `modules`, with `reload` anew; what else the application has loaded stays as it was when
        the worker started. `reloader` is Celery's and has no effect.
        """
        arguments = {"modules": list(modules or ()), "reload": reload}
        return self.broadcast("pool_restart", arguments, destination=destination, **options)

    def heartbeat(self, destination: Destination = None, **options: Any) -> list[Reply] | None:
        """Let workers send an event worker-heartbeat now."""
        return self.broadcast("heartbeat", {}, destination=destination, **options)

    def autoscale(
        self, max: int | None = None, min: int | None = None, destination: Destination = None, **options: Any
    ) -> list[Reply] | None:
        """Change the bounds of workers that were started with `--autoscale`."""
        return self.broadcast("autoscale", {"max": max, "min": min}, destination=destination, **options)

    def shutdown(self, destination: Destination = None, **options: Any) -> list[Reply] | None:
        """Shut workers down, warmly: running tasks end."""
        return self.broadcast("shutdown", {}, destination=destination, **options)

    def enable_events(self, destination: Destination = None, **options: Any) -> list[Reply] | None:
        """Let workers send events about tasks."""
        return self.broadcast("enable_events", {}, destination=destination, **options)

    def disable_events(self, destination: Destination = None, **options: Any) -> list[Reply] | None:
        """Let workers send no events about tasks."""
        return self.broadcast("disable_events", {}, destination=destination, **options)


def _said(body: str) -> Any:
    """What a worker says; an error in its place where this program cannot read it, for there are other replies."""
    try:
        return codec.loads(body)
    except DecodeError as error:
        return {"error": f"the reply cannot be read: {error}"}


def _left_of(limit: int | None, replies: Sequence[Reply]) -> int | None:
    """How many more replies are wanted; None is all."""
    return None if limit is None else max(0, limit - len(replies))


def _destination(destination: Destination, pattern: str | None, matcher: str | None) -> str | None:
    """What the command's row says of whom it is for; None is every worker."""
    if pattern is not None:
        if matcher in ("pcre", "regex"):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}") from error
        return json.dumps({"pattern": pattern, "matcher": matcher or "glob"})
    if destination is None:
        return None
    return json.dumps({"workers": [destination] if isinstance(destination, str) else list(destination)})
