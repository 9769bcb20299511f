"""What each worker does for all: dead workers' jobs are taken back, and what has expired is deleted.

A worker is found dead by its row. Where an operator has deleted that, or restored a part of a backup, its jobs would be
STARTED for ever: now and then the eldest looks for such jobs, and gives their worker a row again.

A job that waits for others is let go by the last of them. Where somebody's hand has ended or hidden rows, none may have
done it: the eldest looks for such jobs too, and lets those go that it has found twice. Where a row is gone that such a
job waits for, it goes on finding it for a while first: in the middle of a restore, or of work on a partition, the row
may be there again.

What meets somebody's lock is put off, and not waited for: the rounds wait behind all this.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from typing import Final

from dbqueue.errors import LockTimeout
from dbqueue.jobs import worker_name
from dbqueue.store.records import WorkerInfo
from dbqueue.store.sessions import WorkSession
from dbqueue.version import __version__
from dbqueue.worker import log
from dbqueue.worker.config import WorkerConfig

LOOK_EVERY_SECONDS: Final = 600.0
"""For workers without a row, whose jobs only the whole table can tell."""
OVERDUE_EVERY_SECONDS: Final = 10.0
OVERDUE_PATIENCE: Final = 100
"""How much longer than a look for overdue jobs, or a part of one, the pause after it is at least."""
GONE_SECONDS: Final = 600.0
"""How long a row that an overdue job waits for is to be gone."""
MOST_OVERDUE: Final = 1000
"""So many are let go after one look."""
ELDEST_EVERY_SECONDS: Final = 60.0
"""For the others to see whether they are the eldest by now, and have to look."""
PRUNE_EVERY_SECONDS: Final = 60.0
PRUNE_ROWS: Final = 1000
PUT_OFF_SECONDS: Final = 10.0
"""When to look again for dead workers whose jobs cannot all be taken back, for somebody has locked what they need."""
NEXT_ROWS_SECONDS: Final = 0.05
"""Pause where there was something to delete: up to 20,000 rows a second, beside the rounds."""
NEXT_PAGES_SECONDS: Final = 1.0
"""Pause where there was nothing, and the table has not been seen to its end."""


class Upkeep:
    """Its times are spread at random, so that workers which were started together do not all look at once."""

    def __init__(self, config: WorkerConfig, *, every_seconds: float) -> None:
        self._config, self._every = config, every_seconds
        self.rescue_at = 0.0
        """When to look for dead workers next, on the monotonic clock."""
        self._look_at = 0.0
        """When to look for workers without a row."""
        self._overdue_at = time.monotonic() + OVERDUE_EVERY_SECONDS * random.random()
        """When to look for overdue jobs, or for more of them."""
        self._overdue: dict[str, bool] = {}
        """Found in the look that is under way; whether all that a job waits for is there."""
        self._overdue_since: dict[str, float] = {}
        """Found in each look since then (monotonic), the last one included."""
        self._prune_at = time.monotonic() + PRUNE_EVERY_SECONDS * random.random()
        self._pruning = self._tending = self._looking = self._looking_for_overdue = False
        self._told: set[str] = set()
        """Of problems with partitions: each is told once."""

    @property
    def due_at(self) -> float:
        """When to run next, on the monotonic clock."""
        return min(self.rescue_at, self._look_at, self._overdue_at, self._prune_at)

    def run(self, session: WorkSession, worker_id: str) -> bool:
        """Rescue, and what only the eldest does; whether jobs wait for a claim because of it."""
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_EVERY_SECONDS  # first, for it may fail
            if self._looking or session.eldest_worker() == worker_id:
                self._look(session)
            if self._looking:
                self._look_at = time.monotonic() + NEXT_PAGES_SECONDS
        due = time.monotonic() >= self.rescue_at and self._rescue(session)
        if time.monotonic() >= self._overdue_at:
            self._overdue_at = time.monotonic() + ELDEST_EVERY_SECONDS  # first, for it may fail
            if self._looking_for_overdue or session.eldest_worker() == worker_id:
                due |= self._look_for_overdue(session)
            else:  # it is the eldest no longer: what it finds when it is again is found for the first time
                self._overdue, self._overdue_since = {}, {}
        if time.monotonic() >= self._prune_at:
            self._prune_at = time.monotonic() + PRUNE_EVERY_SECONDS
            if self._pruning or session.eldest_worker() == worker_id:
                with contextlib.suppress(LockTimeout):
                    self._prune(session)
        return due

    def _rescue(self, session: WorkSession) -> bool:
        self.rescue_at = time.monotonic() + self._every * random.uniform(0.8, 1.2)
        try:
            dead = session.rescue(max_losses=self._config.max_losses)
        except LockTimeout as error:
            self._put_off(str(error))
            return False
        for rescued in dead:
            if rescued.requeued or rescued.failed or not rescued.left:
                log.logger.warning(
                    "Worker %s is dead: %d of its jobs wait again, %d may not run again and end as FAILURE%s",
                    rescued.worker_id,
                    rescued.requeued,
                    rescued.failed,
                    ". Others are in a transaction that is still open, and follow" if rescued.left else "",
                )
        if locked := [rescued.worker_id for rescued in dead if rescued.locked]:
            self._put_off(f"jobs of {locked[0]} may not run again, and cannot end before what waits for them")
        return any(rescued.requeued or rescued.failed for rescued in dead)

    def _put_off(self, reason: str) -> None:
        self.rescue_at = time.monotonic() + PUT_OFF_SECONDS * random.uniform(0.8, 1.2)
        log.logger.warning("Jobs of a dead worker wait for what somebody's transaction has locked: %s", reason)

    def _look(self, session: WorkSession) -> None:
        """Give workers that have jobs a row again, where they have none: soon again if there is more to look at."""
        lost, self._looking = session.lost_workers()
        for worker_id in lost:
            name = worker_name(worker_id)
            session.reopen(WorkerInfo(worker_id, name, "", 0, "", 0, (), __version__, self._config.lease_seconds))
            log.logger.warning(
                "Worker %s has jobs that are STARTED, and its row was deleted or closed: it is given one again, and is "
                "dead if it does not beat for %g s",
                worker_id,
                self._config.lease_seconds,
            )

    def _look_for_overdue(self, session: WorkSession) -> bool:
        """Whether some were let go."""
        began = time.monotonic()
        found, self._looking_for_overdue = session.overdue()
        now = time.monotonic()
        pause = NEXT_PAGES_SECONDS if self._looking_for_overdue else OVERDUE_EVERY_SECONDS
        self._overdue_at = now + max(pause, (now - began) * OVERDUE_PATIENCE)
        self._overdue |= dict(itertools.islice(found.items(), MOST_OVERDUE - len(self._overdue)))
        if self._looking_for_overdue:
            return False
        overdue, before, self._overdue = self._overdue, self._overdue_since, {}
        self._overdue_since = {job_id: before.get(job_id, now) for job_id in overdue}
        patience = {True: 0.0, False: GONE_SECONDS}
        ripe = [
            each for each, complete in overdue.items() if each in before and now - before[each] >= patience[complete]
        ]
        let_go: dict[str, str] = {}
        if ripe:
            with contextlib.suppress(LockTimeout):
                let_go = session.let_go(ripe)
        log.let_go(let_go)
        return bool(let_go)

    def _prune(self, session: WorkSession) -> None:
        """Delete what has expired or is too much; soon again if there may be more of it."""
        expires, keep = self._config.result_expires_seconds, self._config.result_max_kept
        if not self._pruning:
            session.prune_limits()
        if self._tending or not self._pruning:
            self._tending = self._pruning = self._tend(session, expires)
            if self._tending:
                self._prune_at = time.monotonic() + NEXT_PAGES_SECONDS
                return
        rows = 0
        if expires is not None or keep is not None:
            rows = session.prune(older_than_seconds=expires, keep=keep, limit=PRUNE_ROWS)
        self._pruning = rows >= PRUNE_ROWS or session.is_pruning
        if not self._pruning:
            keys = session.prune_keys(limit=PRUNE_ROWS)
            rows, self._pruning = rows + keys, keys >= PRUNE_ROWS
        if self._pruning:
            self._prune_at = time.monotonic() + (NEXT_ROWS_SECONDS if rows else NEXT_PAGES_SECONDS)

    def _tend(self, session: WorkSession, expires: float | None) -> bool:
        """Make and drop partitions, where there are any; whether there is more to do."""
        tended = session.tend_partitions(older_than_seconds=expires)
        if tended.made:
            log.logger.info("Made partitions for the jobs to come: %s", ", ".join(tended.made))
        if tended.dropped:
            log.logger.info("Dropped partitions whose jobs have all expired: %s", ", ".join(tended.dropped))
        if tended.problem and tended.problem not in self._told:
            log.logger.warning(
                "Partitions cannot be made or dropped: %s. Jobs go to the DEFAULT partition once there is no other, "
                "and are deleted row by row",
                tended.problem,
            )
            self._told.add(tended.problem)
        return tended.under_way
