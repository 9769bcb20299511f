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
        self.linked: set[str] = set()
        """Those that other jobs wait for, among the jobs that were noted and whose outcomes have not been written."""
        self._leases: dict[str, str] = {}
        self._taken: list[Iterable[ClaimedJob]] = []

    def take(self, jobs: Iterable[ClaimedJob]) -> None:
        """These were claimed; `note` must follow before any of them can end."""
        self._taken.append(jobs)

    def note(self) -> None:
        """Look at the jobs that were taken."""
        while self._taken:
            for job in self._taken.pop(0):
                self._leases[job.id] = job.lease
                if job.successors:
                    self.linked.add(job.id)

    @property
    def leases(self) -> dict[str, str]:
        """The lease of each job that was claimed and whose outcome has not been written."""
        if self._taken:
            self.note()
        return self._leases

    def forget(self, job_ids: Iterable[str]) -> None:
        """The leases of these are void."""
        for job_id in job_ids:
            del self._leases[job_id]
            self.linked.discard(job_id)

    def next_outcomes(self, after: int = 0) -> list[Outcome]:
        """Those of the next round, which stay here until they are `written`; `after` so many of a round before it."""
        return [self.outcomes[place] for place in range(after, min(len(self.outcomes), after + MAX_OUTCOMES))]

    def written(self, outcomes: Iterable[Outcome]) -> None:
        """The database has answered for these, the first that are here."""
        leases = self.leases
        for outcome in outcomes:
            self.outcomes.popleft()
            if leases.get(outcome.job_id) == outcome.lease:  # it may have been claimed anew meanwhile
                del leases[outcome.job_id]
                self.linked.discard(outcome.job_id)
