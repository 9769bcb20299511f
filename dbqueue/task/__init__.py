"""Tasks: registered functions, and the calls of them that become jobs."""

from __future__ import annotations

import inspect
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Token
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, ParamSpec, TypeVar, Unpack

from dbqueue.bulk import collector_paused
from dbqueue.calls import follows, new_job, retry_terms
from dbqueue.calls.arguments import argument_checker
from dbqueue.calls.batches import arguments_of, new_jobs
from dbqueue.context import Context, current_request
from dbqueue.errors import MaxRetriesExceededError, OperationalError, Retry, TaskPredicate
from dbqueue.limits import Limit
from dbqueue.result import AsyncResult
from dbqueue.retry import backoff_seconds
from dbqueue.task.options import warn_of_unknown
from dbqueue.task.reports import ReportingTask
from dbqueue.task.transactions import TransactionPart

if TYPE_CHECKING:
    from uuid import UUID

    from dbqueue.app import DBQueue
    from dbqueue.bulk import Batch
    from dbqueue.task.eager import EagerResult
    from dbqueue.task.types import CallOptions

P = ParamSpec("P")
R = TypeVar("R")

_NOT_A_JOB = Context()
_pushed: list[Token[Context | None]] = []


class Task(ReportingTask, Generic[P, R]):
    """A task of an application; `@app.task` makes a subclass and its one instance for each function.

    The attributes are options with Celery's names and defaults; `@app.task(name=value)` or a
    subclass sets them. None means: by the setting of the same meaning.
    """

    name: str = ""
    app: DBQueue
    typing: ClassVar[bool] = True
    """Check arguments against the function's signature when a call is sent."""
    max_retries: int | None = 3
    """How often `retry` may run the job again; None: for ever."""
    default_retry_delay: float = 180
    """Seconds before a retry that says nothing else."""
    autoretry_for: tuple[type[BaseException], ...] = ()
    dont_autoretry_for: tuple[type[BaseException], ...] = ()
    retry_kwargs: Mapping[str, Any] = {}
    retry_backoff: bool | int | float = False
    """True or a factor in seconds: the n-th automatic retry waits factor * 2**n."""
    retry_backoff_max: float = 600
    retry_jitter: bool = True
    throws: tuple[type[BaseException], ...] = ()
    """Exceptions that are part of the task's work: logged without a traceback."""
    ignore_result: bool | None = None
    serializer: str | None = None
    compression: str | None = None
    """For arguments in another serializer than JSON."""
    queue: str | None = None
    priority: int | None = None
    expires: float | datetime | None = None
    acks_late: bool | None = None
    """False: a run that dies is never run again (at most once)."""
    reject_on_worker_lost: bool | None = None
    """False: as above, for a run whose process dies."""
    track_started: bool | None = None
    rate_limit: str | float | None = None
    """How many of its jobs each worker may start: `'10/m'`, `'100/s'`, `'1/h'` or a number in a second; 0: all."""
    limit: Limit | None = None
    """How many of its jobs may run, or start in a time, over all workers."""
    time_limit: float | None = None
    soft_time_limit: float | None = None
    unique: bool | str | Callable[..., str | None] | None = None
    """True: no call is enqueued while the same one waits or runs. A text or a function of the arguments: the key."""
    unique_for: float | timedelta | None = None
    """Seconds after the enqueue for which a success, too, stands for further calls."""
    annotated_by: ClassVar[Any] = None
    """The value of `task_annotations` that this task's attributes have been set by."""
    abstract: ClassVar[bool] = True
    bind: ClassVar[bool] = False
    has_hooks: ClassVar[bool] = False
    is_async: ClassVar[bool] = False
    validation: ClassVar[Any] = None
    transactional: bool = False
    """Whether each run has a transaction on the queue's database, in which its job's SUCCESS is committed too."""

    session = TransactionPart()
    """Of a running job with `transactional`: the SQLAlchemy Session of its transaction; AsyncSession in a coroutine."""
    connection = TransactionPart()
    """As `session`: the SQLAlchemy Connection, or AsyncConnection."""

    MaxRetriesExceededError = MaxRetriesExceededError
    OperationalError = OperationalError

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The body of the task; subclasses and `@app.task` give it."""
        raise NotImplementedError("a task must define run()")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function here and now, as a function."""
        result: R = self.run(*args, **kwargs)
        return result

    # sending

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Enqueue a call with these arguments; see `apply_async`."""
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """`delay` for asynchronous code, and for asynchronous connections."""
        return await self.aapply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        connection: Any = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Enqueue a call of this task.

        Options: `countdown` (seconds) or `eta` (datetime; without a zone it is in the setting
        `timezone`): not before; `expires` (seconds or datetime): REVOKED if not started by then;
        `queue`; `priority` (higher runs first); `task_id`; `headers` (a mapping, seen as
        `self.request.headers`); `ignore_result`; `shadow`; `unique` and `unique_for`: if there is
        such a call already, nothing is enqueued and its result is returned; `limit_key`: what it
        counts against, of the limits over all workers; `connection`: join the transaction of this
        SQLAlchemy, psycopg or sqlite3 connection. Celery's other options are accepted.

        Raises TypeError for arguments that do not fit the function, EncodeError for those that
        cannot be stored, OperationalError where the database cannot be reached.
        """
        warn_of_unknown(options)
        if self.app.conf.task_always_eager:
            return self._run_here(args, kwargs, **options)
        if follows(options):
            from dbqueue.canvas import sending

            return sending.send(self.signature(args, kwargs), None, None, options, connection)  # type: ignore[no-any-return]
        job = new_job(self.app.conf, self.name, self, args, kwargs, options)
        (job_id,) = self.app.database.enqueue([job], connection)
        return self.app.sent(job_id, ignored=self._ignores(options))

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        connection: Any = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """`apply_async` for asynchronous code, and for asynchronous connections."""
        warn_of_unknown(options)
        if self.app.conf.task_always_eager:
            import asyncio

            return await asyncio.to_thread(self._run_here, args, kwargs, **options)
        if follows(options):
            from dbqueue.canvas import sending

            return await sending.asend(self.signature(args, kwargs), None, None, options, connection)  # type: ignore[no-any-return]
        job = new_job(self.app.conf, self.name, self, args, kwargs, options)
        (job_id,) = await self.app.database.aenqueue([job], connection)
        return self.app.sent(job_id, ignored=self._ignores(options))

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> EagerResult[R]:
        """Run a call in place, in this process, and wait for it; see `dbqueue.task.eager.apply`."""
        from dbqueue.task import eager

        return eager.apply(self, args, kwargs, **options)

    def _run_here(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """In the place of an enqueue, with `task_always_eager`."""
        from dbqueue.task import eager

        return eager.send(self, args, kwargs, **options)

    def enqueue_many(
        self,
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        connection: Any = None,
        **options: Unpack[CallOptions],
    ) -> list[AsyncResult[R]]:
        """Enqueue many calls of this task in one statement.

        Each call is its positional arguments, or a mapping of its keyword arguments; `options` are
        those of `apply_async`, for all of them. All are enqueued, or none.
        """
        if self.app.conf.task_always_eager:
            return [self._run_here(*arguments_of(call), **options) for call in calls]
        jobs = self._jobs(calls, options)
        return self._sent(self.app.database.enqueue(jobs, connection), options)

    async def aenqueue_many(
        self,
        calls: Iterable[Sequence[Any] | Mapping[str, Any]],
        *,
        connection: Any = None,
        **options: Unpack[CallOptions],
    ) -> list[AsyncResult[R]]:
        """`enqueue_many` for asynchronous code, and for asynchronous connections."""
        if self.app.conf.task_always_eager:
            return [await self.aapply_async(*arguments_of(call), **options) for call in calls]
        jobs = self._jobs(calls, options)
        return self._sent(await self.app.database.aenqueue(jobs, connection), options)

    def _jobs(self, calls: Iterable[Sequence[Any] | Mapping[str, Any]], options: Mapping[str, Any]) -> Batch:
        warn_of_unknown(options)
        # All calls before the first is written: theirs may be a generator that reads from the caller's own connection.
        return new_jobs(self.app.conf, self.name, self, [arguments_of(call) for call in calls], options)

    def _sent(self, ids: Sequence[str], options: Mapping[str, Any]) -> list[AsyncResult[R]]:
        ignored = self._ignores(options)
        with collector_paused():
            return [self.app.sent(job_id, ignored=ignored) for job_id in ids]

    def _ignores(self, options: Mapping[str, Any]) -> bool:
        chosen = options.get("ignore_result")
        return bool(self.ignores_result if chosen is None else chosen)

    def AsyncResult(self, task_id: str | UUID) -> AsyncResult[R]:  # noqa: N802 - Celery's name
        """The result of the call with this id."""
        return self.app.AsyncResult(task_id)

    def check_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise TypeError, in Python's words, for arguments that the function does not take."""
        checker = self._checker
        if checker is not None and self.typing:
            checker(*args, **kwargs)

    @cached_property
    def call_signature(self) -> inspect.Signature:
        """The parameters of the function, without `self`."""
        return inspect.signature(self.run)

    _checker: ClassVar[Callable[..., None] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.has_hooks = any(
            getattr(cls, hook) is not getattr(Task, hook)
            for hook in ("before_start", "on_success", "on_retry", "on_failure", "after_return")
        )
        run = cls.__dict__.get("run")
        if run is not None and cls.typing:
            static = isinstance(run, staticmethod)
            checker = argument_checker(run.__func__ if static else run, skip_first=not static)
            cls._checker = staticmethod(checker) if checker else None

    # running

    @property
    def request(self) -> Context:
        """The call of this task that is running here; an empty one outside of a job."""
        current = current_request.get()
        return current if current is not None and current.task == self.name else _NOT_A_JOB

    def invoke(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self(*args, **kwargs)

    @property
    def ignores_result(self) -> bool:
        return self.app.conf.task_ignore_result if self.ignore_result is None else bool(self.ignore_result)

    def retry(
        self,
        args: Sequence[Any] | BaseException | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Run this job again later: the same row, with one more in `retries`.

        `countdown` in seconds, by default `default_retry_delay`, or `eta`. `args` and `kwargs`
        replace the call's; so do `queue` (or `routing_key`), `priority`, `expires`, `time_limit`,
        `soft_time_limit`, `ignore_result`, `shadow`, `argsrepr` and `kwargsrepr`. `headers` are
        added to the call's, in the place of those of the same names; stamps replace its stamps.

        Raises Retry; with `throw=False` it is returned, and the job runs again when this run has
        ended, however it ends. Once `max_retries` are used up, raises `exc`, or
        MaxRetriesExceededError without one. Called directly, outside of a job, it raises `exc` or
        the exception that is being handled. Raises ValueError for what stays: what follows the
        job (`link`, `link_error`), its ids, serializer, limit and uniqueness.
        """
        warn_of_unknown(options)
        if isinstance(args, BaseException):
            args, exc = None, args  # Celery's guide has it so in places: `self.retry(exc, countdown=10)`
        request = self.request
        if request.called_directly:
            _reraise(exc)
        limit = self.max_retries if max_retries is None else max_retries
        if limit is not None and request.retries >= limit:
            if exc is not None:
                raise exc
            raise MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] args:{tuple(request.args or ())} kwargs:{request.kwargs}",
                task_args=request.args,
                task_kwargs=request.kwargs,
            )
        pause = self.default_retry_delay if countdown is None else countdown
        when, changes = retry_terms(self.app.conf, self, eta=eta, countdown=pause, options=options)
        retry = Retry(exc=exc, when=when)
        retry.is_eager, retry.counted = request.is_eager, True
        given = {"args": args and list(args), "kwargs": kwargs and dict(kwargs)}
        retry.changes = changes | {name: value for name, value in given.items() if value is not None}
        if throw:
            raise retry from exc
        request._retry = retry
        return retry

    def on_bound(self, app: DBQueue) -> None:
        """Runs when the task is registered with an application; for subclasses."""

    def push_request(self, *args: Any, **attributes: Any) -> None:
        """Let `self.request` have these attributes, until `pop_request`: for tests that call a bound task directly."""
        pushed = Context(**{"task": self.name, "args": args, "called_directly": False} | attributes)
        _pushed.append(current_request.set(pushed))

    def pop_request(self) -> None:
        """Undo the last `push_request` of this thread's context."""
        current_request.reset(_pushed.pop())

    def translate(self, error: Exception) -> BaseException:
        """The Retry that is asked for by `autoretry_for` or by the run itself, or the error; used by the worker."""
        if isinstance(error, Retry) and not error.counted:
            return self._counted(error)
        if isinstance(error, TaskPredicate):
            return error
        if self.request._retry is not None:
            return self.request._retry  # type: ignore[no-any-return]
        if (
            not self.autoretry_for
            or not isinstance(error, self.autoretry_for)
            or isinstance(error, self.dont_autoretry_for)
        ):
            return error
        options: dict[str, Any] = dict(self.retry_kwargs)
        if self.retry_backoff:
            options["countdown"] = backoff_seconds(
                self.request.retries,
                factor=float(self.retry_backoff),
                maximum=self.retry_backoff_max,
                jitter=random.random if self.retry_jitter else None,
            )
        try:
            return self.retry(exc=error, throw=False, **options)
        except BaseException as final:  # noqa: BLE001 - the error itself, or MaxRetriesExceededError
            return final

    def _counted(self, error: Retry) -> BaseException:
        """A Retry that the task has made itself, as `retry` makes it: never above `max_retries`, nor at once again."""
        exc = error.exc if isinstance(error.exc, BaseException) else None
        at = {"eta": error.when} if isinstance(error.when, datetime) else {"countdown": error.when}
        try:
            retry = self.retry(exc=exc, throw=False, **at)
        except BaseException as final:  # noqa: BLE001 - as above
            return final
        retry.message = error.message
        return retry

    # hooks, for subclasses; each runs in the process that ran the task

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Runs before the task."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Runs when the task has returned `retval`."""

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Runs when the task is to be retried."""

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Runs when the task has failed for good."""

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Runs after each run of the task, whatever came of it."""

    def __repr__(self) -> str:
        return f"<@task: {self.name} of {self.app.main or '__main__'} at {id(self.app):#x}>"


def _reraise(error: BaseException | None) -> NoReturn:
    raise error or sys.exc_info()[1] or Retry("Task can be retried", None)
