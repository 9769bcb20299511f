"""How far a running job has got: what `Task.update_state` and `track` say, on its way to the row.

    task ── Progress ──► the child's Reports ── socket ──► the worker's ProgressBoard ──► state, meta

Each step keeps only the latest report of a job, so a task may report as often as it likes: a few a
second are written. A report is lost with the process that made it. It is fenced like an outcome, by
the lease under which the job runs, and the job's end clears it from the row.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Final, TypeVar

from dbqueue import codec
from dbqueue.context import Context, current_request
from dbqueue.jobs import A_NAME, TERMINAL, Progress, is_name
from dbqueue.shown import shown

T = TypeVar("T")

PROGRESS: Final = "PROGRESS"
"""The state that `track` reports: the name that Celery's documentation uses for a custom state."""
TRACK_SECONDS: Final = 0.25
"""Shortest time between two reports of one `track`, which is the pace at which workers write them."""
META_BYTES: Final = 1024
"""Longest meta of `track`: two numbers."""


def checked_state(state: object) -> str | None:
    """A state that a running job may show: any name but those of a job's end. None is STARTED."""
    if state is None:
        return None
    if not is_name(state):
        raise ValueError(f"a state must be {A_NAME}, not {shown(state)}")
    if state in TERMINAL:
        raise ValueError(
            f"{state} is the end of a job, which update_state cannot bring about: return a value, raise an "
            "exception (Reject(requeue=False) fails without a retry), or revoke the job"
        )
    return state


def report(request: Context | None, state: str | None, meta: str | None) -> None:
    """Send the state and the JSON text of its meta on their way; nothing happens outside of a worker's job."""
    if request is not None and request._outlet is not None and request.id is not None:
        send, lease = request._outlet
        send(Progress(request.id, lease, state, meta))


def track(items: Iterable[T], total: int | None = None) -> Iterator[T]:
    """The items, one by one; meanwhile the job that runs here shows how many are done.

    The job's state is PROGRESS and its meta `{"current": items done, "total": total}`, at the
    beginning, at most every TRACK_SECONDS, and when the items end. `total` is `len(items)` where
    they have a length, else None unless given. `dbqueue result ID --follow` shows a bar. Outside
    of a job, and in eager mode, the items are all that happens. Not in Celery.
    """
    request = current_request.get()
    if request is None or request._outlet is None:
        yield from items
        return
    if total is None and isinstance(items, Sized):
        total = len(items)
    current = 0
    _report_count(request, current, total)
    due = time.monotonic() + TRACK_SECONDS
    for item in items:
        yield item
        current += 1
        if time.monotonic() >= due:
            _report_count(request, current, total)
            due = time.monotonic() + TRACK_SECONDS
    _report_count(request, current, total)


def _report_count(request: Context, current: int, total: int | None) -> None:
    meta: dict[str, Any] = {"current": current, "total": total}
    report(request, PROGRESS, codec.dumps(meta, what="the progress", max_bytes=META_BYTES))
