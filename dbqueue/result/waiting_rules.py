"""Whether this place may wait for a result: a task may not, for it can wait for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from dbqueue.context import current_request

NEVER_IN_TASK: Final = (
    "Never call result.get() within a task! It can wait for ever for a job that waits for this worker. "
    "Start the second task from the first one's caller, or pass disable_sync_subtasks=False."
)


_may_wait: ContextVar[bool | None] = ContextVar("dbqueue_may_wait_for_results", default=None)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Within this block a task may wait for results, though it can wait for ever."""
    token = _may_wait.set(True)
    try:
        yield
    finally:
        _may_wait.reset(token)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Within this block nothing may wait for results."""
    token = _may_wait.set(False)
    try:
        yield
    finally:
        _may_wait.reset(token)


def refuse_to_wait(*, in_task: bool | None = None) -> None:
    """Raise RuntimeError inside a task (`in_task`, by default what the current request says), unless it is allowed."""
    allowed = _may_wait.get()
    request = current_request.get()
    # A request that a test has pushed (`Task.push_request`) has no job, and nobody waits for its worker.
    within = (request is not None and request._job is not None) if in_task is None else in_task
    if not (not within if allowed is None else allowed):
        raise RuntimeError(NEVER_IN_TASK)
