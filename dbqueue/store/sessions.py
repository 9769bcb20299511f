"""What the engine asks of a worker's two connections: the contract that PostgreSQL and SQLite both keep.

A `WorkSession` runs rounds of complete and claim, and is woken where the database notifies; a
`WatchSession` beats and takes commands. As in `base`, an optional `now` is for tests.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

from dbqueue.errors import OperationalError
from dbqueue.jobs import Outcome, Progress
from dbqueue.store.records import Claim, HeldClaim, HeldRound, Rescued, Round, Stray, WorkerInfo, WorkersBefore

ELDEST_SECONDS: Final = 3600.0
"""How long a worker may be silent, whatever its lease, and be the eldest: nobody else does what the eldest does."""
DELETED: Final = "DELETED"
"""What has become of a job that was let go: an errback that nothing can reach any more, with all that waits for it."""


class Bell(Protocol):
    """What another thread rings to end a wait."""

    @property
    def rung(self) -> bool: ...

    def fileno(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Tended:
    """What a step of the upkeep of partitions has done; nothing, where the table of jobs has none."""

    under_way: bool = False
    """Whether the next step may follow soon."""
    made: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    problem: str = ""
    """Why it could not do what it was about to."""


class Session(ABC):
    """One of a worker's connections. Used by one thread; raises OperationalError when it breaks."""

    def survives(self, error: OperationalError) -> bool:
        """Whether the connection is fine after this error, for it came of a conflict with another one."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Close the connection; may be called twice."""


