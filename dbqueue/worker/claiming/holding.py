"""What a worker holds: the jobs that it has claimed, and the outcomes that the database has not answered for."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from typing import Final

from dbqueue.jobs import ClaimedJob, Outcome
from dbqueue.store.records import Round
from dbqueue.worker.claiming.absent import Absent
from dbqueue.worker.claiming.aside import Aside

MAX_OUTCOMES: Final = 1000
"""Most outcomes in one round; the rest wait for the next."""


class Holding:
    """Used by the thread of the rounds; only `outcomes` grows by other threads' hands."""

    def __init__(self) -> None:
        self.worker_id = ""
        """Whose jobs these are: the worker's present identity."""
        self.outcomes: deque[Outcome] = deque()
        self.aside = Aside()
        """More of them, for which somebody has to unlock a row first."""
        self.linked: set[str] = set()
        """Those that other jobs wait for, among the jobs that were noted and whose outcomes have not been written."""
        self.astray: set[str] = set()
        """Jobs that are not held here any more, and may be STARTED by this worker all the same; see `strays`."""
        self.absent = Absent()
        """Jobs that are not held here any more, and had no row when they ended."""
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

    @property
    def known(self) -> Collection[str]:
        """All jobs that were claimed here and may be STARTED: any other of this worker is of a claim without reply."""
        return self.leases.keys() | self.astray | self.absent.ids

    def forget(self, job_ids: Iterable[str]) -> None:
        """The leases of these are void."""
        for job_id in job_ids:
            del self._leases[job_id]
            self.linked.discard(job_id)

    def next_outcomes(self, after: int = 0) -> list[Outcome]:
        """Those of the next round, which stay here until they are `written`; `after` so many of a round before it."""
        return [self.outcomes[place] for place in range(after, min(len(self.outcomes), after + MAX_OUTCOMES))]

    @property
    def unwritten(self) -> Iterator[Outcome]:
        """All that the database has not answered for."""
        return chain(list(self.outcomes), self.aside)

    def written(self, outcomes: Collection[Outcome], answer: Round) -> None:
        """The database has answered for these, the first that are here; those of jobs that are locked are put aside."""
        for _ in outcomes:
            self.outcomes.popleft()
        if answer.locked:
            self.aside.put([outcome for outcome in outcomes if outcome.job_id in answer.locked], answer.refusal)
        self._settled(outcomes, answer)

    def written_at_last(self, outcomes: Collection[Outcome], answer: Round) -> None:
        """The same of the first that were aside."""
        self.aside.tried(outcomes, answer.locked)
        self._settled(outcomes, answer)

    def lost(self, answer: Round) -> None:
        """Note what did not find the row that it should have, which is held no more."""
        self.astray |= answer.astray
        for outcome in answer.absent:
            self.absent.add(outcome.job_id, outcome)

    def _settled(self, outcomes: Iterable[Outcome], answer: Round) -> None:
        self.lost(answer)
        leases, locked = self.leases, answer.locked
        for outcome in outcomes:
            # It may have been claimed anew meanwhile.
            if leases.get(outcome.job_id) == outcome.lease and outcome.job_id not in locked:
                del leases[outcome.job_id]
                self.linked.discard(outcome.job_id)
