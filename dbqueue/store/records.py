"""What goes into a store and comes out of it, beside jobs and outcomes: values, the same for every database."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dbqueue.jobs import ClaimedJob, Outcome

if TYPE_CHECKING:
    from dbqueue.limits import Policies

MAX_INPUT_BYTES: Final = 64 * 1024 * 1024
"""See the setting `max_input_bytes`."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job's row as a reader sees it; JSON fields are text, times are aware datetimes in UTC."""

    id: str
    task: str
    queue: str
    status: str
    args: str
    kwargs: str
    result: str | None
    traceback: str | None
    retries: int
    worker: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    state: str | None = None
    meta: str | None = None
    parent_id: str | None = None
    content_type: str | None = None
    options: str | None = None
    content: bytes | None = None
    result_content: bytes | None = None

    def took_seconds(self) -> float:
        """From its enqueue to its end, of a job that has ended."""
        return (self.finished_at - self.created_at).total_seconds() if self.finished_at else 0.0


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One run of a worker, as `dbqueue_workers` records it."""

    id: str
    name: str
    hostname: str
    pid: int
    pool: str
    concurrency: int
    queues: tuple[str, ...]
    version: str
    lease_seconds: float

    def columns(self) -> dict[str, Any]:
        """As its row holds it."""
        return asdict(self) | {"queues": json.dumps(self.queues, ensure_ascii=False)}


MOST_PIDS: Final = 8
"""Of how many `WorkersBefore` it is told which processes they are."""


@dataclass(frozen=True, slots=True)
class WorkersBefore:
    """The workers of one host and the same queues that were there before another."""

    slots: int = 0
    """How many jobs they run at once, all together."""
    pids: tuple[int, ...] = ()
    """The processes of those that have been there for the longest, as their rows name them."""


@dataclass(frozen=True, slots=True)
class Claim:
    """How many jobs a worker wants, from where: earlier queues come first in this round."""

    worker_id: str
    lease: str
    queues: Sequence[str]
    limit: int
    once: Sequence[str] = ()
    """Tasks that are never run again once started (`acks_late=False`, `reject_on_worker_lost=False`)."""
    max_input_bytes: int = MAX_INPUT_BYTES
    """How much a job's predecessors may leave for it, and about how much is read in one round."""
    keys: Collection[str] = ()
    """Claim jobs that wait for permits of these keys, in the place of those that need none: only keys whose
    limits count what runs and have no rate (`HeldRound.simple`)."""
    yielding: bool = True
    """Whether it may be refused while another worker claims; see `Round.refused`."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did: which outcomes were written, and which jobs were claimed."""

    settled: frozenset[str] = frozenset()
    claimed: Sequence[ClaimedJob] = ()
    released: bool = False
    """Whether jobs that waited for these outcomes may run now, and were not claimed."""
    refused: bool = False
    """Whether another was claiming, so that this worker was to get nothing: it may try again soon."""
    locked: frozenset[str] = frozenset()
    """Of `settle_free`: the jobs whose outcomes were not written, for somebody has locked a row that they need."""
    refusal: str = ""
    """Of `settle`: what the database has against some of these, whatever their outcome; then it is no lock."""
    astray: frozenset[str] = frozenset()
    """Jobs whose outcomes found them STARTED under another lease: maybe one that nobody holds (`Stray`)."""
    absent: tuple[Outcome, ...] = ()
    """Outcomes that found no row: deleted, or not to be seen for a while (row-level security, a restore)."""

    def __or__(self, other: Round) -> Round:
        """What both did."""
        return Round(
            self.settled | other.settled,
            (*self.claimed, *other.claimed),
            self.released or other.released,
            self.refused or other.refused,
            self.locked | other.locked,
            self.refusal or other.refusal,
            self.astray | other.astray,
            self.absent + other.absent,
        )


@dataclass(frozen=True, slots=True)
class Rescued:
    """A dead worker, and what became of the jobs that it held."""

    worker_id: str
    requeued: int
    failed: int
    left: bool = False
    """Whether others are locked, by a transaction of its own most likely: its row stays open, and they follow."""
    locked: bool = False
    """Whether jobs that may not run again could not end, for somebody has locked what waits for them. They follow, too.
    """


class Stray(NamedTuple):
    """A job that is STARTED by a worker under another lease than that of its run, as an UPDATE of its row leaves it.

    `ready_at` is its old place in its queue.
    """

    id: str
    lease: str
    ready_at: str
    redeliver: bool
    losses: int
    successors: bool


@dataclass(frozen=True, slots=True)
class HeldClaim:
    """How many jobs that wait for permits a worker wants, and what it knows of their limits; see `store.held`."""

    worker_id: str
    lease: str
    queues: Sequence[str]
    limit: int
    once: Sequence[str] = ()
    policies: Policies | None = None
    """What limits a key that has no row yet."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    """By task: how many the worker's own rates let start now."""
    yielding: bool = False
    """Whether to leave what comes behind the first job that is due without a permit."""
    keys: Collection[str] = ()
    """Look at these keys alone."""
    after: tuple[str, str, int] = ("", "", 0)
    """Look behind this key, queue and priority."""
    max_input_bytes: int = MAX_INPUT_BYTES
    """As in `Claim`."""


@dataclass(frozen=True, slots=True)
class HeldRound:
    """What became of a claim of held jobs."""

    claimed: list[ClaimedJob] = field(default_factory=list)
    again_seconds: float | None = None
    """When more may start; None: nothing is held there that waits for its time or for permits of other workers."""
    after: tuple[str, str, int] = ("", "", 0)
    """Where the next claim is to go on; as here, at the beginning."""
    keys: frozenset[str] = frozenset()
    """Under which keys anything is held, in any queue; of those that were looked at."""
    tasks: frozenset[str] = frozenset()
    """Tasks of jobs that are due in these queues."""
    simple: frozenset[str] = frozenset()
    """Keys that limit nothing but how many jobs run at once: fit for `Claim.keys`."""
