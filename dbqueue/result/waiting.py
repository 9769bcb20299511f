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
LONGEST_SLEEP_SECONDS: Final = 1.0
"""So soon a thread looks up that waits for the question of another: that one may be interrupted, and tell nobody."""


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
        # The lock is taken as it is: between the condition's own steps to it a signal's handler may raise.
        self._lock = threading.RLock()
        self._condition = threading.Condition(self._lock)
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
        counted = False
        try:
            with self._lock:
                self._awaited[job_id] += 1
                counted = True
                self._intervals.append(interval)
                self._newest_at = first_look_at  # from there on the pauses grow
                self._next_look_at = first_look_at
            record = self._wait(job_id, deadline, asked=first_look_at > now)
            if record is not None and sent_at is not None:
                self._head_start.learn(self._took_seconds(record))
            return record
        finally:
            if counted:
                self._go(job_id, interval)

    def _go(self, job_id: str, interval: float) -> None:
        with self._lock:
            self._awaited[job_id] -= 1
            if not self._awaited[job_id]:
                del self._awaited[job_id]
                self._ended.pop(job_id, None)
            if interval in self._intervals:  # not where it was interrupted before
                self._intervals.remove(interval)

    def _wait(self, job_id: str, deadline: float | None, *, asked: bool) -> T | None:
        while True:
            leads, ids = False, list[str]()
            ended: dict[str, T] | None = None
            # Whoever leads must not be taken for leading when it was interrupted, wherever that was: nobody would ask
            # any more.
            try:
                with self._lock:
                    if job_id in self._ended:
                        return self._ended[job_id]
                    left = LONGEST_SLEEP_SECONDS if deadline is None else deadline - time.monotonic()
                    if left <= 0 and asked:
                        return None
                    until_look = self._next_look_at - time.monotonic()
                    if self._leading:
                        self._condition.wait(min(left, LONGEST_SLEEP_SECONDS))
                    elif asked and until_look > 0:  # whoever wakes first looks for all, and nobody before the time
                        self._condition.wait(min(until_look, max(left, 0.0), LONGEST_SLEEP_SECONDS))
                    else:
                        ids = list(self._awaited)
                        self._leading = leads = True
                asked = True
                if leads:
                    ended = self._finished(ids)  # without holding the lock
            finally:
                if leads:
                    self._leading = False
                    self._tell(ended)

    def _tell(self, ended: dict[str, T] | None) -> None:
        """Let everybody have the answer; None where there was none, and the next one asks at once."""
        with self._lock:
            if ended is not None:
                self._ended |= {job_id: record for job_id, record in ended.items() if job_id in self._awaited}
                self._next_look_at = time.monotonic() + self._pause()
            self._condition.notify_all()

    def _pause(self) -> float:
        waited = time.monotonic() - self._newest_at
        return min([max(FIRST_PAUSE_SECONDS, waited * SHARE_OF_WAIT), *self._intervals])
