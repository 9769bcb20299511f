"""What a job's row becomes where its own task puts it back: by a retry, or by rejecting it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from dbqueue import codec
from dbqueue.codec import json_text, payloads
from dbqueue.context import Context
from dbqueue.errors import PayloadTooLarge, Reject, Retry
from dbqueue.jobs import REJECTIONS, ClaimedJob, Released
from dbqueue.worker import log

if TYPE_CHECKING:
    from dbqueue.signing import Signer

FIRST_REJECT_SECONDS: Final = 0.1
LAST_REJECT_SECONDS: Final = 60.0
"""The pause after `Reject(requeue=True)`: it doubles each time, from the first to the last."""


def rejected(job: ClaimedJob, reason: Reject) -> Released:
    """Back to the queue, as Celery's: the same job for any worker, however often; but never in a hot circle."""
    options = codec.loads(job.options, typed=False) if job.options else {}
    count = int(options.get(REJECTIONS) or 0)
    pause = min(LAST_REJECT_SECONDS, FIRST_REJECT_SECONDS * 2 ** min(count, 30))
    log.rejected(job, reason, pause)
    text = json.dumps({**options, REJECTIONS: count + 1})
    return Released(job.id, job.lease, job.ready_at, delay_seconds=pause, options=text)


def changed_columns(
    job: ClaimedJob, retry: Retry, request: Context, *, max_bytes: int, signer: Signer | None
) -> dict[str, Any]:
    """The columns that the retry changes, in the form in which the row has them."""
    changes = dict(retry.changes)
    if "args" in changes or "kwargs" in changes:
        args, kwargs = changes.pop("args", request.args), changes.pop("kwargs", request.kwargs)
        changes |= payloads.rewritten(job, args, kwargs, max_bytes=max_bytes)
    if "options" in changes:
        kept = codec.loads(job.options, typed=False) if job.options else {}
        text = json_text.encode_text({**kept, **changes["options"]})
        # Each were short enough when they were given.
        if (size := len(text.encode())) > max_bytes:
            raise PayloadTooLarge("the options of the retry", size, max_bytes)
        changes["options"] = text
    if "headers" in changes:
        kept = codec.loads(job.headers) if job.headers else {}
        headers = {**(kept if isinstance(kept, dict) else {}), **changes["headers"]}
        changes["headers"] = codec.dumps(headers, what="the headers of the retry", max_bytes=max_bytes)
    return changes if signer is None else signer.changed(job, changes)
