"""What the engine asks of a database: the contract that PostgreSQL and SQLite both keep.

A `Store` belongs to a process: it has a pool of connections for enqueues and reads, and opens two
kinds of connection of their own for a worker, a `WorkSession` (rounds of complete and claim, and
wake-ups where the database notifies) and a `WatchSession` (heartbeats and commands). Nothing above
this package knows which database it is; where behaviour must differ, it asks a capability flag.

Every operation that compares with the time takes an optional `now` for tests; otherwise the
database's clock decides.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from dbqueue import failpoints
from dbqueue.bulk import Batch
from dbqueue.store.records import JobRecord
from dbqueue.store.sessions import WatchSession, WorkSession
from dbqueue.store.steps import Steps
from dbqueue.workflows import Workflow

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine, Table

    from dbqueue.store.engine import Access
    from dbqueue.store.inserts import Inserts
    from dbqueue.store.rows import Finish
    from dbqueue.store.statements import Statement
    from dbqueue.store.transactions.task_engines import TaskEngines

T = TypeVar("T")


class Store(ABC):
    """The queue's database, for one process."""

    dialect: str
    supports_listen: bool
    """Whether a worker of this store is told of enqueues; without it, workers poll often."""

    must_poll: bool = False
    """Whether nobody tells a worker of new jobs, not even its `WatchSession`: its rounds look for them."""

    notifies: bool
    """Whether an enqueue tells those workers that can be told."""

    sees_deaths: bool = False
    """Whether the kernel tells at once that a worker has died, so that it pays to look often."""

    pool_limit: int = 0
    """How many connections of the pool may turn out to be broken, one after the other."""

    in_memory: bool = False
    """Whether the database lives in this process alone, and ends with it."""

    path: Path | None = None
    """The file of a database that is one."""

    engine: Engine
    schema: str | None
    inserts: Inserts
    """The enqueue statements, for callers' connections."""
    identity: str
    """A query whose row tells this database from any other."""
    url: str
    """Where the database is, with its password masked: fit to print."""
    names: dict[str, str]
    """What stands in statements for the tables, and for the words in which the databases differ."""

    def text(self, template: str) -> str:
        """A statement with this database's names of tables, and its words, in the place of {names}."""
        return template.format(**self.names)

    @abstractmethod
    def insert(self, table: Table) -> Any:
        """SQLAlchemy's INSERT with ON CONFLICT, which is in the dialects and has one meaning in both."""

    @abstractmethod
    def translating(self) -> AbstractContextManager[None]:
        """Turns the driver's errors into dbqueue's, around a use of `engine`."""

    def ensure_schema(self, *, migrate: bool = True) -> None:
        """Raise SchemaError unless the tables fit this version; with `migrate`, SQLite migrates by itself first."""
        from dbqueue.store import migrate as migrations

        with self.translating():
            if migrate:
                migrations.ensure(self.engine, schema=self.schema)
            else:
                migrations.check(self.engine, schema=self.schema).require_usable()

    @abstractmethod
    def enqueue(self, jobs: Batch) -> Mapping[str, str]:
        """Write the jobs, durable on return, and wake a worker.

        Returns, for each job that was not written because its unique key is another's, the id of that one.
        Raises DuplicateTaskId for an id in use by other content, OperationalError where the
        database cannot be reached. Ids are made by the caller, so that repeating it is safe.
        """

    def enqueue_workflow(self, workflow: Workflow) -> None:
        """Write a workflow, whole or not at all, as `enqueue` writes jobs: it may be repeated."""
        from dbqueue.store.workflows.writing import write

        if workflow.edges:
            failpoints.hit("enqueue.before")
            self.perform(lambda: write(self, workflow))
            failpoints.hit("enqueue.after")
            self.wake()
        else:
            self.enqueue(workflow.jobs)

    def add_header(self, workflow: Workflow, job_id: str, lease: str) -> bool:
        """Add jobs to the header of the chord that this running job belongs to; see `workflows.changes.add_header`."""
        from dbqueue.store.workflows.changes import add_header

        added = self.perform(lambda: add_header(self, workflow, job_id, lease))
        self.wake()
        return added

    @abstractmethod
    def perform(self, operation: Callable[[], Steps[T]]) -> T:
        """Run an operation in a transaction of its own; again from its start where the connection was broken."""

    # the transactions of tasks and of callers, see `store.transactions.completing` and `store.transactions.tasks`

    access: Access

    @abstractmethod
    def finishing(self, row: Finish, *, linked: bool) -> Steps[tuple[bool, bool]]:
        """End one job; whether the fence let it, and whether others may run that waited for it."""

    @abstractmethod
    def content_of(self, job_id: str, lease: str, content: bytes) -> Statement:
        """Write a result in another serializer, before `finishing`."""

    @abstractmethod
    def in_transaction(self, driver: Any) -> bool:
        """Whether the driver's connection, of whatever kind, has begun a transaction."""

    def is_busy(self, driver: Any) -> bool:
        """Whether the driver's connection was interrupted in a statement, with which the server goes on."""
        return False

    @abstractmethod
    def task_begin(self, idle_seconds: float | None) -> str:
        """What a task's transaction begins with; empty for nothing. `idle_seconds`: how long it may then do nothing."""

    def is_locked(self, error: Exception) -> bool:
        """Whether this error of the driver's says that another connection has kept the only lock for too long."""
        return False

    def turn(self) -> AbstractContextManager[Any]:
        """Held while a transaction is open, where the whole process has one connection."""
        return contextlib.nullcontext()

    @cached_property
    def task_engines(self) -> TaskEngines:
        from dbqueue.store.transactions.task_engines import TaskEngines

        return TaskEngines(self)

    @abstractmethod
    def listed(self, values: Collection[str]) -> Any:
        """Those of these ids that a row can have, as a parameter of a statement."""

    @abstractmethod
    def wake(self) -> None:
        """Tell idle workers soon that there is work; returns at once, never fails.

        Does nothing where workers find out by polling.
        """

    def wait_briefly(self, connection: Connection, seconds: float) -> None:  # noqa: B027 - see SQLite
        """Let no statement of this connection's transaction wait longer for somebody's lock: LockTimeout comes then."""

    def announce_command(self, connection: Connection) -> None:  # noqa: B027 - where workers look by themselves
        """Wake the workers for a command when this connection's transaction commits."""

    def worker_is_gone(self, worker_id: str) -> bool:
        """Whether the kernel tells that this worker has ended, though its heartbeat is young; False: not known."""
        return False

    @abstractmethod
    def fetch(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        """The records of those of these jobs that exist."""

    @abstractmethod
    def finished(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        """The records of those of these jobs that have ended: what waiting asks, again and again."""

    def forget(self, job_id: str) -> bool:
        """Delete a finished job's row; False when it has none, is not finished, or another job waits for its result."""
        from dbqueue.store.workflows.removing import forget

        return bool(self.perform(lambda: forget(self, [job_id])))

    @abstractmethod
    def work_session(self, label: str) -> WorkSession:
        """Open a worker's connection; `label` is shown by the database's own lists of sessions."""

    @abstractmethod
    def watch_session(self, label: str) -> WatchSession:
        """Open a worker's second connection."""

    @abstractmethod
    def connect(self) -> AbstractContextManager[Connection]:
        """A pooled SQLAlchemy connection in a transaction, for reads and operators' changes."""

    @abstractmethod
    def same_database(self, ask: Callable[[str], Sequence[Any]]) -> bool:
        """Whether a caller's connection leads to this database.

        `ask(sql)` runs one query on the caller's connection and returns its first row.
        """

    def close(self) -> None:
        """Give the pooled connections back; the store may be used again afterwards."""
        if "task_engines" in self.__dict__:
            self.task_engines.close()
        self.engine.dispose()
