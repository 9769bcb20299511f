"""When a worker looks for jobs that wait for permits, and what it knows of them; no I/O.

In a database without limits it never looks: an idle worker's question for the next due time tells
whether anything is held, and a busy one asks that about once a second.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import uuid4

from dbqueue.jobs import ClaimedJob, Outcome
from dbqueue.limits import TASK_KEYS
from dbqueue.store.held import START
from dbqueue.store.records import HeldClaim, HeldRound
from dbqueue.worker.claiming.rates import TaskRates
from dbqueue.worker.config import WorkerConfig

GAP_SECONDS: Final = 0.05
"""Least time from a look to one for a wake-up: under load they come all the time, on SQLite with each commit."""
MOST_KEYS: Final = 100
"""Most keys that a round of outcomes claims for."""
PASS_ON_SECONDS: Final = 0.02
"""How long permits that were freed here are kept for this worker's own slots before others are told of them."""
FAILED_SECONDS: Final = 1.0
"""Time from a look that failed, for something in a row, to the next."""
LEAST_SECONDS: Final = 0.005
"""Least time from a look that found nothing to the next."""


class HeldJobs:
    """Used by the thread of the rounds, but for `woken` and `changed`."""

    def __init__(self, config: WorkerConfig, rates: TaskRates) -> None:
        self._config, self._rates = config, rates
        self._lock = threading.Lock()
        """Held to change what two threads change: the next two."""
        self._next_at: float | None = 0.0
        self._wakes = 0
        self._after = START
        self._permits: dict[str, str] = {}
        self._freed: Counter[str] = Counter()
        self._freed_at = 0.0
        self._left = 0
        """How many of them were not used here."""
        self._simple: frozenset[str] = frozenset()
        self._parked: frozenset[str] = frozenset()
        """Tasks of which jobs are parked: one that comes now has its place behind them."""
        self._tried_at = 0.0

    # signs

    def woken(self) -> None:
        """There may be new jobs, or permits. Called on any thread."""
        with self._lock:
            self._wakes += 1
            if self._next_at is not None or self._rates or self._config.policies:
                self._look_by(self._tried_at + GAP_SECONDS)

    def changed(self) -> None:
        """A rate is another one now. Called on any thread."""
        with self._lock:
            self._wakes += 1
            self._next_at = 0.0

    def _look_by(self, at: float) -> None:
        self._next_at = at if self._next_at is None else min(at, self._next_at)

    def seen(self, held: bool) -> None:
        """Whether anything is held, by a look that asked for nothing more."""
        if held and self._next_at is None:
            self._next_at = 0.0

    def ended(self, outcomes: Iterable[Outcome]) -> None:
        """These are about to be written, and free the permits of their jobs."""
        if self._permits:
            keys = [key for each in outcomes if (key := self._permits.pop(each.job_id, None)) is not None]
            if keys and not self._freed:
                self._freed_at = time.monotonic()
            self._freed.update(keys)

    def forget(self, job_ids: Iterable[str]) -> None:
        """The leases of these are void: whoever has undone them has freed their permits."""
        for job_id in job_ids:
            self._permits.pop(job_id, None)

    @property
    def freed(self) -> int:
        """How many permits were freed here since the last look."""
        return self._freed.total()

    @property
    def gives_up_at(self) -> float | None:
        """When others are to know of the permits that were freed: there was no slot here to use them."""
        return self._freed_at + PASS_ON_SECONDS if self._freed else None

    def gives_up(self) -> bool:
        """Whether it is time for that; from then on they are others' as well."""
        at = self.gives_up_at
        if at is None or time.monotonic() < at:
            return False
        self._freed = Counter()
        self.changed()
        return True

    # looks

    @property
    def due_at(self) -> float | None:
        """When to look, on the monotonic clock; None: there is nothing to look for."""
        return 0.0 if self._freed else self._next_at

    def due(self) -> bool:
        at = self.due_at
        return at is not None and time.monotonic() >= at

    def claim(self, worker_id: str, queues: Sequence[str], limit: int, *, yielding: bool) -> HeldClaim:
        """The look that is due: at the keys of which permits were freed here, or at all."""
        at, freed = self._next_at, self._freed
        self._left += self._freed.total()
        self._freed = Counter()
        self._tried_at = time.monotonic()
        everything = at is not None and self._tried_at >= at
        return HeldClaim(
            worker_id,
            str(uuid4()),
            queues,
            limit,
            tuple(self._config.once),
            self._config.policies,
            self._rates.tokens(),
            yielding=yielding,
            keys=() if everything else tuple(freed),
            after=self._after,
            max_input_bytes=self._config.max_input_bytes,
        )

    def quick_keys(self) -> list[str]:
        """Keys whose permits were freed here and may be used by the round that frees them, in the order of locks.

        None of them while a look at everything is due: it sees what else has come, of these keys and others.
        """
        if not self._freed or self._rates or not self._freed.keys() <= self._simple or len(self._freed) > MOST_KEYS:
            return []
        return [] if self._next_at is not None and time.monotonic() >= self._next_at else sorted(self._freed)

    def took(self, jobs: Sequence[ClaimedJob], limit: int) -> None:
        """That round has started these, of at most `limit`."""
        self._permits.update((job.id, job.permit) for job in jobs if job.permit is not None)
        if len(jobs) >= limit:
            return  # there may be more of these permits, and the next round is for them
        self._left = max(0, self.freed - len(jobs))
        self._freed = Counter()
        if self._left:
            with self._lock:
                self._look_by(time.monotonic() + GAP_SECONDS)

    @property
    def wakes(self) -> int:
        return self._wakes

    def learned(self, claim: HeldClaim, found: HeldRound, wakes: int) -> bool:
        """What came of the look; `wakes` is what it was before. Whether others are to know that permits are free."""
        now = time.monotonic()
        left, self._left = self._left - len(found.claimed), 0
        self._simple = (self._simple - found.keys) | found.simple
        self._permits.update((job.id, job.permit) for job in found.claimed if job.permit is not None)
        self._rates.spend(found.claimed)
        waits = [] if found.again_seconds is None else [found.again_seconds]
        if found.tasks and (wait := self._rates.wait(found.tasks)) is not None:
            waits.append(wait)
        least = 0.0 if found.claimed else LEAST_SECONDS
        with self._lock:
            if wakes != self._wakes:  # somebody knocked while it looked
                waits.append(GAP_SECONDS)
            if not claim.keys:
                self._next_at = None
            if waits:
                self._look_by(now + max(least, min(waits)))
        if not claim.keys:
            self._after = found.after
            if found.after == START:
                keys = (TASK_KEYS + task for task in self._rates.tokens())
                self._parked = frozenset(key.removeprefix(TASK_KEYS) for key in keys if key in found.keys)
        return left > 0 and bool(found.keys)

    def failed(self) -> None:
        """The look that was due has failed."""
        self._next_at, self._after = time.monotonic() + FAILED_SECONDS, START

    # jobs that were claimed and need no permit

    def sort_out(self, jobs: Sequence[ClaimedJob]) -> tuple[Sequence[ClaimedJob], list[ClaimedJob]]:
        """Those that may start, and those that are to be parked: their task has no tokens left."""
        if not self._rates:
            return jobs, []
        started: list[ClaimedJob] = []
        parked: list[ClaimedJob] = []
        for job in jobs:
            if job.expired or job.revoked or (job.task not in self._parked and self._rates.take(job.task)):
                started.append(job)
            else:
                parked.append(job)
        return started, parked

    def park(self, tasks: Iterable[str]) -> None:
        """Jobs of these tasks were parked: look for them when there are tokens."""
        self._parked |= set(tasks)
        wait = self._rates.wait(tasks)
        with self._lock:
            self._look_by(time.monotonic() + (LEAST_SECONDS if wait is None else max(LEAST_SECONDS, wait)))
