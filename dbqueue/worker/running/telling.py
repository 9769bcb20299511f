"""Telling of a run's end: the outcome stands, whatever those who hear of it raise, as in Celery."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dbqueue import signals
from dbqueue.exception_info import ExceptionInfo
from dbqueue.worker import log

if TYPE_CHECKING:
    from dbqueue.worker.running.runnable import Call


def hook(call: Call, tell: Callable[..., Any], *told: Any) -> None:
    """Call a hook of the task; what it raises is logged, and changes nothing of what came of the run."""
    try:
        tell(*told)
    except BaseException as error:  # noqa: BLE001 - a hook may raise anything at all
        log.hook_failed(call.job, tell.__name__, error)
        internal_error(call, error)


def failure(call: Call, error: BaseException, einfo: ExceptionInfo) -> None:
    """Send `task_failure`."""
    signals.task_failure.send(
        call.task,
        task_id=call.job.id,
        exception=error,
        args=call.args,
        kwargs=call.kwargs,
        traceback=error.__traceback__,
        einfo=einfo,
    )


def internal_error(call: Call, error: BaseException) -> None:
    """Send `task_internal_error`: something beside the task's own body has failed."""
    signals.task_internal_error.send(
        call.task,
        task_id=call.job.id,
        args=call.args,
        kwargs=call.kwargs,
        request=call.request,
        exception=error,
        traceback=error.__traceback__,
        einfo=ExceptionInfo(error),
    )
