"""What becomes of the jobs of a child that is dead: the one it ran was lost, the others were not begun."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from dbqueue import signals
from dbqueue.codec import rebuild_exception
from dbqueue.exception_info import ExceptionInfo
from dbqueue.jobs import ClaimedJob, Failed, Outcome, Released
from dbqueue.worker import log
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.running.lost_runs import LostRun, failed
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.crew import Crew
from dbqueue.worker.supervising.dispatch import Dispatcher
from dbqueue.worker.supervising.revoker import request_of


class Losses:
    """Used by the loop."""

    def __init__(self, config: WorkerConfig, dispatcher: Dispatcher, complete: Callable[..., None]) -> None:
        self._config, self._dispatcher, self._complete = config, dispatcher, complete

    def settle(self, child: Child, how: str, *, own: bool) -> None:
        """See to the jobs of a child that is dead, in these words.

        `own`: this worker ended it itself, so that its run does not count against the job.
        """
        running = child.running
        self._dispatcher.put_back(list(child.held.values())[len(running) :])
        for job in running:
            self._complete(killed(job) if own else self._lost(child, job, how), job=job)
        if not running and not child.stopping and not own:
            log.logger.error("Pool process %s %s; it ran no task. Another takes its place.", child.pid, how)
        child.held.clear()

    def count_all(self, crew: Crew, ended_before: Collection[Child]) -> None:
        """All pool processes have ended with the one that starts them, and been heard: what ran there is lost.

        One of these tasks may be what ends it. Were that not counted, its job would end worker after worker.
        """
        for child in crew:
            if child.running and child not in ended_before:
                self.settle(child, "ended with the process that starts pool processes", own=False)

    def _lost(self, child: Child, job: ClaimedJob, how: str) -> Outcome:
        loss = LostRun(job, self._config.max_losses)
        log.lost(job, child.pid or 0, how, loss.next_step)
        return loss.outcome(f"Worker {how} while it ran task {job.task}[{job.id}]")


def killed(job: ClaimedJob) -> Outcome:
    """A run that this worker ended itself does not count against the job, if it may run again at all."""
    if job.redeliver:
        return Released(job.id, job.lease, job.ready_at, ended=True)
    # Which of the two it was, the worker's log says.
    ended = f"the worker ended its run of task {job.task}[{job.id}], because it was shut down or its lease was over"
    return failed(job, f"{ended}, and the job may not run again")


def tell_failure(app: Any, job: ClaimedJob, outcome: Failed) -> None:
    """The signal of a failure whose process is gone: sent in the worker's main process, as in Celery."""
    if signals.task_failure.has_listeners():
        error, request = rebuild_exception(outcome.error, outcome.traceback), request_of(job)
        signals.task_failure.send(
            (app.tasks.get(job.task) if app is not None else None) or job.task,
            task_id=job.id,
            exception=error,
            args=request.args,
            kwargs=request.kwargs,
            traceback=None,
            einfo=ExceptionInfo(error),
        )
