"""Results: what became of a call, read from its row by any process that knows the id."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast
from uuid import UUID
from zoneinfo import ZoneInfo

from dbqueue import codec
from dbqueue.codec import payloads
from dbqueue.errors import (
    ChordError,
    RemoteTraceback,
    TimeoutError,  # noqa: A004 - Celery's name
)
from dbqueue.jobs import FAILURE, PENDING, RETRY, REVOKED, STARTED, SUCCESS, TERMINAL, as_id, worker_name
from dbqueue.result.chord_errors import first_error_above, with_cause
from dbqueue.result.family import Family
from dbqueue.result.waiting import FIRST_PAUSE_SECONDS, SHARE_OF_WAIT
from dbqueue.result.waiting_rules import refuse_to_wait
from dbqueue.states import PROPAGATE_STATES

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.services.backend import Backend
    from dbqueue.store.records import JobRecord

R = TypeVar("R")

DEFAULT_INTERVAL_SECONDS: Final = 0.5


class AsyncResult(Family, Generic[R]):
    """The result of one call. An id that no row has is PENDING; `exists()` tells the difference.

    A UUID (Django's paths give one) stands for its text. Raises ValueError for an empty id, TypeError for what is none.
    """

    TimeoutError = TimeoutError

    def __init__(
        self,
        id: str | UUID,
        backend: Backend | None = None,
        *,
        app: DBQueue | None = None,
        ignored: bool = False,
        parent: Any = None,
    ) -> None:
        if not id:
            raise ValueError("AsyncResult requires a valid id, not an empty one")
        if app is None and backend is not None:
            app = backend.app
        if app is None:
            from dbqueue.shared import current_app

            app = current_app()
        self.id = id if type(id) is str else as_id(id)
        self.app, self.ignored, self.parent = app, ignored, parent

    # On the class: results are made by the hundred thousand.
    sent_at: float | None = None
    """When this process enqueued the job, on the monotonic clock; None if another did."""
    _last: JobRecord | None = None
    _awaiting: tuple[Callable[[Any], Any], ...] = ()

    @property
    def backend(self) -> Backend:
        """Results, under the names of Celery's result backends."""
        return self.app.backend

    reads_row = True
    """Whether a row stands behind it."""

    @property
    def task_id(self) -> str:
        """The id, under Celery's other name."""
        return self.id

    # the row

    def _record(self) -> JobRecord | None:
        """The row; read again until it is final, since a final row never changes."""
        if not self.is_final:
            self.take(self.app.database.record(self.id))
        return self._last

    @property
    def is_final(self) -> bool:
        """Whether it is known here how the job has ended."""
        return self._last is not None and self._last.status in TERMINAL

    @property
    def last_status(self) -> str | None:
        """The row's status when it was last read; None without a row."""
        return None if self._last is None else self._last.status

    @property
    def row(self) -> JobRecord | None:
        """The row as it was last read."""
        return self._last

    def take(self, record: JobRecord | None) -> None:
        """Take the row as somebody has just read it."""
        self._last = record
        if self._awaiting and self.is_final:
            awaiting, self._awaiting = self._awaiting, ()
            for callback in awaiting:
                callback(self)

    def seen(self) -> AsyncResult[R]:
        """What the row says now: of one reading, so that all of it fits together whatever the job does meanwhile."""
        record = self._record()
        return self if self.is_final else _Seen(self.id, record, self.app)

    def exists(self) -> bool:
        """Whether there is such a job; its row may have been pruned or forgotten."""
        return self._record() is not None

    @property
    def state(self) -> str:
        """PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, or a state of the task's own."""
        record = self._record()
        if record is None:
            return PENDING
        if record.status == STARTED:
            if record.state:
                return record.state
            return STARTED if self._tracks_started(record.task) else PENDING
        return record.status

    status = state

    def _tracks_started(self, name: str) -> bool:
        task = self.app.tasks.get(name)
        own = None if task is None else task.track_started
        return bool(self.app.conf.task_track_started if own is None else own)

    @property
    def result(self) -> Any:
        """The value of a success, the exception of a failure, the meta of a state of the task's own.

        While it shows STARTED, who runs it, as Celery's meta says with `task_track_started`: pages that poll ask
        `result.info.get(...)` in any state but PENDING and FAILURE.
        """
        record = self._record()
        if record is None:
            return None
        if record.status == SUCCESS:
            return payloads.read_result(record.result, record.result_content, self._accepted_results)
        if record.status in (FAILURE, REVOKED, RETRY):
            return codec.rebuild_exception(record.result, record.traceback)
        if record.meta is not None:
            return codec.loads(record.meta)
        if record.status != STARTED or record.worker is None or not self._tracks_started(record.task):
            return None
        return {"pid": None, "hostname": worker_name(record.worker)}  # the row does not say which pool process

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback of a failure, as the worker saw it."""
        record = self._record()
        return None if record is None else record.traceback

    @property
    def date_done(self) -> datetime | None:
        """When the job ended: in UTC, or with `enable_utc=False` in the setting `timezone`."""
        record = self._record()
        moment = None if record is None else record.finished_at
        if moment is None or self.app.conf.enable_utc:
            return moment
        return moment.astimezone(ZoneInfo(self.app.conf.timezone))

    def _field(self, read: Callable[[JobRecord], Any]) -> Any:
        record = self._record()
        return None if record is None else read(record)

    def _call(self, record: JobRecord) -> tuple[list[Any], dict[str, Any]]:
        return payloads.read_call(record, self.app.conf.accept_content)

    @property
    def _accepted_results(self) -> list[str]:
        """The content types of results that are read; JSON always is."""
        own: list[str] | None = self.app.conf.result_accept_content
        accepted: list[str] = self.app.conf.accept_content if own is None else own
        return accepted

    @property
    def name(self) -> str | None:
        """The task's name."""
        return cast("str | None", self._field(lambda record: record.task))

    @property
    def args(self) -> list[Any] | None:
        return cast("list[Any] | None", self._field(lambda record: self._call(record)[0]))

    @property
    def kwargs(self) -> dict[str, Any] | None:
        return cast("dict[str, Any] | None", self._field(lambda record: self._call(record)[1]))

    @property
    def worker(self) -> str | None:
        """The name of the worker that ran it, or runs it."""
        return cast("str | None", self._field(lambda record: record.worker and worker_name(record.worker)))

    @property
    def retries(self) -> int | None:
        return cast("int | None", self._field(lambda record: record.retries))

    @property
    def queue(self) -> str | None:
        return cast("str | None", self._field(lambda record: record.queue))

    def ready(self) -> bool:
        """Whether the job has ended, well or not."""
        return self.state in TERMINAL

    def successful(self) -> bool:
        return self.state == SUCCESS

    def failed(self) -> bool:
        return self.state == FAILURE

    def forget(self) -> None:
        """Delete the finished job's row, and its result with it; and those of its parents."""
        for node in self._line():
            node._forget_own()

    def _forget_own(self) -> None:
        self.app.database.store.forget(self.id)
        self._last = None

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Call the job off; see `app.control.revoke`.

        With `wait`, until the workers have replied, for at most `timeout` seconds (1 by default).
        `connection` is Celery's and has no effect.
        """
        self.app.control.revoke(
            self.id,
            terminate=terminate,
            signal=signal or "SIGTERM",
            reply=wait,
            timeout=1.0 if timeout is None else timeout,
        )

    # waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = DEFAULT_INTERVAL_SECONDS,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Any = None,
        on_interval: Any = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Wait for the job to end and return its value, or raise its exception again.

        Waits at most `timeout` seconds (None: for ever), then raises TimeoutError. `interval` is
        the longest pause in seconds between two looks. With `propagate=False` the exception is
        returned. A failure comes back as its own type where that is loaded in this process and is
        an exception class, else as RemoteError. `on_message` and `on_interval` are told of what is
        seen meanwhile, see `result.following`. Other parameters are Celery's and have no effect.
        Raises RuntimeError inside a task, unless `disable_sync_subtasks=False`.
        """
        if self.ignored:
            return cast(R, None)
        if disable_sync_subtasks:
            refuse_to_wait()
        if on_message is not None or on_interval is not None:
            from dbqueue.result.following import follow

            follow(self, timeout=timeout, interval=interval, on_message=on_message, on_interval=on_interval)
        elif not self.wait_briefly(timeout, interval):
            raise TimeoutError
        return self._outcome(propagate, callback)

    wait = get

    def wait_briefly(self, timeout: float | None, interval: float = DEFAULT_INTERVAL_SECONDS) -> bool:
        """Wait for the job to end, for at most `timeout` seconds; whether it has."""
        if not self.is_final:
            record = self.app.database.waiter.wait(self.id, timeout=timeout, interval=interval, sent_at=self.sent_at)
            if record is None:
                return False
            self.take(record)
        return True

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = DEFAULT_INTERVAL_SECONDS,
        *,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """`get` for asynchronous code, and refused inside a task as that is."""
        import asyncio  # costs 20 ms, which synchronous programs need not pay

        if self.ignored:
            return cast(R, None)
        if disable_sync_subtasks:
            refuse_to_wait()
        began = time.monotonic()
        while not await asyncio.to_thread(self.ready):
            waited = time.monotonic() - began
            if timeout is not None and waited >= timeout:
                raise TimeoutError
            pause = min(max(FIRST_PAUSE_SECONDS, waited * SHARE_OF_WAIT), interval)
            await asyncio.sleep(pause if timeout is None else min(pause, max(0.0, timeout - waited)))
        return self._outcome(propagate, None)

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def _outcome(self, propagate: bool, callback: Callable[[str, Any], Any] | None) -> R:
        seen = self.seen()
        state, value = seen.state, seen.result
        if propagate and state in PROPAGATE_STATES:
            error = self._with_cause(value)
            if self.app.conf.task_remote_tracebacks and self.traceback:
                raise error from RemoteTraceback(self.traceback)
            raise error
        if callback is not None:
            callback(self.id, value)
        return cast(R, value)

    def _with_cause(self, error: BaseException) -> BaseException:
        """The error; one of a chord is also what the task in its header raised, as far as the parents are known."""
        if isinstance(error, ChordError):
            cause = first_error_above(self)
            return error if cause is None else with_cause(error, cause)
        return error

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """The value; raises the exception of a job that has failed."""
        return self._outcome(propagate, callback)

    maybe_reraise = maybe_throw

    def then(
        self, callback: Callable[[Any], Any], on_error: Callable[[Any], Any] | None = None, weak: bool = False
    ) -> AsyncResult[R]:
        """Call `callback` with this result when it is known to have succeeded, `on_error` when it has failed.

        At once where that is known, else when the result is next looked at or got.
        """

        def ended(result: AsyncResult[R]) -> None:
            chosen = callback if result.successful() else on_error
            if chosen is not None:
                chosen(result)

        if self.ready():
            ended(self)
        else:
            self._awaiting = (*self._awaiting, ended)
        return self

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | int | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Call off all jobs with these stamps; see `app.control.revoke_by_stamped_headers`."""
        self.app.control.revoke_by_stamped_headers(
            headers,
            terminate=terminate,
            signal=signal or "SIGTERM",
            reply=wait,
            timeout=1.0 if timeout is None else timeout,
        )

    def __copy__(self) -> AsyncResult[R]:
        return AsyncResult(self.id, app=self.app, ignored=self.ignored, parent=self.parent)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __hash__(self) -> int:
        return hash(self.id)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AsyncResult):
            return other.id == self.id
        return other == self.id if isinstance(other, str) else NotImplemented

    def __reduce__(self) -> tuple[Any, ...]:
        return _by_id, (self.id, self.parent)


class _Seen(AsyncResult[R]):
    """A result as its row was when somebody looked."""

    def __init__(self, id: str, record: JobRecord | None, app: DBQueue) -> None:
        super().__init__(id, app=app)
        self._last = record

    def _record(self) -> JobRecord | None:
        return self._last


def _by_id(task_id: str, parent: Any = None) -> AsyncResult[Any]:
    return AsyncResult(task_id, parent=parent)
