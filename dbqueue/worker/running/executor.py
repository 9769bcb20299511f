"""Runs one job and says what came of it: an outcome, never an exception, and no database.

    ClaimedJob ── begin ──► Call ── the task runs ──► succeed | fail ──► Outcome
                    └─ a row that is no call of a known task ──► Failed

`run` is for pools whose slots are threads, `run_async` for the event loop; both share every step
but the call itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dbqueue import codec, failpoints, signals
from dbqueue.codec import payloads
from dbqueue.context import current_request
from dbqueue.errors import (
    EncodeError,
    Ignore,
    LeaseLost,
    Reject,
    ReplaceTask,
    Retry,
)
from dbqueue.exception_info import ExceptionInfo
from dbqueue.jobs import (
    FAILURE,
    RETRY,
    SUCCESS,
    ClaimedJob,
    Failed,
    Outcome,
    Progress,
    Released,
    Replaced,
    Retried,
    Settled,
    Succeeded,
)
from dbqueue.pools.interrupts import Interruptible, Steps
from dbqueue.pools.loop_threads import in_thread
from dbqueue.worker import log
from dbqueue.worker.running import own_end, telling, transacting
from dbqueue.worker.running.beginning import begin
from dbqueue.worker.running.ended import Ended, OneAnswer, awaited, hide_own_frames, invoked
from dbqueue.worker.running.going_back import changed_columns, rejected
from dbqueue.worker.running.own_loop import OwnLoop
from dbqueue.worker.running.runnable import Call, Runnable

if TYPE_CHECKING:
    from dbqueue.signing import Signer

IGNORED: Final = "IGNORED"
REJECTED: Final = "REJECTED"
"""Celery's states of runs that asked for no outcome, as the signal task_postrun tells them."""


@dataclass(frozen=True, slots=True)
class ExecutorOptions:
    """Settings that shape every run."""

    hostname: str
    accept_content: Collection[str]
    max_payload_bytes: int
    result_accept_content: Collection[str] | None = None
    """For results of other jobs among the arguments; None: as `accept_content`."""
    result_serializer: codec.Serializer = codec.SERIALIZERS["json"]
    result_compression: str | None = None
    """For results in another serializer than JSON."""
    localise: Callable[[datetime], datetime] = lambda moment: moment
    """A time as the task is to see it, in the application's time zone."""
    eager: bool = False
    """Whether jobs run in the process that called them (`request.is_eager`)."""
    keep_results: bool = True
    """Whether anybody reads the JSON of results; without it they need not be fit for it."""
    signer: Signer | None = None
    """What verifies jobs before anything of them is read."""
    transactions: transacting.Transactions | None = None
    """For transactional tasks; without it they are run as others."""
    observe: Callable[[Any], None] | None = None
    """Called with what each run returned or raised: the object itself."""

    @property
    def accept_results(self) -> Collection[str]:
        return self.accept_content if self.result_accept_content is None else self.result_accept_content


_DATA: Final = frozenset({type(None), bool, int, float, str, list, dict, tuple})
"""What most tasks return; to ask whether it is awaitable takes a microsecond."""


def _is_to_be_awaited(value: Any) -> bool:
    """Not so the result of another job, which is data where a task returns it: the run would wait for that job."""
    return type(value) not in _DATA and inspect.isawaitable(value) and not hasattr(value, "__json__")


NOT_BEGUN_SECONDS: Final = 1.0
"""Before a job goes back that lacks something, a transaction or an event loop: it may come again at once."""


