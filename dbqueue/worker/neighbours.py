"""Whether a worker that is woken leaves the jobs to those beside it for a moment.

A wake-up reaches all workers at once. Where one machine has many more of them than processors, each that joins in takes
the processors from those that work already, and with cold caches: 64 workers on two processors had half the rate of 4.
So one that has no jobs, on a machine whose processors are taken, and beside enough others that were there before it,
holds back: it looks again after a moment, and after a longer one, and joins in once fewer than two threads for each
processor want one. The first ones never do, and of the others one after the other joins in however busy the machine
is: what keeps it busy may be another program, and the first ones may have long jobs.
"""

from __future__ import annotations

import os
import random
import time
from typing import Final

FIRST_PAUSE_SECONDS: Final = 0.02
LONGEST_PAUSE_SECONDS: Final = 1.0
JOIN_EVERY_SECONDS: Final = 0.1
"""How much later than the slot before it each slot joins in at the latest."""
LONGEST_SECONDS: Final = 5.0
"""So long the last one holds back."""


class Neighbours:
    """Of one worker. Where the system does not tell how busy it is, nobody holds back."""

    def __init__(self, processors: int | None = None) -> None:
        """`processors`: those of the whole machine unless told otherwise, as are the threads that want them."""
        self._processors = processors or os.cpu_count() or 1
        self.slots_before = 0
        """Of the workers on this host, and for these queues, that were there before: as the database told last."""
        self._since: float | None = None
        """From when on it holds back, on the monotonic clock; None: it does not."""
        self._looks = 0

    @property
    def holding_back(self) -> bool:
        return self._since is not None

    def woken(self) -> None:
        """There may be jobs, and this worker has none."""
        if self.slots_before >= self._enough:
            self._since, self._looks = time.monotonic(), 0

    def pause(self) -> float:
        """Seconds to hold back yet, before the next call; zero: join in."""
        if self._since is None:
            return 0.0
        place = self.slots_before - self._enough + 1
        rest = self._since + min(place * JOIN_EVERY_SECONDS, LONGEST_SECONDS) - time.monotonic()
        if rest <= 0.0 or waiting_threads() < self._enough:
            self.join_in()
            return 0.0
        pause = min(FIRST_PAUSE_SECONDS * 2.0**self._looks, LONGEST_PAUSE_SECONDS)
        self._looks += 1
        return min(rest, pause * random.uniform(0.7, 1.3))  # those that were woken together do not all look at once

    def join_in(self) -> None:
        self._since = None

    @property
    def _enough(self) -> int:
        """As many slots, or threads, keep all processors busy, while the database has its share of them."""
        return 2 * self._processors


def waiting_threads() -> int:
    """How many threads of the machine run or stand in line for a processor, beside this one; 0 where nobody tells."""
    try:
        with open("/proc/loadavg", "rb") as figures:
            return int(figures.read().split()[3].partition(b"/")[0]) - 1
    except (OSError, IndexError, ValueError):  # not Linux
        return 0
