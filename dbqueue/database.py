"""An application's door to its database: opened on first use, in each process anew."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from dbqueue import task_events, urls
from dbqueue.bulk import Batch
from dbqueue.calls import announce_published
from dbqueue.context import current_request
from dbqueue.errors import ImproperlyConfigured, SoftTimeLimitExceeded
from dbqueue.jobs import NewJob
from dbqueue.result.waiting import ResultWaiter
from dbqueue.services.connection import Connection
from dbqueue.workflows import Workflow

if TYPE_CHECKING:
    from dbqueue.conf import Settings
    from dbqueue.signing import Signer
    from dbqueue.store.base import Store
    from dbqueue.store.records import JobRecord

DEFAULT_URL: Final = "sqlite:///dbqueue.sqlite3"
"""Where jobs go when no URL is given: a file in the current folder."""

logger: Final = logging.getLogger("dbqueue.store")

_NOTHING: Final = object()
_joined: ContextVar[Any] = ContextVar("dbqueue_joined_connection", default=_NOTHING)


@contextmanager
def using(connection: Any) -> Iterator[None]:
    """Enqueue in the transaction of `connection`, for all calls in this block.

    `connection` is a SQLAlchemy Session, AsyncSession, Connection or AsyncConnection, a psycopg
    Connection or AsyncConnection, a sqlite3.Connection, or Django's, to the queue's own database; the
    asynchronous ones go with `adelay` and `aapply_async`. Its commit makes the jobs visible and
    wakes a worker; its rollback leaves nothing. Holds for this thread or asyncio task.

    None: calls in this block commit by themselves, at once; so does a call in a task with `transactional=True`,
    whose own transaction is joined otherwise.
    """
    token = _joined.set(connection)
    try:
        yield
    finally:
        _joined.reset(token)


def database_url(conf: Settings) -> str:
    """The one URL that `database_url`, `broker_url` and `result_backend` name together.

    Raises ImproperlyConfigured where they name different databases.
    """
    given = {name: conf[name] for name in ("database_url", "broker_url", "result_backend") if conf[name]}
    if not given:
        return DEFAULT_URL
    # A flag or the environment names the database as a whole: the code's URLs are of another place.
    for layer in ("flag", "environment"):
        given = {name: url for name, url in given.items() if conf.origin(name) == layer} or given
        if all(conf.origin(name) == layer for name in given):
            break
    (first, url), *others = given.items()
    for name, other in others:
        if not urls.same_database(url, other):
            raise ImproperlyConfigured(
                f"{first} ({urls.mask_url(url)}) and {name} ({urls.mask_url(other)}) name different databases: jobs "
                "and results live in one table, so give one URL, or the same one twice"
            )
    return str(url)


class TestClock(Protocol):
    """What an enqueue asks of a test's clock."""

    def now(self) -> datetime: ...
    def dated(self, job: NewJob) -> NewJob: ...


