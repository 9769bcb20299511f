"""What a store is to do, as a dictionary: no SQL, no locks, no time but what it is told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from dbqueue.jobs import FAILURE, PENDING, RETRY, REVOKED, STARTED, SUCCESS, NewJob

MAX_LOSSES = 2
WAITING = (PENDING, RETRY)


@dataclass(frozen=True, slots=True)
class Row:
    """A job; `ready_at` is None unless it waits, `finished_at` unless it has ended."""

    job: NewJob
    eta: datetime
    status: str = PENDING
    ready_at: datetime | None = None
    lease: str | None = None
    worker: str | None = None
    retries: int = 0
    losses: int = 0
    revoked: bool = False
    finished_at: datetime | None = None


class Token(NamedTuple):
    """What a claim gave: the right to complete, for as long as nobody else has been given it."""

    job_id: str
    lease: str
    ready_at: datetime


class Seen(NamedTuple):
    """As much of a row as model and stores are compared by."""

    status: str
    lease: str | None
    worker: str | None
    retries: int
    losses: int
    revoked: bool


@dataclass
class Model:
    """The queue. Its clock is moved by hand."""

    now: datetime
    real: datetime
    """Before `now` by far: the time of what no caller may date."""
    lease_seconds: float
    rows: dict[str, Row] = field(default_factory=dict)
    workers: dict[str, datetime | None] = field(default_factory=dict)
    """Heartbeats; None: declared dead."""

    def enqueue(self, job: NewJob, eta: datetime) -> None:
        self.rows.setdefault(job.id, Row(job, eta, ready_at=eta))

    def claim(self, worker: str, lease: str, limit: int) -> list[Token]:
        if self.workers[worker] is None:
            return []
        due = [row for row in self.rows.values() if row.ready_at is not None and row.ready_at <= self.now]
        due.sort(key=lambda row: (-row.job.priority, row.ready_at, row.job.id))
        tokens = []
        for row in due[:limit]:
            assert row.ready_at is not None
            tokens.append(Token(row.job.id, lease, row.ready_at))
            self._set(row, status=STARTED, ready_at=None, lease=lease, worker=worker)
        return tokens

    def opens(self, token: Token) -> bool:
        row = self.rows.get(token.job_id)
        return row is not None and row.status == STARTED and row.lease == token.lease

    def settle(self, token: Token, how: str, delay: float) -> bool:
        """Whether the outcome was taken."""
        if not self.opens(token):
            return False
        row = self.rows[token.job_id]
        if how in (SUCCESS, FAILURE):
            self._set(row, status=how, finished_at=self.now)
        elif how == RETRY:
            again_at = max(row.eta, self.now + timedelta(seconds=delay))
            self._wait(row, again_at, status=RETRY, retries=row.retries + 1)
        else:
            self._wait(row, max(row.eta, token.ready_at), losses=row.losses + (how == "lost"))
        return True

    def heartbeat(self, worker: str) -> bool:
        if self.workers[worker] is None:
            return False
        self.workers[worker] = self.now
        return True

    def rescue(self) -> set[str]:
        """The workers that are dead now."""
        oldest = self.now - timedelta(seconds=self.lease_seconds)
        dead = {worker for worker, beat in self.workers.items() if beat is not None and beat < oldest}
        for row in list(self.rows.values()):
            if row.status == STARTED and row.worker in dead:
                if row.losses < MAX_LOSSES:
                    # It keeps the worker's name: who had it last.
                    self._wait(row, row.eta, losses=row.losses + 1, worker=row.worker)
                else:
                    self._set(row, status=FAILURE, losses=row.losses + 1, finished_at=self.now)
        self.workers.update(dict.fromkeys(dead))
        return dead

    def revoke(self, job_id: str) -> None:
        row = self.rows[job_id]
        if row.status in WAITING:
            self._set(row, status=REVOKED, revoked=True, ready_at=None, finished_at=self.real)
        elif row.status == STARTED:
            self._set(row, revoked=True)

    def prune(self, older_than: float) -> int:
        oldest = self.now - timedelta(seconds=older_than)
        old = [job_id for job_id, row in self.rows.items() if row.finished_at is not None and row.finished_at < oldest]
        for job_id in old:
            del self.rows[job_id]
        return len(old)

    def seen(self) -> dict[str, Seen]:
        return {
            job_id: Seen(row.status, row.lease, row.worker, row.retries, row.losses, row.revoked)
            for job_id, row in self.rows.items()
        }

    def _wait(
        self, row: Row, ready_at: datetime, *, status: str = PENDING, worker: str | None = None, **values: int
    ) -> None:
        self._set(row, status=status, ready_at=ready_at, lease=None, worker=worker, **values)

    def _set(self, row: Row, **values: object) -> None:
        self.rows[row.job.id] = replace(row, **values)  # type: ignore[arg-type]