class WorkSession(Session):
    """A worker's connection for rounds."""

    @abstractmethod
    def register(self, worker: WorkerInfo) -> None:
        """Write the worker's row; durable before its first claim."""

    @abstractmethod
    def round(
        self,
        outcomes: Sequence[Outcome],
        claim: Claim | None,
        *,
        linked: Collection[str] = frozenset(),
        meanwhile: Callable[[], None] | None = None,
        now: datetime | None = None,
    ) -> Round:
        """Write the outcomes and claim due jobs, in one transaction and one round trip.

        Each outcome is fenced by its id, its lease and the status STARTED; one that matches no
        row is missing from `settled`. A worker that was declared dead claims nothing.

        `linked` are the jobs that others wait for, as their claims told (`ClaimedJob.successors`):
        what waits is moved in the transaction that ends them. Failures of such jobs, and
        replacements, have transactions of their own, before that of the rest.

        `meanwhile` is called once, unless an error comes first: while the database works, where that is
        another process.
        """

    def settle_free(
        self, outcomes: Sequence[Outcome], *, linked: Collection[str] = frozenset(), now: datetime | None = None
    ) -> Round:
        """Write the outcomes, in one transaction, but for those that would have to wait for somebody's lock on a row.

        Raises LockTimeout where one of the others had to wait all the same, and then none is written.
        """
        return self.round(outcomes, None, linked=linked, now=now)  # where rows have no locks of their own

    def prepare(self, outcomes: Sequence[Outcome]) -> None:
        """The next round is about these very outcomes: do now what can be done before it. May be called `meanwhile`."""
        return  # where there is nothing to gain

    @abstractmethod
    def claim_held(self, claim: HeldClaim, *, now: datetime | None = None) -> HeldRound:
        """Start due jobs that wait for permits, as many as their limits let, in a transaction of its own."""

    @abstractmethod
    def park(self, tasks: Collection[str], queues: Sequence[str], *, most: int) -> int:
        """Let jobs of these tasks wait under their tasks' own keys: those among the first `most` of each level.

        Returns how many they were.
        """

    @abstractmethod
    def anything_held(self) -> bool:
        """Whether any job waits for a permit: one probe of an index."""

    @abstractmethod
    def report(self, reports: Sequence[Progress]) -> None:
        """Show these states and metas on their rows: fenced by id, lease and the status STARTED, silent otherwise."""

    @abstractmethod
    def outlook(self, queues: Sequence[str], *, now: datetime | None = None) -> tuple[float | None, bool]:
        """Seconds until the next job of these queues is due, None when none waits; and `anything_held`."""

    def seconds_until_ready(self, queues: Sequence[str], *, now: datetime | None = None) -> float | None:
        """The first half of `outlook`."""
        return self.outlook(queues, now=now)[0]

    @abstractmethod
    def waiting_queues(self) -> list[str]:
        """The names of all queues that hold jobs which wait for their time or for a worker."""

    @abstractmethod
    def paused_queues(self) -> frozenset[str]:
        """The names of the queues that are paused, jobs in them or not."""

    @abstractmethod
    def recorded(self, job_ids: Collection[str]) -> dict[str, tuple[str, str | None]]:
        """The status and the lease of each of these jobs that still has a row."""

    @abstractmethod
    def strays(self, worker_id: str, job_ids: Collection[str]) -> list[Stray]:
        """Those of these jobs that are STARTED by this worker."""

    @abstractmethod
    def hand_back(self, worker_id: str, held: Collection[str]) -> int:
        """Release jobs that are STARTED by this worker but not among those it holds.

        For a claim whose reply was lost with its connection. Returns how many.
        """

    @abstractmethod
    def rescue(self, *, max_losses: int, now: datetime | None = None) -> list[Rescued]:
        """Close the rows of dead workers and take their jobs back, each by its own `redeliver`."""

    @abstractmethod
    def lost_workers(self) -> tuple[list[str], bool]:
        """The ids of workers that have jobs which are STARTED, and no open row: nobody would ever find them dead.

        One call looks at a part of the table, the next goes on from there: whether there is more of it to be seen.
        """

    @abstractmethod
    def overdue(self) -> tuple[dict[str, bool], bool]:
        """Jobs that wait for others which have all ended: nothing would ever let them go.

        By their ids; whether all that they wait for is there yet, or some of it is gone. Part by part, as
        `lost_workers`. Where a policy of row-level security holds for this role there are none: what is hidden may run.
        """

    @abstractmethod
    def let_go(self, job_ids: Collection[str], *, now: datetime | None = None) -> dict[str, str]:
        """Of these jobs let those go that are overdue still, each as what it waits for has ended.

        Returns which, and what each is now: PENDING, how it has ended, or DELETED.
        """

    @abstractmethod
    def reopen(self, worker: WorkerInfo) -> None:
        """Give a worker that has none an open row, as if it had beaten now: it lives on, or is found dead by its lease.

        One that was closed keeps what it says.
        """

    @abstractmethod
    def prune(
        self, *, older_than_seconds: float | None, limit: int, keep: int | None = None, now: datetime | None = None
    ) -> int:
        """Delete about `limit` jobs that finished longer ago than this, or before the newest `keep`; returns how many.

        The jobs of a workflow go together, once all of them have; so it may be more. Of a large table
        one call looks at a part only: `is_pruning` until all of it has been seen. With `keep` that is twice,
        and the first time nothing is deleted.
        """

    def tend_partitions(self, *, older_than_seconds: float | None, now: datetime | None = None) -> Tended:
        """Make partitions for what comes, and drop those whose jobs all ended longer ago than this; a step at a time.

        Once it has been called, `prune` leaves to it what will be dropped as a whole.
        """
        return Tended()

    @property
    def is_pruning(self) -> bool:
        """Whether the last `prune` has left some of the table to the next one."""
        return False

    @abstractmethod
    def prune_keys(self, *, limit: int) -> int:
        """Delete at most `limit` unique keys that keep nobody from enqueueing any more; returns how many."""

    @abstractmethod
    def prune_limits(self) -> int:
        """Delete limits of keys that calls have made and nobody has needed for a day; returns how many."""

    @abstractmethod
    def eldest_worker(self) -> str | None:
        """The id of the worker that started first, of those that live and have beaten within ELDEST_SECONDS: the one
        that does the upkeep."""

    def workers_before(self, worker_id: str) -> WorkersBefore:
        """The live workers that share this one's host and queues, and registered before it.

        Empty where the database wakes nobody: SQLite.
        """
        return WorkersBefore()

    @abstractmethod
    def close_worker(self, worker_id: str) -> None:
        """Mark the worker as stopped."""

    @abstractmethod
    def wait(self, seconds: float, bell: Bell) -> bool:
        """Sleep for at most so long, until the bell rings or new jobs are announced; whether they were.

        Only where the store `supports_listen` are they ever announced here: elsewhere the `WatchSession` sees them.
        """


class Sign(enum.Flag):
    """What a worker was woken for; false is nothing."""

    NONE = 0
    JOBS = enum.auto()
    COMMANDS = enum.auto()


class WatchSession(Session):
    """A worker's connection for heartbeats, wake-ups and commands."""

    @abstractmethod
    def wait(self, timeout: float) -> Sign:
        """Wait for a sign of commands (or jobs: see `WorkSession.wait`) for at most so many seconds; what it was."""

    @abstractmethod
    def run(self, template: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a statement of `store.control`, in a transaction of its own; its rows, if it gives any."""

    @abstractmethod
    def heartbeat(self, worker_id: str) -> bool:
        """Move the worker's heartbeat to now; False when it has been declared dead."""