class Database:
    """The store of one application, reopened in a forked process."""

    def __init__(self, conf: Settings) -> None:
        self._conf = conf
        self._lock = threading.Lock()
        self._store: Store | None = None
        self._waiter: tuple[Store, ResultWaiter[JobRecord]] | None = None
        self._pid = 0
        self._folder: str | None = None
        """Where relative paths of SQLite files begin: the working folder of the first use, which a daemon leaves, and
        a task may. Processes that are forked later, and what else is opened in this one, are to find the same file."""
        self._signer: tuple[list[str], Signer] | None = None
        self.test_clock: TestClock | None = None
        """The clock of `dbqueue.testing.clock`, while a test has one."""
        self.in_child = False
        """Whether this is a process of a pool: a database in memory is its parent's, and out of its reach."""
        self._inherited: list[Store] = []
        """Stores of the process that this one was forked from. They are kept and never touched:
        closing such a connection here would end the other process's session."""

    @property
    def url(self) -> str:
        """The URL, fit to print."""
        return urls.mask_url(database_url(self._conf))

    @property
    def store(self) -> Store:
        if self._store is None or self._pid != os.getpid():
            self._open()
        assert self._store is not None
        return self._store

    @property
    def opened(self) -> Store | None:
        """The store, if this process has opened it."""
        return self._store if self._pid == os.getpid() else None

    def _store_for(self, connection: Any) -> Store:
        if connection is not None and (self._store is None or self._pid != os.getpid()):
            self._open(in_transaction=True)
        return self.store

    def _open(self, *, in_transaction: bool = False) -> None:
        from dbqueue.store import open_store

        with self._lock:
            if self._store is not None:
                if self._pid == os.getpid():
                    return
                self._inherited.append(self._store)
            url = urls.normalise_url(database_url(self._conf))
            listen_url = self._conf.database_listen_url
            self._stay()
            store = open_store(
                url,
                shown_url=self.url,
                schema=self._conf.database_schema,
                pool_size=self._conf.database_pool_size,
                connect_timeout=self._conf.database_connect_timeout,
                pooler=self._conf.database_pooler,
                listen_url=None if listen_url is None else urls.normalise_url(listen_url),
                folder=self._folder or "",
            )
            if store.in_memory and (self.in_child or self._inherited):
                raise ImproperlyConfigured(
                    "the database is in the memory of another process: with `sqlite://` use the pool solo, and with "
                    "others a file"
                )
            if store.dialect == "sqlite":
                # The embedded database has no operator who would run `dbqueue migrate`. Inside a caller's
                # transaction that may hold the file's one write lock, though, no table can be made.
                store.ensure_schema(migrate=not in_transaction)
            self._store, self._pid = store, os.getpid()

    def _stay(self) -> None:
        """Let relative paths begin in the working folder, whatever it will be later."""
        if self._folder is None:
            with contextlib.suppress(FileNotFoundError):  # it was deleted; an absolute path does not need it
                self._folder = os.getcwd()

    def _given(self, connection: Any) -> Any:
        """The connection to write on: the one that was given, else that of `using`, else that of the running task.

        None where there is none of them.
        """
        # One of `app.connection()` is the application's database itself.
        if connection is not None and not isinstance(connection, Connection):
            return connection
        joined = _joined.get()
        if joined is not _NOTHING:
            return joined
        unit = self._unit()
        return None if unit is None else unit.connection

    def _unit(self) -> Any:
        """The running task's own transaction, where it has one in this database."""
        request = current_request.get()
        unit = None if request is None else request._unit
        return None if unit is None or getattr(unit, "store", None) is not self.opened else unit

    def _ready(self, jobs: Batch) -> Batch:
        """The jobs as they are to be written: by the clock of a test, where there is one, and signed with the keys."""
        jobs, signer = self._dated(jobs), self.signer
        return jobs if signer is None else [signer.sign(job) for job in jobs]

    def _dated(self, jobs: Batch) -> Batch:
        return jobs if self.test_clock is None else [self.test_clock.dated(job) for job in jobs]

    @property
    def signer(self) -> Signer | None:
        """What signs this application's jobs, and verifies those that its workers claim; None without keys."""
        keys = self._conf.task_signing_keys
        if not keys:
            return None
        from dbqueue.signing import Signer

        if self._signer is None or self._signer[0] != keys:
            self._signer = keys, Signer(keys)
        return self._signer[1]

    def signed(self, job: NewJob) -> NewJob:
        """The job with its signature, if there are keys: for jobs that are not written by `enqueue`."""
        return job if self.signer is None else self.signer.sign(job)

    def signed_workflow(self, workflow: Workflow) -> Workflow:
        """The workflow with its jobs signed, if there are keys."""
        signer = self.signer
        if signer is None:
            return workflow
        sources = workflow.sources()
        return replace(workflow, jobs=tuple(signer.sign(job, sources.get(job.id, ())) for job in workflow.jobs))

    def close(self) -> None:
        """Close the pooled connections; the next use opens new ones."""
        if self._store is not None and self._pid == os.getpid():
            self._store.close()
            self._store, self._folder = None, None

    def before_fork(self) -> None:
        """Close unused connections: a forked process would hold the same sockets until its own end.

        A database in memory is nowhere else. What the database needs is imported now, for all processes to come. A
        store that was opened stays open for this process, which uses it again: to make another after the fork would
        write to some megabytes of pages that all share.
        """
        from dbqueue.store import load_store

        self._stay()
        if self.opened is None:
            load_store(urls.normalise_url(database_url(self._conf)))
        elif not self.opened.in_memory:
            self.opened.close()

    def enqueue(self, jobs: Batch, connection: Any = None) -> list[str]:
        """Write the jobs: in the caller's transaction where there is one, else durably and at once.

        Returns an id for each: its own, or that of the job that stands for it by a unique key.
        """
        connection = self._given(connection)
        jobs = self._ready(jobs)
        store = self._store_for(connection)
        if connection is None:
            taken = store.enqueue(jobs)
        else:
            from dbqueue.store.transactions.joining import enqueue_in

            taken = enqueue_in(store, connection, jobs)
        jobs = list(jobs)
        written = [job for job in jobs if job.id not in taken] if taken else jobs
        self._tell_monitors(store, connection, written)
        announce_published(written)
        return [taken.get(job.id, job.id) for job in jobs] if taken else [job.id for job in jobs]

    def enqueue_workflow(self, workflow: Workflow, connection: Any = None) -> None:
        """Write a workflow, whole or not at all, where `enqueue` writes jobs."""
        connection = self._given(connection)
        workflow = self._ready_workflow(workflow)
        store = self._store_for(connection)
        if connection is None:
            store.enqueue_workflow(workflow)
        else:
            from dbqueue.store.transactions.joining import enqueue_workflow_in

            enqueue_workflow_in(store, connection, workflow)
        self._tell_monitors(store, connection, workflow.jobs)
        announce_published(workflow.jobs)

    async def aenqueue_workflow(self, workflow: Workflow, connection: Any = None) -> None:
        """As `enqueue_workflow`, without blocking the event loop."""
        import asyncio

        connection = self._given(connection)
        if connection is None:
            await asyncio.to_thread(self.enqueue_workflow, workflow)
            return
        from dbqueue.store.transactions.joining import aenqueue_workflow_in

        workflow = self._ready_workflow(workflow)
        store = self._store_for(connection)
        await aenqueue_workflow_in(store, connection, workflow)
        if self._conf.task_send_sent_event:
            from dbqueue.store import events

            await events.asend_in(store, connection, self._sent(workflow.jobs))
        announce_published(workflow.jobs)

    def add_header(self, workflow: Workflow, job_id: str, lease: str) -> bool:
        """Add jobs to the header of the chord that this running job belongs to; False where it cannot be."""
        connection, workflow = self._given(None), self._ready_workflow(workflow)
        unit = self._unit() if _joined.get() is _NOTHING else None
        if unit is not None and not unit.is_async:
            return bool(unit.add_header(workflow))
        if connection is None:
            return self.store.add_header(workflow, job_id, lease)
        from dbqueue.store.transactions.joining import run_in
        from dbqueue.store.workflows.changes import add_header

        return run_in(self.store, connection, add_header(self.store, workflow, job_id, lease))

    def _ready_workflow(self, workflow: Workflow) -> Workflow:
        jobs = self._dated(workflow.jobs)
        return self.signed_workflow(workflow if jobs is workflow.jobs else replace(workflow, jobs=tuple(jobs)))

    async def aenqueue(self, jobs: Batch, connection: Any = None) -> list[str]:
        """As `enqueue`, without blocking the event loop."""
        import asyncio

        connection = self._given(connection)
        if connection is None:
            return await asyncio.to_thread(self.enqueue, jobs)
        from dbqueue.store.transactions.joining import aenqueue_in

        jobs = self._ready(jobs)
        store = self._store_for(connection)
        taken = await aenqueue_in(store, connection, jobs)
        jobs = list(jobs)
        written = [job for job in jobs if job.id not in taken] if taken else jobs
        if self._conf.task_send_sent_event and written:
            from dbqueue.store import events

            await events.asend_in(store, connection, self._sent(written))
        announce_published(written)
        return [taken.get(job.id, job.id) for job in jobs] if taken else [job.id for job in jobs]

    def announce(self, jobs: Sequence[NewJob]) -> None:
        """Tell monitors and receivers of `after_task_publish` about jobs that were written by other ways."""
        self._tell_monitors(self.store, None, jobs)
        announce_published(jobs)

    def _tell_monitors(self, store: Store, connection: Any, jobs: Sequence[NewJob]) -> None:
        """With `task_send_sent_event`, an event for each job: in the transaction that they are in."""
        if self._conf.task_send_sent_event and jobs:
            from dbqueue.store import events

            if connection is not None:
                events.send_in(store, connection, self._sent(jobs))
                return
            try:
                events.send(store, self._sent(jobs))
            except SoftTimeLimitExceeded:  # that of the task which calls
                raise
            except Exception as error:  # noqa: BLE001 - who hears of an error sends again what is there already
                logger.warning("Monitors are not told of %d jobs that are enqueued (task-sent): %s", len(jobs), error)

    def _sent(self, jobs: Sequence[NewJob]) -> list[task_events.Event]:
        return [task_events.sent(job, levels=self._conf.task_repr_maxlevels) for job in jobs]

    @property
    def waiter(self) -> ResultWaiter[JobRecord]:
        store = self.store
        with self._lock:
            if self._waiter is None or self._waiter[0] is not store:
                self._waiter = store, ResultWaiter(store.finished, lambda record: record.took_seconds())
            return self._waiter[1]

    def set_state(self, job_id: str, state: str | None, meta: str | None) -> bool:
        """Show a state and a meta (JSON text) on a running job; False where it does not run."""
        from dbqueue.store import changes

        return changes.set_state(self.store, job_id, state=state, meta=meta)

    def record(self, job_id: str) -> JobRecord | None:
        return self.store.fetch([job_id]).get(job_id)
