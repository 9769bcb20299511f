"""The worker's own rates: Celery's `rate_limit`, for each task and in each worker for itself.

A job of a task that has no tokens is not kept here: it is parked, once, among the jobs that wait for
permits, under a key of its task. From there every worker draws as many as its tokens allow; one
without a rate for the task draws without.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from dbqueue.jobs import ClaimedJob
from dbqueue.limits import Rate


class TaskRates:
    """Changed by the loop, used by the thread of the rounds."""

    def __init__(self, by_task: Mapping[str, Rate], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = dict(by_task)
        self._full_at: dict[str, float] = {}
        self._clock, self._lock = clock, threading.Lock()

    def set(self, task: str, rate: Rate | None) -> None:
        """Let the task have this rate from now on; None is no limit."""
        with self._lock:
            self._full_at.pop(task, None)
            if rate is None:
                self._rates.pop(task, None)
            else:
                self._rates[task] = rate

    def __contains__(self, task: str) -> bool:
        return task in self._rates

    def __bool__(self) -> bool:
        return bool(self._rates)

    def take(self, task: str) -> bool:
        """Take one token; False where there is none, True also for a task without a rate."""
        with self._lock:
            rate, now = self._rates.get(task), self._clock()
            if rate is None:
                return True
            if rate.tokens(self._full_at.get(task), now) < 1:
                return False
            self._full_at[task] = rate.spend(self._full_at.get(task), now, 1)
            return True

    def tokens(self) -> dict[str, int]:
        """How many jobs of each task may start now."""
        with self._lock:
            now = self._clock()
            return {task: rate.tokens(self._full_at.get(task), now) for task, rate in self._rates.items()}

    def spend(self, jobs: Iterable[ClaimedJob]) -> None:
        """Take the tokens of these jobs, which have started."""
        with self._lock:
            now = self._clock()
            for task, count in Counter(job.task for job in jobs if job.task in self._rates).items():
                self._full_at[task] = self._rates[task].spend(self._full_at.get(task), now, count)

    def wait(self, tasks: Iterable[str]) -> float | None:
        """Seconds until one of these tasks has a token; None where none of them has a rate."""
        with self._lock:
            now = self._clock()
            waits = [self._rates[task].wait(self._full_at.get(task), now) for task in tasks if task in self._rates]
            return min(waits, default=None)
