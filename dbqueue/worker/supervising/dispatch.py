"""Which job goes to which child, and how many to claim: no I/O, only counting.

Slots are what the pool can run at once. Beyond them a worker holds a buffer of short jobs, so
that a child does not wait for a round trip to the database after each. Three rules bound what a
claimed job may wait, whatever the mix of tasks:

- the buffer is about `BUFFER_SECONDS` of work by the measured times of earlier runs, and none
  when jobs are slow or their task was never measured;
- a child is sent ahead only what it will finish within `AHEAD_SECONDS`;
- what waits in a child behind a job that runs longer is recalled, and what waits here without
  progress is handed back to the database (`Supervisor` does both, by this module's numbers).

Where that happens often the buffer is too large, whatever the runs take: on a machine with more work than processors
the children wait for their turn. So each time halves what a child may hold at the most, and each job that ends lets
that grow again.

A job that was lost with its process may be what ended it. Where a process runs many jobs at once,
such a job gets a process to itself: else its neighbours would be lost with it, again and again.

A run that was to end (a limit, `terminate`) may take no notice while its job, retried by hand, is claimed anew. The
same worker does not run it twice at once: the job waits here for a moment, then goes back for any worker to take.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

from dbqueue.jobs import ClaimedJob
from dbqueue.worker.supervising.by_task import Averages
from dbqueue.worker.supervising.children import Child

BUFFER_SECONDS: Final = 0.1
AHEAD_SECONDS: Final = 0.02
STALL_SECONDS: Final = 0.05
"""A child that answers nothing for this long (`silence`) runs a long job: recall what waits behind it."""
HAND_BACK_SECONDS: Final = 0.25
"""Buffered jobs are handed back when no child answers for this long."""
BEHIND_SECONDS: Final = 1.0
"""So is a job whose earlier run goes on here for this long."""
SLOW_SECONDS: Final = 0.05
"""Jobs that take longer are not buffered: a round trip is small beside them."""
MAX_AHEAD: Final = 1000
"""Most jobs in one child beyond its slots."""
LEAST_SHARE: Final = 0.1
"""What is left of the buffer at the least."""
REGROWTH: Final = 0.001
"""How much of it comes back with each job that ends: all of it with a thousand."""
_WEIGHT: Final = 0.05
"""Share of the newest run in the moving averages."""


class Dispatcher:
    """Holds the claimed jobs that no child has yet."""

    def __init__(self, slots: int, *, shared: bool = False) -> None:
        """`shared`: whether jobs run beside others in one process."""
        self.slots, self._shared = slots, shared
        self.waiting: deque[ClaimedJob] = deque()
        self.suspects: deque[ClaimedJob] = deque()
        """Jobs that are to run alone; none where each job has a process to itself anyway."""
        self.behind: dict[ClaimedJob, float] = {}
        """Jobs of which an earlier run goes on here, and since when each waits for its end."""
        self._seconds_by_task = Averages()
        self._average: float | None = None
        self._share = 1.0
        self.progress_at = time.monotonic()
        """When a job last ended or went to a free slot."""
        self.crowded = False
        """Whether a child that is leaving runs so many jobs that the next may begin none, idle as it is."""

    def __len__(self) -> int:
        """How many wait for a slot; those `behind` a run do not."""
        return len(self.waiting) + len(self.suspects)

    def add(self, jobs: Iterable[ClaimedJob], going_on: Collection[str] = ()) -> None:
        """Jobs that were claimed; runs of those that are `going_on` were to end, and have not."""
        for job in jobs:
            if job.id in going_on:
                self.behind[job] = time.monotonic()
            else:
                self._line(job).append(job)

    def let_behind(self, going_on: Collection[str]) -> list[ClaimedJob]:
        """Let jobs into the line whose earlier runs have ended; returns those that have waited for too long."""
        now = time.monotonic()
        late = [job for job, since in self.behind.items() if job.id in going_on and now - since > BEHIND_SECONDS]
        ended = [job for job in self.behind if job.id not in going_on]
        for job in (*late, *ended):
            del self.behind[job]
        self.put_back(ended)
        return late

    def put_back(self, jobs: Iterable[ClaimedJob]) -> None:
        """Jobs that a child gave back: they were first in line, and are again."""
        for job in reversed(list(jobs)):
            self._line(job).appendleft(job)

    def _line(self, job: ClaimedJob) -> deque[ClaimedJob]:
        return self.suspects if self._shared and job.losses else self.waiting

    def drop(self, void: Collection[tuple[str, str]]) -> None:
        """Forget those that wait here under a lease that is void: each an id and a lease."""
        for line in (self.waiting, self.suspects):
            kept = [job for job in line if (job.id, job.lease) not in void]
            line.clear()
            line.extend(kept)
        self.behind = {job: since for job, since in self.behind.items() if (job.id, job.lease) not in void}

    def take_waiting(self) -> list[ClaimedJob]:
        jobs = [*self.behind, *self.suspects, *self.waiting]
        self.waiting.clear()
        self.suspects.clear()
        self.behind.clear()
        return jobs

    def take(self, job_ids: Collection[str]) -> list[ClaimedJob]:
        """Take these jobs out, where they are here."""
        taken = [job for job in (*self.behind, *self.suspects, *self.waiting) if job.id in job_ids]
        if taken:
            self.behind = {job: since for job, since in self.behind.items() if job.id not in job_ids}
            self.waiting = deque(job for job in self.waiting if job.id not in job_ids)
            self.suspects = deque(job for job in self.suspects if job.id not in job_ids)
        return taken

    def stalled(self) -> None:
        """Jobs were taken back that had waited for too long: hold fewer."""
        self._share = max(LEAST_SHARE, self._share / 2)

    def measured(self, task: str, seconds: float) -> None:
        """Learn from a run."""
        if self._share < 1.0:
            self._share = min(1.0, self._share + REGROWTH)
        self._seconds_by_task.add(task, seconds, _WEIGHT)
        average = self._average
        self._average = seconds if average is None else average + _WEIGHT * (seconds - average)

    def expected_seconds(self, task: str) -> float | None:
        return self._seconds_by_task.get(task)

    def wanted(self, held: int, now: float) -> int:
        """How many jobs to claim, when `held` are claimed already (waiting here, or in children)."""
        return self.slots + self._buffer(held, now) - held

    def _buffer(self, held: int, now: float) -> int:
        stalled = held >= self.slots and now - self.progress_at > STALL_SECONDS
        if self._average is None or self._average > SLOW_SECONDS or stalled:
            return 0
        return int(self.slots * min(2 * MAX_AHEAD * self._share, BUFFER_SECONDS / max(self._average, 1e-6)))

    def assign(self, children: Iterable[Child]) -> list[tuple[Child, list[ClaimedJob]]]:
        """Take jobs for the children: free slots first, then short jobs ahead of their turn."""
        children = list(children)
        able = [
            child
            for child in children
            if child.ready and not (child.stopping or child.recalling or child.killed or child.closed)
        ]
        leaving = sum(child.busy for child in children if child.stopping and not child.alone) if self._shared else 0
        room = self.slots - leaving - sum(child.busy for child in able if not child.alone) if leaving else 0
        batches: dict[Child, list[ClaimedJob]] = {}
        for child in sorted(able, key=lambda child: len(child.held)):
            line = self.suspects if child.alone else self.waiting
            free = min(child.free, room) if leaving and not child.alone else child.free
            for _ in range(min(free, len(line))):
                self._give(child, batches, line.popleft())
        if batches:
            self.progress_at = time.monotonic()
        self.crowded = leaving > 0 and room <= 0
        if not leaving:  # what is sent ahead begins in any slot, and all together are to be no more than `slots`
            self._fill_ahead(able, batches)
        return list(batches.items())

    def _fill_ahead(self, able: list[Child], batches: dict[Child, list[ClaimedJob]]) -> None:
        for child in able:
            if child.alone:
                continue
            given = len(batches.get(child, ()))
            room = min(child.slots + int(MAX_AHEAD * self._share) - len(child.held), child.left) - given
            while self.waiting and room > 0:
                head = self.waiting[0]
                seconds = self._seconds_by_task.get(head.task)
                # A job that was lost before may end its process: it goes to a free slot, alone.
                if seconds is None or head.losses or child.backlog_seconds + seconds > AHEAD_SECONDS * child.slots:
                    break
                self._give(child, batches, self.waiting.popleft())
                room -= 1

    def _give(self, child: Child, batches: dict[Child, list[ClaimedJob]], job: ClaimedJob) -> None:
        child.backlog_seconds += self._seconds_by_task.get(job.task, SLOW_SECONDS)
        batches.setdefault(child, []).append(job)
