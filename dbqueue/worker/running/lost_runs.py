"""What becomes of a job whose run was lost: it runs again by its own `redeliver` and losses, or ends as FAILURE.

For runs that this worker knows of, however they were lost; of those of a dead worker the database decides the same
(`store.postgres.rescue`, `store.sqlite.sql`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dbqueue.codec import describe_exception
from dbqueue.errors import WorkerLostError
from dbqueue.jobs import Failed, Outcome, Released
from dbqueue.worker import log

MAX_ERROR_BYTES = 4096


class Job(Protocol):
    """A ClaimedJob or a Stray."""

    @property
    def id(self) -> str: ...
    @property
    def lease(self) -> str: ...
    @property
    def ready_at(self) -> str: ...
    @property
    def redeliver(self) -> bool: ...
    @property
    def losses(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LostRun:
    job: Job
    max_losses: int
    """The setting `task_max_losses`."""

    @property
    def again(self) -> bool:
        """Whether the job runs once more."""
        return self.job.redeliver and self.job.losses < self.max_losses

    @property
    def next_step(self) -> str:
        """What becomes of the job, in words."""
        return log.after_loss(runs=self.job.losses + 1, cap=self.max_losses, again=self.again)

    def outcome(self, why: str, *, missed: str | None = None) -> Outcome:
        """`why` is what its error says where it ends; for `missed` see `jobs.Released`."""
        if self.again:
            return Released(self.job.id, self.job.lease, self.job.ready_at, lost=True, missed=missed)
        return failed(self.job, why, missed=missed)


def failed(job: Job, why: str, *, missed: str | None = None) -> Failed:
    """The end of a job that may not run again."""
    error, _ = describe_exception(WorkerLostError(why), max_bytes=MAX_ERROR_BYTES)
    return Failed(job.id, job.lease, error, None, 0.0, missed=missed)