class Executor:
    """Runs jobs of the tasks that `resolve` knows, by their registered names."""

    def __init__(self, resolve: Callable[[str], Runnable | None], options: ExecutorOptions) -> None:
        self.resolve, self.options = resolve, options
        self.transactions = options.transactions
        self.loop = OwnLoop(None if options.transactions is None else options.transactions.leave_loop)
        self.report: Callable[[Progress], None] | None = None
        """Takes what running jobs say of their progress; None where nobody listens (eager mode)."""
        self.retire: Callable[[str], None] | None = None
        """Asks for another process in this one's place; None where there is none."""

    def run(self, job: ClaimedJob) -> Outcome:
        """Run the job on this thread; an `async def` task runs on the thread's own event loop."""
        call = begin(self, job, on_own_loop=True)
        if not isinstance(call, Call):
            if isinstance(call, Released):
                time.sleep(NOT_BEGUN_SECONDS)
            return call
        token = current_request.set(call.request)
        try:
            with OneAnswer(job, self.options.eager), Interruptible(job.id):
                if call.request._unit is not None:
                    self._here(call.request._unit.open())
                self._before(call)
                failpoints.hit("start.before")
                value = call.task.invoke(call.args, call.kwargs)
                if _is_to_be_awaited(value):
                    steps = Steps(job.id, value)
                    value = self.loop.run(awaited(steps), contextvars.copy_context()).get()
            if call.request._retry is not None:
                raise call.request._retry
            failpoints.hit("run.after")
            if call.request._unit is not None:
                return transacting.run(self, call, Ended(value), self._here)
            return self.succeed(call, value)
        except BaseException as error:  # noqa: BLE001 - a task may raise anything at all
            if call.request._unit is not None:
                return transacting.run(self, call, Ended(None, error), self._here)
            return self.fail(call, error)
        finally:
            current_request.reset(token)

    async def run_async(self, job: ClaimedJob) -> Outcome:
        """Run the job on the running event loop; a plain function runs in one of the loop's threads."""
        call = begin(self, job, on_own_loop=False)
        if not isinstance(call, Call):
            if isinstance(call, Released):
                await asyncio.sleep(NOT_BEGUN_SECONDS)
            return call
        token = current_request.set(call.request)
        try:
            with OneAnswer(job, self.options.eager), Interruptible(job.id, asyncio.current_task()):
                if call.request._unit is not None and call.request._unit.is_async:
                    await call.request._unit.open()
                self._before(call)
                failpoints.hit("start.before")
                if call.task.is_async:
                    value = await Steps(job.id, call.task.invoke(call.args, call.kwargs))
                else:
                    once = OneAnswer(job, self.options.eager)
                    value = (await in_thread(partial(invoked, call.task, call.args, call.kwargs, once, job.id))).get()
                    if _is_to_be_awaited(value):
                        value = await Steps(job.id, value)
            if call.request._retry is not None:
                raise call.request._retry
            failpoints.hit("run.after")
            if call.request._unit is not None:
                return await transacting.arun(self, call, Ended(value))
            return self.succeed(call, value)
        except BaseException as error:  # noqa: BLE001
            if call.request._unit is not None:
                return await transacting.arun(self, call, Ended(None, error))
            return self.fail(call, error)
        finally:
            current_request.reset(token)

    # the steps

    def _before(self, call: Call) -> None:
        task, job = call.task, call.job
        signals.task_prerun.send(task, task_id=job.id, task=task, args=call.args, kwargs=call.kwargs)
        if task.has_hooks:
            task.before_start(job.id, call.args, call.kwargs)

    def after(self, call: Call, state: str, value: Any, error: BaseException | None) -> None:
        """The hook and the signal that end a run; there is no hook where it is to be run again, as in Celery."""
        task, job = call.task, call.job
        if task.has_hooks and state not in (RETRY, IGNORED, REJECTED):
            einfo = None if error is None else ExceptionInfo(error)
            telling.hook(call, task.after_return, state, value, job.id, call.args, call.kwargs, einfo)
        signals.task_postrun.send(
            task, task_id=job.id, task=task, args=call.args, kwargs=call.kwargs, retval=value, state=state
        )

    def succeed(self, call: Call, value: Any) -> Outcome:
        outcome = self.finished(call, value)
        if isinstance(outcome, EncodeError):
            return self.failed(call, outcome)
        if call.task.has_hooks:
            telling.hook(call, call.task.on_success, value, call.job.id, call.args, call.kwargs)
        return self.told(call, value, outcome)

    def finished(self, call: Call, value: Any) -> Succeeded | EncodeError:
        """The success of a task that returned this, or why its value cannot be stored."""
        job = call.job
        self.see(value)
        result, content = None, None
        # As in Celery, a job that another one waits for gives it what it returned, ignored or not.
        if self.options.keep_results and (job.successors or not call.request.ignore_result):
            options = self.options
            try:
                result, content = payloads.written_result(
                    value,
                    options.result_serializer,
                    what=f"the result of {job.task}",
                    max_bytes=options.max_payload_bytes,
                    compression=options.result_compression,
                )
            except EncodeError as error:
                log.unstorable(job, error)
                return error
        return Succeeded(job.id, job.lease, result, time.monotonic() - call.started, content)

    def told(self, call: Call, value: Any, outcome: Succeeded | Settled) -> Succeeded | Settled:
        """The outcome, when signals, hook and log have told of the success."""
        signals.task_success.send(call.task, result=value, runtime=outcome.seconds)
        self.after(call, SUCCESS, value, None)
        log.succeeded(call.job, outcome.seconds, value)
        return outcome

    def fail(self, call: Call, error: BaseException) -> Outcome:
        """The outcome of an exception, when signals and hooks have told of it."""
        if isinstance(error, LeaseLost) and call.job.lease:
            return transacting.dropped(self, call, error)
        try:
            hide_own_frames(error)
            meaning = call.task.translate(error) if isinstance(error, Exception) else error
            self.see(meaning)
            return self._predicate(call, meaning) or self._raised(call, meaning)
        except BaseException as second:  # noqa: BLE001
            self.see(second)
            log.failed(call.job, second, expected=False)
            telling.internal_error(call, second)
            return self.failure(call.job, second, call.started)

    def see(self, what: Any) -> None:
        """Show it to whoever looks on: what a task returned or raised."""
        if self.options.observe is not None:
            self.options.observe(what)

    def _predicate(self, call: Call, error: BaseException) -> Outcome | None:
        """What a task asked for by raising Retry, Ignore or Reject; None for any other exception."""
        job = call.job
        match error:
            case Retry():
                return self._retry(call, error)
            case ReplaceTask():
                log.replaced(job, len(error.workflow.jobs))
                return Replaced(job.id, job.lease, error.workflow, time.monotonic() - call.started)
            case Ignore():
                log.ignored(job)
                self.after(call, IGNORED, error, None)
                return own_end.ignored(call, max_bytes=self.options.max_payload_bytes)
            case Reject(requeue=True):
                self.after(call, REJECTED, error, None)
                return rejected(job, error)
            case Reject():
                log.given_up(job, error)
                telling.failure(call, error, ExceptionInfo(error))
                self.after(call, REJECTED, error, None)
                return self.failure(job, error, call.started)
        return None

    def _raised(self, call: Call, error: BaseException) -> Outcome:
        log.failed(call.job, error, expected=isinstance(error, call.task.throws))
        return self.failed(call, error)

    def failed(self, call: Call, error: BaseException) -> Failed:
        """The failure of a run for this reason, when hooks and signals have told of it."""
        job, task = call.job, call.task
        einfo = ExceptionInfo(error)
        if task.has_hooks:
            telling.hook(call, task.on_failure, error, job.id, call.args, call.kwargs, einfo)
        telling.failure(call, error, einfo)
        self.after(call, FAILURE, error, error)
        return self.failure(job, error, call.started)

    def _retry(self, call: Call, retry: Retry) -> Outcome:
        job, task = call.job, call.task
        cause = retry.exc if isinstance(retry.exc, BaseException) else retry
        error, traceback = codec.describe_exception(cause, max_bytes=self.options.max_payload_bytes)
        if traceback is None:  # `exc` was raised nowhere: that of the retry tells where it was asked for
            cause, (_, traceback) = retry, codec.describe_exception(retry, max_bytes=self.options.max_payload_bytes)
        log.retried(job, retry)
        einfo = ExceptionInfo(retry, cause)
        if task.has_hooks:
            telling.hook(call, task.on_retry, retry.exc, job.id, call.args, call.kwargs, einfo)
        signals.task_retry.send(task, request=call.request, reason=retry, einfo=einfo)
        self.after(call, RETRY, retry, retry)
        options = self.options
        changes = changed_columns(job, retry, call.request, max_bytes=options.max_payload_bytes, signer=options.signer)
        eta = retry.when.isoformat() if isinstance(retry.when, datetime) else None
        delay = 0.0 if eta or retry.when is None else float(retry.when)  # type: ignore[arg-type]
        seconds = time.monotonic() - call.started
        return Retried(job.id, job.lease, error, traceback, seconds, delay, eta, **changes)

    def failure(self, job: ClaimedJob, error: BaseException, started: float) -> Failed:
        text, traceback = codec.describe_exception(error, max_bytes=self.options.max_payload_bytes)
        return Failed(job.id, job.lease, text, traceback, time.monotonic() - started)

    def close(self) -> None:
        """End this thread's event loop, if there is one."""
        self.loop.close()

    def _here(self, step: Any) -> Any:
        """What a step of a run's transaction gives: on this thread, or on its event loop where it is a coroutine."""
        return self.loop.run(step) if inspect.iscoroutine(step) else step
