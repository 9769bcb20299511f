"""Waiting for a result while a program is told what is seen of it: `get(on_message=..., on_interval=...)`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dbqueue.errors import TimeoutError  # noqa: A004 - Celery's name
from dbqueue.jobs import PENDING

if TYPE_CHECKING:
    from dbqueue.result.single import AsyncResult
    from dbqueue.store.records import JobRecord

LOOK_SECONDS: Final = 0.25
"""The time between two looks: workers write the progress of a job about as often."""


def follow(
    result: AsyncResult[Any],
    *,
    timeout: float | None,
    interval: float,
    on_message: Callable[[dict[str, Any]], Any] | None,
    on_interval: Callable[[], Any] | None,
) -> None:
    """Return when the job has ended. Raises TimeoutError after `timeout` seconds.

    `on_message` gets each state that is seen, in the shape that Celery's backends have (`status`, `result`,
    `traceback`, `children`, `task_id`), the last one too; `on_interval` is called after each look.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    told: JobRecord | None = None
    while True:
        left = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, deadline - time.monotonic())
        ended = result.wait_briefly(max(0.0, left), interval)
        seen = result.seen()
        # By its row: an exception that is made of it anew is another one each time.
        if on_message is not None and seen.row != told and seen.state != PENDING:
            told = seen.row
            on_message(_message(seen))
        if on_interval is not None:
            on_interval()
        if ended:
            return
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError


def _message(seen: AsyncResult[Any]) -> dict[str, Any]:
    return {
        "task_id": seen.id,
        "status": seen.state,
        "result": seen.result,
        "traceback": seen.traceback,
        "children": [],
    }
