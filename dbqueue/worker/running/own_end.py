"""The end of a job that its task has written itself: `self.update_state(state="FAILURE", ...)`, then `raise Ignore()`.

Celery's guide "Tasks" shows it, under `Ignore`. Here the row gets that end with the outcome, not before: a job that is
over while its task still runs could be followed, pruned or run again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dbqueue import codec
from dbqueue.errors import EncodeError, TaskRevokedError
from dbqueue.jobs import REVOKED, SUCCESS, Failed, Succeeded

if TYPE_CHECKING:
    from dbqueue.worker.running.runnable import Call


def ignored(call: Call, *, max_bytes: int) -> Succeeded | Failed:
    """What came of a run that raised Ignore: the end that the task chose, or a success without a value."""
    job, seconds = call.job, time.monotonic() - call.started
    if call.request._own_end is None:
        return Succeeded(job.id, job.lease, None, seconds)
    state, meta = call.request._own_end
    try:
        if state == SUCCESS:
            return Succeeded(
                job.id, job.lease, codec.dumps(meta, what="the state's meta", max_bytes=max_bytes), seconds
            )
        error = _error(state, meta, max_bytes)
    except EncodeError as unstorable:
        error, state = codec.describe_exception(unstorable, max_bytes=max_bytes)[0], "FAILURE"
    return Failed(job.id, job.lease, error, None, seconds, state)


def _error(state: str, meta: Any, max_bytes: int) -> str:
    """The meta as an exception: as it is where it describes one in Celery's shape (`exc_type`, `exc_message`)."""
    if isinstance(meta, Mapping) and isinstance(meta.get("exc_type"), str):
        return codec.dumps(dict(meta), what="the state's meta", max_bytes=max_bytes)
    if not isinstance(meta, BaseException):
        arguments = () if meta is None else (meta,)
        meta = TaskRevokedError(*arguments) if state == REVOKED else Exception(*arguments)
    return codec.describe_exception(meta, max_bytes=max_bytes)[0]
