"""Running a call in place, in this process: `Task.apply`, and every call with `task_always_eager`.

The same executor runs it that runs it in a worker, so hooks, retries and `self.request` behave alike.
Arguments go through the serializer, which finds what a worker could not be sent; the result and the
exception are the task's own objects (Celery's guide "Testing with Celery" says of eager mode what it
is good for). A retry runs at once, whatever its countdown.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from dbqueue.calls import alone, follows, new_job
from dbqueue.codec import rebuild_exception
from dbqueue.context import Context, current_request
from dbqueue.errors import Ignore, Reject, TaskRevokedError
from dbqueue.jobs import (
    FAILURE,
    REVOKED,
    SUCCESS,
    TERMINAL,
    ClaimedJob,
    Failed,
    NewJob,
    Outcome,
    Released,
    Retried,
    Succeeded,
)
from dbqueue.result.single import AsyncResult
from dbqueue.result.waiting_rules import refuse_to_wait
from dbqueue.services.workers import make_executor
from dbqueue.states import IGNORED, PROPAGATE_STATES, REJECTED

if TYPE_CHECKING:
    from dbqueue.task import Task

R = TypeVar("R")


class EagerResult(AsyncResult[R]):
    """The result of a call that ran in place. No row stands behind it, but with `task_store_eager_result`."""

    def __init__(
        self, id: str, ret_value: Any, state: str, traceback: str | None = None, name: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(id, **kwargs)
        self._value, self._state, self._traceback, self._name = ret_value, state, traceback, name

    reads_row = False

    @property
    def is_final(self) -> bool:
        return True

    @property
    def last_status(self) -> str:
        return self._state

    @property
    def children(self) -> list[Any] | None:
        """None: what it has started has run with it."""
        return None

    @property
    def supports_native_join(self) -> bool:
        return False

    @property
    def state(self) -> str:
        """SUCCESS, FAILURE, IGNORED or REJECTED; REVOKED after `revoke`."""
        return self._state

    status = state

    @property
    def result(self) -> Any:
        """What the task returned, or the exception that it raised: the object itself."""
        return self._value

    info = result

    @property
    def traceback(self) -> str | None:
        return self._traceback

    @property
    def name(self) -> str | None:
        return self._name

    def _record(self) -> None:
        """There is no row: `args`, `worker`, `date_done` and their like are None, as in Celery."""

    def exists(self) -> bool:
        return True

    def ready(self) -> bool:
        """True: it has run."""
        return True

    def _forget_own(self) -> None:
        """Nothing to forget."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Call its state REVOKED, and its result a TaskRevokedError; it has run all the same."""
        self._state, self._value, self._traceback = REVOKED, TaskRevokedError("revoked"), None

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *args: Any,
        disable_sync_subtasks: bool = True,
        **kwargs: Any,
    ) -> R:
        """The value, or the exception raised again; None of a task that raised Ignore or Reject. Never waits.

        Raises RuntimeError inside a task, where a worker's `get` would, unless `disable_sync_subtasks=False`.
        """
        request = current_request.get()
        if disable_sync_subtasks:
            in_job = request is not None and request._job is not None  # not in one that a test has pushed
            eager = request is not None and request.is_eager
            refuse_to_wait(in_task=in_job and (_sent.get() or not eager))
        return self._outcome(propagate, None)

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        *args: Any,
        disable_sync_subtasks: bool = True,
        **kwargs: Any,
    ) -> R:
        return self.get(timeout, propagate, disable_sync_subtasks=disable_sync_subtasks)

    def _outcome(self, propagate: bool, callback: Any) -> R:
        if self._state in PROPAGATE_STATES:
            if propagate:
                raise self._value if isinstance(self._value, BaseException) else TaskRevokedError("revoked")
            return cast(R, self._value)
        return cast(R, self._value if self._state == SUCCESS else None)

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"


_sent: ContextVar[bool] = ContextVar("dbqueue_sent_eagerly", default=False)
"""Whether the task that runs here was sent with `task_always_eager`: as in a worker, it may not wait for results."""


