"""Whether a worker that is woken leaves the jobs to those beside it for a moment.

A wake-up reaches all workers at once. Where one machine has many more of them than processors, each that joins in takes
the processors from those that work already, and with cold caches: 64 workers on two processors had half the rate of 4.
So one that has no jobs, on a machine whose processors are taken, and beside enough others that were there before it,
holds back: it looks again after a moment, and after a longer one, and joins in once processors have been idle between
two looks. The first ones never do, and of the others one after the other joins in however busy the machine
is: what keeps it busy may be another program, and the first ones may have long jobs. That goes slowly while the first
ones are at work on many short jobs, which is seen from the processor time of their own processes (not of those that run
the jobs): there each that joins in costs more than it does. One that has joined in, or found jobs before the others,
steps back again where it sees that.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Iterable
from typing import Final

from dbqueue.store.records import WorkersBefore

FIRST_PAUSE_SECONDS: Final = 0.1
MOST_DOUBLINGS: Final = 10
"""Of that pause: after a thousand looks the power of two would be no number."""
LONGEST_PAUSE_SECONDS: Final = 1.0
JOIN_EVERY_SECONDS: Final = 0.1
"""How much later than the slot before it each slot joins in at the latest."""
LONGEST_SECONDS: Final = 5.0
"""So long the last one holds back."""
IDLE_SHARE: Final = 0.1
"""Of the processors' time: with so much to spare they are free."""
STEP_BACK_SECONDS: Final = 0.5
"""So long one that works beside enough others looks at the machine, before it steps back."""
SHORT_JOBS_FACTOR: Final = 100.0
"""So much longer does all that take while the first ones are at work on many short jobs."""
SHORT_JOBS_SHARE: Final = 0.1
"""Of one processor: what their processes take then, all together, at the least. Half of one is what those of four
workers on two processors take with no-op jobs."""
_TICK: Final = 1.0 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


class Neighbours:
    """Of one worker. Where the system does not tell how busy it is, nobody holds back."""

    def __init__(self, processors: int | None = None) -> None:
        """`processors`: those of the whole machine unless told otherwise, as are the threads that want them."""
        self._processors = processors or os.cpu_count() or 1
        self.before = WorkersBefore()
        """As the database told last."""
        self._since: float | None = None
        """From when on it holds back, on the monotonic clock; None: it does not."""
        self._looks = 0
        self._looked_at, self._idle_then = 0.0, 0.0
        """When it looked last, and how long processors had been idle until then."""
        self._watched_from: float | None = None
        """From when on it watches the machine, and the first ones' processes."""
        self._first_ones: tuple[int, ...] = ()
        """The first processes of those before, when it began to watch: another may have taken much before that."""
        self._at_first = 0.0
        """Seconds of processor time that they had taken then."""

    @property
    def holding_back(self) -> bool:
        return self._since is not None

    def woken(self) -> None:
        """There may be jobs, and this worker has none."""
        if self.before.slots >= self._enough:
            self._since, self._looks = time.monotonic(), 0

    def pause(self) -> float:
        """Seconds to hold back yet, before the next call; zero: join in, or go on."""
        now = time.monotonic()
        if self._since is None:
            if not self._is_too_many(now):
                return 0.0
            self._since, self._looks = now, 1
            self._begin_to_watch(now)
        elif not self._looks:
            if waiting_threads() < self._processors:
                return self.join_in()
            self._begin_to_watch(now)
        elif self._was_idle(now):
            return self.join_in()
        waited = now - self._since
        longest = min((self.before.slots - self._enough + 1) * JOIN_EVERY_SECONDS, LONGEST_SECONDS)
        if _is_over(longest - waited) and self._short_jobs(waited):
            longest *= SHORT_JOBS_FACTOR
        if _is_over(longest - waited):
            return self.join_in()
        pause = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._looks, MOST_DOUBLINGS), LONGEST_PAUSE_SECONDS)
        self._looks += 1
        # Those that were woken together do not all look at once.
        return min(longest - waited, pause * random.uniform(0.7, 1.3))

    def join_in(self) -> float:
        """Now."""
        self._since = self._watched_from = None
        return 0.0

    def _is_too_many(self, now: float) -> bool:
        """Whether one that works had better not: processors are taken, and the first ones have many short jobs."""
        if self.before.slots < self._enough:
            return False
        if self._watched_from is not None:
            watched = now - self._watched_from
            if watched < STEP_BACK_SECONDS:
                return False
            if not self._was_idle(now) and self._short_jobs(watched):
                return True
        self._begin_to_watch(now)
        return False

    def _begin_to_watch(self, now: float) -> None:
        self._watched_from = self._looked_at = now
        self._idle_then = idle_seconds()
        self._first_ones = self.before.pids[: self._enough]
        self._at_first = seconds_of(self._first_ones)

    def _was_idle(self, now: float) -> bool:
        """Whether some of the processors have had nothing to do since the last look.

        How many threads want one changes from moment to moment: with many looks of many workers some would see few.
        """
        idle, then, since = idle_seconds(), self._idle_then, self._looked_at
        self._idle_then, self._looked_at = idle, now
        return idle == math.inf or idle - then >= IDLE_SHARE * self._processors * (now - since) + _TICK

    def _short_jobs(self, seconds: float) -> bool:
        """Whether the first ones have been at work on many short jobs, for so long."""
        return seconds_of(self._first_ones) - self._at_first >= SHORT_JOBS_SHARE * seconds

    @property
    def _enough(self) -> int:
        """As many slots, or threads, keep all processors busy, while the database has its share of them."""
        return 2 * self._processors


def _is_over(seconds: float) -> bool:
    """Whether nothing of it is left but what rounding leaves: a pause of that is none."""
    return seconds < 0.001


def waiting_threads() -> int:
    """How many threads of the machine run or stand in line for a processor, beside this one; 0 where nobody tells."""
    try:
        with open("/proc/loadavg", "rb", buffering=0) as figures:
            return int(figures.read().split()[3].partition(b"/")[0]) - 1
    except (OSError, IndexError, ValueError):  # not Linux
        return 0


def idle_seconds() -> float:
    """How long the machine's processors have been idle, all together; without end where nobody tells."""
    try:
        with open("/proc/uptime", "rb", buffering=0) as figures:
            return float(figures.read().split()[1])
    except (OSError, IndexError, ValueError):
        return math.inf


def seconds_of(pids: Iterable[int]) -> float:
    """The processor time that these processes have taken; of one that nobody knows of, none."""
    ticks = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb", buffering=0) as figures:
                fields = figures.read().rpartition(b")")[2].split()  # a name may hold anything
            ticks += int(fields[11]) + int(fields[12])
        except (OSError, IndexError, ValueError):  # it has ended, or is hidden from this one
            continue
    return ticks * _TICK
