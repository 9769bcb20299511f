"""Every line that the worker logs about a job, in one place, in Celery's words where it has them.

Each record carries `task_id`, `task_name`, `queue` and `attempt` as fields for structured logs.
No text of a row begins a line of its own (`shown.clean`).
Arguments appear at DEBUG only; a result is the task's own word and appears as in Celery, shortened.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from dbqueue.jobs import PENDING, ClaimedJob
from dbqueue.shown import clean
from dbqueue.store.sessions import DELETED

logger: Final = logging.getLogger("dbqueue.worker")
task_logger: Final = logging.getLogger("dbqueue.app.trace")
logger.addFilter(clean)
task_logger.addFilter(clean)

MAX_RESULT_CHARACTERS: Final = 200
MOST_NAMED: Final = 10
"""Of many jobs that something has happened to at once."""


def _fields(job: ClaimedJob) -> dict[str, Any]:
    return {"task_id": job.id, "task_name": job.task, "queue": job.queue, "attempt": job.retries + job.losses + 1}


def received(jobs: Iterable[ClaimedJob]) -> None:
    if not logger.isEnabledFor(logging.INFO):
        return
    for job in jobs:
        logger.info("Task %s[%s] received", job.shown_name, job.id, extra=_fields(job))
        logger.debug("Task %s[%s] args=%s kwargs=%s", job.shown_name, job.id, job.args, job.kwargs, extra=_fields(job))


def succeeded(job: ClaimedJob, seconds: float, value: object) -> None:
    if task_logger.isEnabledFor(logging.INFO):
        task_logger.info(
            "Task %s[%s] succeeded in %.6fs: %s", job.shown_name, job.id, seconds, shortened(value), extra=_fields(job)
        )


def failed(job: ClaimedJob, error: BaseException, *, expected: bool) -> None:
    """A task that raised; `expected` are the classes in its `throws`: a line without a traceback."""
    if expected:
        task_logger.info("Task %s[%s] raised expected: %s", job.shown_name, job.id, printed(error), extra=_fields(job))
        return
    _with_traceback("Task %s[%s] raised unexpected: %s", (job.shown_name, job.id, printed(error)), job, error)


def _with_traceback(message: str, arguments: tuple[object, ...], job: ClaimedJob, error: BaseException) -> None:
    try:
        task_logger.error(message, *arguments, exc_info=error, extra=_fields(job))
    except BaseException:  # noqa: BLE001 - the traceback of an exception whose own attributes raise
        task_logger.error(message, *arguments, extra=_fields(job))  # noqa: TRY400 - it is that which failed


def replaced(job: ClaimedJob, jobs: int) -> None:
    task_logger.info(
        "Task %s[%s] is replaced by a workflow of %d jobs, which ends under its id",
        job.task,
        job.id,
        jobs,
        extra=_fields(job),
    )


def retried(job: ClaimedJob, reason: object) -> None:
    task_logger.info("Task %s[%s] retry: %s", job.shown_name, job.id, printed(reason), extra=_fields(job))


def ignored(job: ClaimedJob) -> None:
    task_logger.info("Task %s[%s] ignored", job.shown_name, job.id, extra=_fields(job))


def given_up(job: ClaimedJob, reason: object) -> None:
    """A task that raised `Reject`, not to run again."""
    task_logger.warning(
        "Task %s[%s] %s; it ends as FAILURE", job.shown_name, job.id, printed(reason), extra=_fields(job)
    )


def hook_failed(job: ClaimedJob, hook: str, error: BaseException) -> None:
    message, arguments = (
        "Task %s[%s]: its %s raised %s; what came of the job stands",
        (job.shown_name, job.id, hook, printed(error)),
    )
    _with_traceback(message, arguments, job, error)


def rejected(job: ClaimedJob, reason: object, pause: float) -> None:
    task_logger.info(
        "Task %s[%s] gave itself back: %s; it runs again after %.3gs",
        job.shown_name,
        job.id,
        printed(reason),
        pause,
        extra=_fields(job),
    )


def unregistered(job: ClaimedJob) -> None:
    task_logger.error(
        "Received unregistered task %r[%s]: no module that this worker imported defines it. It ends as FAILURE "
        "(NotRegistered). Add its module to `include`, or check the task's name for a typing error.",
        job.task,
        job.id,
        extra=_fields(job),
    )


def refused(job: ClaimedJob, error: BaseException) -> None:
    task_logger.error("Task %s[%s] cannot be run: %s", job.shown_name, job.id, error, extra=_fields(job))


def unstorable(job: ClaimedJob, error: BaseException) -> None:
    task_logger.error("Task %s[%s] ran, but its result is lost: %s", job.shown_name, job.id, error, extra=_fields(job))


def copy_ends(job: ClaimedJob) -> None:
    task_logger.warning(
        "Task %s[%s] has forked, and both processes came back from it: the copy ends here, the pool process goes on. "
        "Use multiprocessing or subprocess, or end the new process with os._exit",
        job.shown_name,
        job.id,
        extra=_fields(job),
    )


def discarded(job: ClaimedJob, why: str) -> None:
    """`why` is `revoked` or `expired`."""
    logger.info("Discarding %s task: %s[%s]; it ends as REVOKED", why, job.shown_name, job.id, extra=_fields(job))


def terminated(job: ClaimedJob, signal: str) -> None:
    logger.info("Terminating %s[%s] (%s): it ends as REVOKED", job.shown_name, job.id, signal, extra=_fields(job))


def soft_limit(job: ClaimedJob, seconds: float) -> None:
    logger.warning("Soft time limit (%gs) exceeded for %s[%s]", seconds, job.shown_name, job.id, extra=_fields(job))


def has_waited(job: ClaimedJob) -> None:
    logger.info("%s[%s] had not begun, for its process is busy: its time begins now", job.shown_name, job.id)


def hard_limit(job: ClaimedJob, seconds: float) -> None:
    logger.error(
        "Hard time limit (%gs) exceeded for %s[%s]: its process is ended, and it ends as FAILURE",
        seconds,
        job.shown_name,
        job.id,
        extra=_fields(job),
    )


def hard_limit_in_place(job: ClaimedJob, seconds: float) -> None:
    logger.error(
        "Hard time limit (%gs) exceeded for %s[%s]: the pool solo runs it in the worker itself and cannot end it; it "
        "goes on",
        seconds,
        job.shown_name,
        job.id,
        extra=_fields(job),
    )


def lease_lost(job_id: str, outcome: str, what: str) -> None:
    """An outcome that came too late; `what` says who has the job now."""
    logger.warning("Job %s lost its lease while it ran here: its %s is dropped, %s", job_id, outcome, what)


def let_go(found: Mapping[str, str]) -> None:
    """Jobs that waited for others, and what each is now (see `WorkSession.let_go`)."""
    for job_id, status in sorted(found.items())[:MOST_NAMED]:
        logger.warning(
            "Job %s waited for others that have all ended (were rows changed by hand, or hidden?): %s",
            job_id,
            _NOW.get(status, f"it ends as {status} with them"),
        )
    if len(found) > MOST_NAMED:
        logger.warning("And %d more jobs did", len(found) - MOST_NAMED)


_NOW: Final = {PENDING: "it may run now", DELETED: "it is deleted, for none of them has failed"}


def astray(job_id: str, next_step: str) -> None:
    """A job of which its worker knows nothing."""
    logger.warning(
        "Job %s is STARTED here under a lease that nobody holds (was its row changed?): %s", job_id, next_step
    )


def lease_missed(job_id: str, next_step: str) -> None:
    """The transaction of a run did not find its lease, where the worker's own connection does."""
    logger.warning(
        "Job %s had no lease where its task's own connection led, and has one for the worker (another server, among "
        "several hosts?): what it wrote is rolled back, and %s",
        job_id,
        next_step,
    )