def send(
    task: Task[Any, R], args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
) -> EagerResult[R]:
    """What `delay` and `apply_async` do with `task_always_eager`: as `apply`."""
    token = _sent.set(True)
    try:
        return apply(task, args, kwargs, **options)
    finally:
        _sent.reset(token)


def apply(
    task: Task[Any, R],
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    throw: bool | None = None,
    retries: int = 0,
    **options: Any,
) -> EagerResult[R]:
    """Run a call of the task here and now.

    `throw` raises its exception at once, and Retry where it asks for one; by default the setting
    `task_eager_propagates` decides. Without it a retry runs at once. `retries` is how many there
    were before. Other options are those of `apply_async`; the times among them have no effect.
    """
    app = task.app
    store = app.conf.task_store_eager_result
    new = new_job(app.conf, task.name, task, args, kwargs, alone(options), published=False)
    job = claimed(new)._replace(retries=retries)
    seen: list[Any] = []
    hostname = socket.gethostname()
    executor = make_executor(app, hostname=hostname, eager=True, keep_results=store, observe=seen.append)
    propagates = app.conf.task_eager_propagates if throw is None else throw
    try:
        outcome = executor.run(job)
        while isinstance(outcome, Retried):
            if propagates:
                raise seen[-1]
            job = _again(job, outcome)
            outcome = executor.run(job)
    finally:
        executor.close()
    value, traceback = seen[-1] if seen else None, getattr(outcome, "traceback", None)
    state = _state(outcome, value)
    if store and state in TERMINAL and not _ignored(task, options):
        _store(task, new, outcome, job.retries, hostname)
    if state == FAILURE and not isinstance(value, BaseException):
        assert isinstance(outcome, Failed)  # the result could not be stored
        value = rebuild_exception(outcome.error, traceback)
    result = EagerResult[R](job.id, value, state, traceback, task.name, app=app)
    if follows(options):
        from dbqueue.canvas.eager import run_links

        run_links(app, options, result, Context(id=job.id, task=task.name, args=args, kwargs=kwargs, is_eager=True))
    if state == FAILURE and propagates:
        assert isinstance(value, BaseException)
        raise value
    return result


def _ignored(task: Task[Any, Any], options: Mapping[str, Any]) -> bool:
    chosen = options.get("ignore_result")
    return bool(task.ignores_result if chosen is None else chosen)


def _store(task: Task[Any, Any], job: NewJob, outcome: Outcome, retries: int, hostname: str) -> None:
    from dbqueue.store import changes

    ended = isinstance(outcome, Succeeded)
    changes.record(
        task.app.database.store,
        job,
        status=SUCCESS if ended else FAILURE,
        result=getattr(outcome, "result" if ended else "error"),
        result_content=getattr(outcome, "content", None),
        traceback=getattr(outcome, "traceback", None),
        retries=retries,
        worker=hostname,
    )


def _state(outcome: object, value: object) -> str:
    if isinstance(value, Ignore):
        return IGNORED
    if isinstance(value, Reject) or isinstance(outcome, Released):
        return REJECTED
    return SUCCESS if isinstance(outcome, Succeeded) else FAILURE


def claimed(job: NewJob) -> ClaimedJob:
    """The job as a worker would hold it."""
    return ClaimedJob(
        id=job.id,
        lease="",
        task=job.task,
        queue=job.queue,
        priority=job.priority,
        args=job.args,
        kwargs=job.kwargs,
        headers=job.headers,
        options=job.options,
        content_type=job.content_type,
        content=job.content,
        parent_id=job.parent_id,
        root_id=job.root_id,
        group_id=job.group_id,
        eta=None,
        expires_at=None,
        ready_at="",
        retries=0,
        losses=0,
        redeliver=False,
        expired=False,
    )


_CHANGED: Final = ("args", "kwargs", "content", "queue", "priority", "options", "headers")
"""What a retry may change of its job that a run in place sees."""


def _again(job: ClaimedJob, retry: Retried) -> ClaimedJob:
    changes = {name: getattr(retry, name) for name in _CHANGED}
    given = {name: value for name, value in changes.items() if value is not None}
    return job._replace(retries=job.retries + 1, **given)
