"""The end of a run whose outcome is written together with what it wrote, rather than by the worker's rounds.

    returned ─► finished (encode, on_success) ─► commit ─┬─ committed ─► told ─► Settled
    Ignore, Replace ─────────────────────────► commit ───┤
    completed by the task, maybe then raised ► commit ───┤ (on_success after it; not committed: as raised)
    raised ─► rollback ─► fail (hooks, signals) ─► Failed | Retried | Released, by the rounds
                                                         └─ LeaseLost | NotCommitted ─► Released: it runs again,
                                                            unless the row is another's for the worker's rounds too

Written once as steps, of which each is run here or awaited on an event loop.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from dbqueue.errors import EncodeError, Ignore, LeaseLost, NotBegun, NotCommitted
from dbqueue.jobs import ClaimedJob, Outcome, Released, Replaced, Settled, Succeeded
from dbqueue.pools.loop_threads import in_thread
from dbqueue.worker import log
from dbqueue.worker.running import telling
from dbqueue.worker.running.ended import Ended, called
from dbqueue.worker.running.lost_runs import LostRun

if TYPE_CHECKING:
    from dbqueue.worker.running.executor import Executor
    from dbqueue.worker.running.runnable import Call


class Unit(Protocol):
    """A transaction in which a job ends; its methods give coroutines where it `is_async`."""

    is_async: bool

    def open(self) -> Any: ...

    def commit(self, outcome: Succeeded | Replaced) -> Any:
        """Commit with the outcome in it: what is left to be said of the job, `Settled` or the outcome itself."""

    def rollback(self, error: BaseException | None = None) -> Any:
        """Undo everything; `error`: what the run has ended in."""


@dataclass(frozen=True, slots=True)
class Transactions:
    """How an application's transactional tasks are run."""

    begin: Callable[[ClaimedJob, bool], Unit]
    """Makes the unit of a run; told whether the task is a coroutine."""
    leave_loop: Callable[[], Coroutine[Any, Any, None]]
    """Closes what such runs have left open on the event loop that is about to end."""
    max_losses: int
    """How often a run of a job may have been lost and the job run again."""


Steps: TypeAlias = Generator[Callable[[], Any], Any, Outcome]


def run(executor: Executor, call: Call, ended: Ended, here: Callable[[Any], Any]) -> Outcome:
    """End the run on this thread."""
    steps = _steps(executor, call, ended)
    done: Ended | None = None
    try:
        while True:
            step = next(steps) if done is None else _go_on(steps, done)
            try:
                done = Ended(here(step()))
            except BaseException as error:  # noqa: BLE001 - the steps know what it means
                done = Ended(None, error)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


async def arun(executor: Executor, call: Call, ended: Ended) -> Outcome:
    """End the run on the event loop: a function's steps in one of the loop's threads."""
    steps = _steps(executor, call, ended)
    done: Ended | None = None
    try:
        while True:
            step = next(steps) if done is None else _go_on(steps, done)
            try:
                if call.request._unit.is_async:
                    done = Ended(await step())
                else:
                    done = await in_thread(partial(called, step))
            except BaseException as error:  # noqa: BLE001
                done = Ended(None, error)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome


def _go_on(steps: Steps, done: Ended) -> Callable[[], Any]:
    return steps.send(done.value) if done.error is None else steps.throw(done.error)


