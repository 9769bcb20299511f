"""How long to wait before trying again."""

from __future__ import annotations

from collections.abc import Callable


def backoff_seconds(retries: int, *, factor: float, maximum: float, jitter: Callable[[], float] | None) -> float:
    """Exponential backoff as Celery's `retry_backoff` has it: `min(maximum, factor * 2**retries)` seconds.

    `jitter` is a source of numbers from 0 to 1: the pause is then drawn evenly from 0 to that time.
    """
    # 2**retries would grow beyond a float long before it is cut off.
    seconds = min(maximum, factor * 2.0 ** min(retries, 64))
    return max(0.0, seconds * jitter() if jitter else seconds)
