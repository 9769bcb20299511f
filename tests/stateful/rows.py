"""What the model keeps of each job, and what model and stores are compared by. No SQL, no locks, no clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from dbqueue.jobs import BLOCKED_BY_LIMIT, BLOCKED_BY_PREDECESSORS, PENDING, REVOKED, STARTED, TERMINAL, WAITING, NewJob
from dbqueue.limits import Limit
from dbqueue.workflows import Edge

CALLED_OFF = "TaskRevokedError"


@dataclass(frozen=True, slots=True)
class Row:
    """A job. `due` is None unless it waits for its time or a permit, `finished_at` unless it has ended."""

    job: NewJob
    queue: str
    priority: int
    eta: datetime | None
    created_at: datetime
    status: str = PENDING
    due: datetime | None = None
    awaits: frozenset[str] = frozenset()
    """Predecessors whose end it still waits for."""
    told_of: str | None = None
    """The failure that lets an errback run."""
    workflow: str | None = None
    lease: str | None = None
    worker: str | None = None
    """Who has it, or had it last; None also for one that never ran."""
    permit: str | None = None
    redeliver: bool = True
    state: str | None = None
    limit_key: str | None = None
    retries: int = 0
    losses: int = 0
    revoked: bool = False
    replaced: bool = False
    started: bool = False
    """Whether it has a run, or had one that it ended with."""
    result: str | None = None
    """What it returned, or the type of its error."""
    traceback: str | None = None
    finished_at: datetime | None = None

    @property
    def waits(self) -> bool:
        return self.status in WAITING

    @property
    def blocked(self) -> str | None:
        if self.awaits:
            return BLOCKED_BY_PREDECESSORS
        return BLOCKED_BY_LIMIT if self.waits and self.limit_key else None


class Token(NamedTuple):
    """What a claim gave: the right to complete the job, for as long as nobody else has been given it."""

    job_id: str
    lease: str
    due: datetime
    permit: str | None
    expired: bool
    revoked: bool


class Seen(NamedTuple):
    """As much of a row as model and stores are compared by. Times before the machine's start are that start."""

    task: str
    status: str
    queue: str
    priority: int
    eta: datetime | None
    expires_at: datetime | None
    blocked: str | None
    awaits: int
    due: datetime | None
    lease: str | None
    worker: str | None
    redeliver: bool
    limit_key: str | None
    permit: str | None
    state: str | None
    has_meta: bool
    retries: int
    losses: int
    revoked: bool
    workflow: str | None
    told_of: str | None
    inputs: bool
    successors: bool
    started: bool
    result: str | None
    traceback: str | None
    finished_at: datetime | None


@dataclass
class Rows:
    """The tables. The clock `now` is moved by hand."""

    start: datetime
    """Where `now` began: later by far than any time on the databases' own clocks."""
    lease_seconds: float
    now: datetime = field(init=False)
    rows: dict[str, Row] = field(default_factory=dict)
    edges: set[Edge] = field(default_factory=set)
    limits: dict[str, Limit] = field(default_factory=dict)
    full_at: dict[str, datetime] = field(default_factory=dict)
    """When the next job of a key with a rate may start."""
    workers: dict[str, datetime | None] = field(default_factory=dict)
    """Heartbeats; None: stopped, or declared dead."""
    _ticks: int = 0

    def __post_init__(self) -> None:
        self.now = self.start

    def real(self) -> datetime:
        """The time of what no caller may date: before `start`, and later each time."""
        self._ticks += 1
        return self.start - timedelta(hours=1) + timedelta(microseconds=self._ticks)

    def seen(self) -> dict[str, Seen]:
        return {
            row.job.id: Seen(
                row.job.task, row.status, row.queue, row.priority, self.shown(row.eta), row.job.expires_at, row.blocked,
                len(row.awaits), self.shown(row.due), row.lease, row.worker, row.redeliver, row.limit_key, row.permit,
                row.state, row.state is not None, row.retries, row.losses, row.revoked, row.workflow, row.told_of,
                row.job.inputs, row.job.successors, row.started, row.result, row.traceback, self.shown(row.finished_at),
            )
            for row in self.rows.values()
        }  # fmt: skip

    def shown(self, moment: datetime | None) -> datetime | None:
        """As `Seen` has it."""
        return moment and max(moment, self.start)

    def is_orphan(self, row: Row) -> bool:
        """Whether it is with a worker that is gone, which nobody would find dead any more."""
        return row.status == STARTED and row.worker is not None and self.workers[row.worker] is None

    def change(self, row: Row, **values: object) -> Row:
        self.rows[row.job.id] = row = replace(row, **values)  # type: ignore[arg-type]
        return row

    def wait(self, row: Row, due: datetime, *, worker: str | None = None, status: str = PENDING) -> Row:
        """Let it wait for its time, as if it had not been claimed."""
        due = max(due, row.eta or due)
        return self.change(
            row, status=status, due=due, lease=None, worker=worker, permit=None, state=None, started=False
        )  # fmt: skip

    def end(self, row: Row, status: str, at: datetime, result: str | None, traceback: str | None = None) -> Row:
        """End it; its lease and worker stay, for the record."""
        assert status in TERMINAL
        assert row.status not in TERMINAL
        return self.change(
            row, status=status, finished_at=at, due=None, awaits=frozenset(), permit=None, state=None,
            result=result, traceback=traceback,
        )  # fmt: skip

    def remember_revoked(self, job_id: str) -> None:
        """A row for an id that nobody has enqueued yet: it stands in the way of the enqueue."""
        at = self.real()
        nothing = NewJob(job_id, "", "")
        self.rows[job_id] = Row(nothing, "", 0, None, at, REVOKED, revoked=True, result=CALLED_OFF, finished_at=at)
