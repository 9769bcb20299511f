"""Waiting for results: one question to the database for all the jobs that a process waits for.

Of the threads that wait, one leads: it asks for all awaited ids in one query and wakes the others.
It asks at once and often at first, then ever more seldom: a wait is never longer than it must be
by more than a tenth, or by the least `interval` of those who wait.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

T = TypeVar("T")

FIRST_PAUSE_SECONDS: Final = 0.00015
SHARE_OF_WAIT: Final = 0.1


class HeadStart:
    """How long after a job's enqueue it is first asked for: about as long as the last ones took.

    A look that comes too early costs the database, and the worker its core, just when they run the
    job; one that comes late is waited for. (A fixed 2.5 ms was half of a round trip on a quick
    machine.) From the return of its enqueue to the visible end, a job takes about as long as the
    database's clock shows between its two rows' times: writing the one costs what writing the other does.
    """

    GUESS_SECONDS: Final = 0.0025
    LONGEST_SECONDS: Final = 0.01
    """A job that takes longer is a slow one, and says nothing about the next."""
    AHEAD_SECONDS: Final = 0.0003
    """A look begins so much earlier: the timer wakes late, and the question has its way to go."""
    WEIGHT: Final = 1 / 8
    """Share of the newest job in the moving average."""

    def __init__(self) -> None:
        self.seconds = self.GUESS_SECONDS

    def learn(self, took_seconds: float) -> None:
        if 0 <= took_seconds <= self.LONGEST_SECONDS:
            self.seconds += self.WEIGHT * (took_seconds - self.AHEAD_SECONDS - self.seconds)


class ResultWaiter(Generic[T]):
    """`finished(ids)` asks the database for the records of those of the jobs that have ended.

    `took_seconds(record)` is the time from a job's enqueue to its end, on the database's clock.
    """

    def __init__(self, finished: Callable[[Sequence[str]], dict[str, T]], took_seconds: Callable[[T], float]) -> None:
        self._finished, self._took_seconds = finished, took_seconds
        self._condition = threading.Condition()
        self._awaited: Counter[str] = Counter()
        self._intervals: list[float] = []
        """Of all who wait: whoever leads looks for them too."""
        self._ended: dict[str, T] = {}
        self._leading = False
        self._newest_at = 0.0
        self._next_look_at = 0.0
        self._head_start = HeadStart()

    def wait(self, job_id: str, *, timeout: float | None, interval: float, sent_at: float | None = None) -> T | None:
        """Wait until the job has ended, for at most `timeout` seconds; its record, None if it has not.

        `sent_at`, on the monotonic clock, is when this process enqueued it, if it did: the first look
        waits for its `HeadStart`.
        """
        now = time.monotonic()
        deadline = None if timeout is None else now + timeout
        first_look_at = now if sent_at is None else max(now, sent_at + self._head_start.seconds)
        if deadline is not None and first_look_at >= deadline:
            first_look_at = now
        with self._condition:
            self._awaited[job_id] += 1
            self._intervals.append(interval)
            self._newest_at = first_look_at  # from there on the pauses grow
            self._next_look_at = first_look_at
            try:
                record = self._wait(job_id, deadline, asked=first_look_at > now)
                if record is not None and sent_at is not None:
                    self._head_start.learn(self._took_seconds(record))
                return record
            finally:
                self._intervals.remove(interval)
                self._awaited[job_id] -= 1
                if not self._awaited[job_id]:
                    del self._awaited[job_id]
                    self._ended.pop(job_id, None)

    def _wait(self, job_id: str, deadline: float | None, *, asked: bool) -> T | None:
        while job_id not in self._ended:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0 and asked:
                return None
            until_look = self._next_look_at - time.monotonic()
            if self._leading:
                asked = True
                self._condition.wait(left)
            elif asked and until_look > 0:  # whoever wakes first looks for all, and nobody before the time
                self._condition.wait(until_look if left is None else min(until_look, max(left, 0.0)))
            else:
                self._lead()
                asked = True
                self._next_look_at = time.monotonic() + self._pause()
        return self._ended[job_id]

    def _lead(self) -> None:
        """Ask for everybody, without holding the lock meanwhile."""
        self._leading = True
        ids = list(self._awaited)
        self._condition.release()
        ended: dict[str, T] = {}
        try:
            ended = self._finished(ids)
        finally:
            self._condition.acquire()
            self._leading = False
            self._ended |= {job_id: record for job_id, record in ended.items() if job_id in self._awaited}
            self._condition.notify_all()

    def _pause(self) -> float:
        waited = time.monotonic() - self._newest_at
        return min(max(FIRST_PAUSE_SECONDS, waited * SHARE_OF_WAIT), *self._intervals)