def _steps(executor: Executor, call: Call, ended: Ended) -> Steps:
    unit, job = call.request._unit, call.job
    completed: Succeeded | None = getattr(unit, "outcome", None)
    value = ended.value if completed is None else unit.value
    try:
        outcome = completed if completed is not None and job.lease else _outcome(executor, call, ended, value)
        if isinstance(outcome, (Succeeded, Replaced)):
            settled: Outcome = yield partial(unit.commit, outcome)
            call.request._unit = None
            if outcome is completed:
                _completed(executor, call, ended, value)
            elif ended.error is not None:
                return settled
            return _told(executor, call, value, settled)
        yield unit.rollback
        call.request._unit = None  # what the hooks enqueue now is not to be lost with it
        return executor.failed(call, outcome) if isinstance(outcome, EncodeError) else outcome
    except BaseException as found:  # noqa: BLE001 - of the task, or of the database about what it wrote
        error = found
        if completed is not None and ended.error is not None and not isinstance(ended.error, Ignore):
            error = ended.error  # the task has not committed: its run comes to what it has raised
            log.logger.debug("Job %s is not completed: %s", job.id, found)
        try:
            yield partial(unit.rollback, error)
        except Exception as second:  # noqa: BLE001 - a connection that is broken has nothing to undo
            log.logger.debug("The rollback of job %s failed: %s", job.id, second)
        call.request._unit = None  # what the hooks enqueue now is not to be lost with it
        if isinstance(error, (LeaseLost, NotCommitted)):
            return dropped(executor, call, error)
        return executor.fail(call, error)


def _completed(executor: Executor, call: Call, ended: Ended, value: Any) -> None:
    """The task has committed its success itself: what it raised after that, and what a hook raises, is only logged."""
    executor.see(value)
    if ended.error is not None and type(ended.error) is not Ignore:
        log.failed(call.job, ended.error, expected=False)
    if call.task.has_hooks:
        telling.hook(call, call.task.on_success, value, call.job.id, call.args, call.kwargs)


def _outcome(executor: Executor, call: Call, ended: Ended, value: Any) -> Outcome | EncodeError:
    """What is to be committed, or why the result cannot be stored; raises what is to be rolled back."""
    if ended.error is None:
        outcome = executor.finished(call, value)
        if call.task.has_hooks and isinstance(
            outcome, Succeeded
        ):  # in the transaction: it is part of what is committed
            call.task.on_success(value, call.job.id, call.args, call.kwargs)
        return outcome
    if isinstance(ended.error, Ignore):
        return executor.fail(call, ended.error)
    raise ended.error


def _told(executor: Executor, call: Call, value: Any, outcome: Outcome) -> Outcome:
    """Tell of a success that stands, whatever those who hear of it raise."""
    if not isinstance(outcome, (Succeeded, Settled)):
        return outcome
    try:
        return executor.told(call, value, outcome)
    except BaseException as error:  # noqa: BLE001 - a receiver's or a hook's
        if isinstance(outcome, Succeeded):  # it stands for nothing yet: as in any other task
            return executor.fail(call, error)
        log.failed(call.job, error, expected=False)
        return outcome


def dropped(executor: Executor, call: Call, error: LeaseLost | NotCommitted) -> Outcome:
    """The outcome of a run that has succeeded in vain, or not begun; no hook is told, as of any run that is lost.

    So of one whose task has been told by `dbqueue.complete` that the job is not its own any more.
    """
    job = call.job
    if isinstance(error, NotBegun):
        log.not_begun(job, error)
        return Released(job.id, job.lease, job.ready_at)
    with contextlib.suppress(Exception):  # receivers that free what they took at task_prerun
        executor.after(call, "IGNORED", error, None)
    loss = LostRun(job, 0 if executor.transactions is None else executor.transactions.max_losses)
    # Said over the task's own connection, which may lead elsewhere than the worker's: to a primary of old that has come
    # back, among several hosts. The rounds write an outcome under its lease, where it has one there, and else nothing;
    # without one the row would stay STARTED for as long as this worker lives. Which of both it is, they alone can say.
    missed = None
    if isinstance(error, LeaseLost):
        missed = loss.next_step
        log.logger.debug(
            "Job %s: its transaction is rolled back (%s); its worker looks what becomes of it", job.id, error
        )
    else:
        log.not_committed(job, error, again=loss.again)
    return loss.outcome(f"{error}, and it may not run again", missed=missed)