def not_begun(job: ClaimedJob, error: object) -> None:
    logger.error(
        "Task %s[%s]: %s; it has not begun, and is tried again", job.shown_name, job.id, error, extra=_fields(job)
    )


def not_committed(job: ClaimedJob, error: object, *, again: bool) -> None:
    next_step = "it runs again, as after a lost run" if again else "it ends as FAILURE: it may not run again"
    logger.error("Task %s[%s]: %s; %s", job.shown_name, job.id, error, next_step, extra=_fields(job))


def lost(job: ClaimedJob, pid: int, how: str, next_step: str) -> None:
    logger.error(
        "Pool process %s %s while it ran task %s[%s]; %s",
        pid,
        how,
        job.shown_name,
        job.id,
        next_step,
        extra=_fields(job),
    )


def after_loss(*, runs: int, cap: int, again: bool) -> str:
    """What becomes of a job of which so many runs were lost."""
    if again:
        return f"it runs again (loss {runs} of at most {cap})"
    if runs > cap:
        return f"it ends as FAILURE: this is loss {runs}, and task_max_losses is {cap}"
    return "it ends as FAILURE: the task may not run again once it has started"


def locked(job_id: str, number: int, refusal: str) -> None:
    if refusal:
        logger.error(
            "The database refuses to end %d finished jobs (%s, ...), whatever came of them: %s. They are kept and "
            "tried again; all else goes on",
            number,
            job_id,
            refusal,
        )
        return
    logger.warning(
        "Somebody's transaction has locked rows that %d finished jobs (%s, ...) need to be written. They are kept and "
        "tried again until it has ended; all else goes on",
        number,
        job_id,
    )


def unlocked(seconds: float) -> None:
    logger.info("All finished jobs are written that had to wait for their rows: that took %.1f s", seconds)


def shortened(value: object) -> str:
    text = printed(value)
    return text if len(text) <= MAX_RESULT_CHARACTERS else text[: MAX_RESULT_CHARACTERS - 3] + "..."


def printed(value: object) -> str:
    """`repr`, or the type's name where `repr` itself raises: a log line must never fail a job."""
    try:
        return str(value) if type(value).__name__ == "Retry" else repr(value)
    except BaseException as error:  # noqa: BLE001 - whatever a task's own class does
        return f"<unprintable {type(value).__qualname__}: {type(error).__name__} in its __repr__>"
