"""Claimed jobs on their way from the rounds to the supervisor, and how many more it wants.

What a round has claimed is read only when it is handed over, and that is while the database works on the next
round, where there is one to send at once: neither waits for the other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from dbqueue.jobs import ClaimedJob
from dbqueue.worker.claiming.holding import Holding

MAX_CLAIM: Final = 1000
"""Most jobs in one claim: larger ones save nothing (10 ms for 1,000, on PostgreSQL), and others wait longer for their
locks."""


class Handover:
    """`want` and `take` are the supervisor's, all else is for the thread of the rounds."""

    def __init__(self, holding: Holding, notify: Callable[[], None]) -> None:
        """`notify` tells the supervisor that there are jobs to take."""
        self._holding, self._notify = holding, notify
        self._lock = threading.Lock()
        self._claimed: deque[ClaimedJob] = deque()
        self._wanted = 0
        self.begun = 0
        """How many claims have been sent to the database."""
        self._answered = 0
        self._given = 0
        self.taken = 0
        """So many of the first claims are over, and the supervisor has taken all that they found."""
        self.fresh: list[Sequence[ClaimedJob]] = []
        """Claimed, and not handed over yet."""

    def want(self, count: int) -> bool:
        """How many jobs the supervisor can take, beyond those that `take` has given it; whether these are more."""
        with self._lock:
            more, self._wanted = count > self._wanted, count
        return more

    def take(self) -> list[ClaimedJob]:
        """What was handed over since the last call."""
        with self._lock:
            jobs = list(self._claimed)
            self._claimed.clear()
            # What is left of it holds until the supervisor has counted these. With none left, the next `want` would be
            # for more, and ring the bell, at each of its turns.
            self._wanted = max(0, self._wanted - len(jobs))
            self.taken = self._given
        return jobs

    @property
    def room(self) -> int:
        """How many jobs to claim now: as many more as the supervisor can take, but no more than one claim may."""
        with self._lock:
            return min(MAX_CLAIM, self._wanted - len(self._claimed) - sum(map(len, self.fresh)))

    @property
    def is_claiming(self) -> bool:
        """Whether a claim was sent of which nothing is known yet."""
        return self.begun != self._answered

    def claim_begins(self) -> None:
        """The next claim is about to be sent."""
        self.begun += 1

    def claim_ended(self) -> None:
        """What the claims until now have found is about to be added; what else they took has gone back."""
        self._answered = self.begun

    def add(self, jobs: Sequence[ClaimedJob]) -> None:
        """These are claimed: the next `give` hands them over."""
        if jobs:
            self._holding.take(jobs)
            self.fresh.append(jobs)

    def give(self) -> None:
        """Let the supervisor have what was claimed, if anything was."""
        if self.fresh:
            self._holding.note()  # before any of them can end
            with self._lock:
                for jobs in self.fresh:
                    self._claimed.extend(jobs)
                self._given = self._answered
            self.fresh.clear()
            self._notify()
        else:
            self._given = self._answered
