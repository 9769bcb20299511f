"""What a worker holds: the jobs that it has claimed, and the outcomes that the database has not answered for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

from dbqueue.jobs import ClaimedJob, Outcome

MAX_OUTCOMES: Final = 1000
"""Most outcomes in one round; the rest wait for the next."""


class Holding:
    """Used by the thread of the rounds; only `outcomes` grows by other threads' hands."""

    def __init__(self) -> None:
        self.worker_id = ""
        """Whose jobs these are: the worker's present identity."""
        self.outcomes: deque[Outcome] = deque()
        self.leases: dict[str, str] = {}
        """The lease of each job that was claimed and whose outcome has not been written."""
        self.linked: set[str] = set()
        """Those of them that other jobs wait for."""

    def take(self, jobs: Iterable[ClaimedJob]) -> None:
        for job in jobs:
            self.leases[job.id] = job.lease
            if job.successors:
                self.linked.add(job.id)

    def next_outcomes(self) -> list[Outcome]:
        """Those of the next round; they stay here until they are `written`."""
        return [self.outcomes[i] for i in range(min(len(self.outcomes), MAX_OUTCOMES))]

    def written(self, outcomes: Iterable[Outcome]) -> None:
        """The database has answered for these, the first that are here."""
        for outcome in outcomes:
            self.outcomes.popleft()
            if self.leases.get(outcome.job_id) == outcome.lease:  # it may have been claimed anew meanwhile
                del self.leases[outcome.job_id]
                self.linked.discard(outcome.job_id)
