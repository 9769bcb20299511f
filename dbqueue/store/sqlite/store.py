"""The store on SQLite: the same contract under the file's one write lock.

Every writing transaction begins with BEGIN IMMEDIATE: it waits for the lock at its start, where
waiting is possible; a transaction that read first and wrote later would fail at once. Between
BEGIN and COMMIT no other process can claim, so a plain SELECT picks the jobs.

Times are text in UTC with milliseconds, which compare as they sort (see `tables`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.pool import PoolProxiedConnection

from dbqueue import failpoints
from dbqueue.bulk import Batch
from dbqueue.errors import OperationalError
from dbqueue.jobs import storable
from dbqueue.store import steps as operations
from dbqueue.store.base import Store
from dbqueue.store.engine import Access, make_engine
from dbqueue.store.heartbeats import Heartbeats
from dbqueue.store.records import JobRecord
from dbqueue.store.rows import Finish
from dbqueue.store.sqlite import sql
from dbqueue.store.sqlite.driver import immediate, translated
from dbqueue.store.sqlite.files import file_identity, file_of, why_away
from dbqueue.store.sqlite.inserts import NOW, SqliteInserts
from dbqueue.store.sqlite.liveness import WorkerLocks
from dbqueue.store.sqlite.watch_session import SqliteWatchSession
from dbqueue.store.sqlite.work_session import SqliteWorkSession
from dbqueue.store.statements import Statement
from dbqueue.store.tables import NAMES, PREFIX
from dbqueue.store.transactions import completing
from dbqueue.store.transactions.joining import JoinedSqlite
from dbqueue.store.values import moment_or_none, text_or_none, whole_number
from dbqueue.store.workflows import words

T = TypeVar("T")


class SqliteStore(Store):
    dialect = "sqlite"
    supports_listen = False
    notifies = False
    sees_deaths = True

    def __init__(self, url: str, *, pool_size: int, connect_timeout: float, shown_url: str, folder: str = "") -> None:
        self.access = Access(url, pool_size, connect_timeout, folder=folder)
        self.engine = make_engine(self.access)
        self.path = file_of(url, folder)
        self.schema, self.url = None, shown_url
        self.names = {
            **{name: f"{PREFIX}{name}" for name in NAMES},
            **words.SQLITE,
            "now": NOW,
            "text_of_body": "body",
            "text_of_destination": "destination",
            "batch_rows": "(SELECT value AS body FROM json_each(:batch)) AS batch",
            "seconds_ago": "strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || :seconds || ' seconds')",
            "seconds_ahead": "strftime('%Y-%m-%d %H:%M:%f', 'now', '+' || :ahead || ' seconds')",
            "highest_seq": str(2**63 - 1),  # each number is one more than the highest there
        }
        self.identity = sql.IDENTITY
        self.inserts = SqliteInserts(self.names)
        self.heartbeats = Heartbeats()
        """As the locks of workers: a session that was made anew remembers them."""
        # All threads share the one connection of a database in memory: a statement of one would join the
        # transaction that another has begun, and be undone with it.
        self.in_memory = self.path is None
        self._turn: AbstractContextManager[Any] = threading.RLock() if self.in_memory else contextlib.nullcontext()

    @functools.cached_property
    def worker_locks(self) -> WorkerLocks:
        """Held by the store rather than a session: they outlive a connection that broke."""
        return WorkerLocks(self.path)

    def worker_is_gone(self, worker_id: str) -> bool:
        return self.worker_locks.released(worker_id)

    def close(self) -> None:
        locks = self.__dict__.get("worker_locks")
        if locks is not None:
            locks.close()
            if locks.closed:
                del self.worker_locks  # opened anew by the next use
        super().close()

    def listed(self, values: Collection[str]) -> str:
        found: Collection[Any] = values  # a row may have bytes for an id, which is none: nothing is found by it
        return json.dumps(storable(value for value in found if isinstance(value, str)))

    def finishing(self, row: Finish, *, linked: bool) -> operations.Steps[tuple[bool, bool]]:
        return completing.finish_sqlite(self, row, linked=linked)

    def content_of(self, job_id: str, lease: str, content: bytes) -> Statement:
        return completing.content_sqlite(self, job_id, lease, content)

    def insert(self, table: sa.Table) -> sqlite.Insert:
        return sqlite.insert(table)

    def in_transaction(self, driver: Any) -> bool:
        return bool(driver.in_transaction)

    def task_begin(self, idle_seconds: float | None) -> str:
        return "BEGIN IMMEDIATE"

    def is_locked(self, error: Exception) -> bool:
        return "database is locked" in str(error)

    def turn(self) -> AbstractContextManager[Any]:
        return self._turn

    def perform(self, operation: Callable[[], operations.Steps[T]]) -> T:
        def run(driver: sqlite3.Connection) -> T:
            with immediate(driver):
                return operations.run(operation(), JoinedSqlite(driver).reply)

        return self._run(run)

    @contextlib.contextmanager
    def translating(self) -> Iterator[None]:
        with self._turn, translated():
            yield

    # enqueue and results

    def enqueue(self, jobs: Batch) -> Mapping[str, str]:
        jobs = list(jobs)  # all made before the file is locked

        def run(driver: sqlite3.Connection) -> dict[str, str]:
            failpoints.hit("enqueue.before")
            with immediate(driver):
                taken = operations.run(self.inserts.steps(jobs), JoinedSqlite(driver).reply)
            failpoints.hit("enqueue.after")
            return taken

        return self._run(run)

    def wake(self) -> None:
        """Nothing to do: workers see the file change."""

    def fetch(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        rows = self._run(lambda driver: driver.execute(self.text(sql.FETCH), [self.listed(job_ids)]).fetchall())
        return {row[0]: _record(row) for row in rows}

    def finished(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        rows = self._run(lambda driver: driver.execute(self.text(sql.FINISHED), [self.listed(job_ids)]).fetchall())
        return {row[0]: _record(row) for row in rows}

    def connect(self) -> AbstractContextManager[sa.Connection]:
        @contextlib.contextmanager
        def connected() -> Iterator[sa.Connection]:
            with self.translating(), self.engine.connect() as connection, immediate(_driver(connection)):
                yield connection

        return connected()

    def same_database(self, ask: Callable[[str], Sequence[Any]]) -> bool:
        theirs, ours = ask(self.identity)[0], self.path
        return bool(theirs) and ours is not None and ours.exists() and ours.samefile(str(theirs))

    def _run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        with self.translating():
            pooled = self.engine.raw_connection()
            try:
                return operation(cast(sqlite3.Connection, pooled.driver_connection))
            finally:
                pooled.close()

    # worker

    def work_session(self, label: str) -> SqliteWorkSession:
        return SqliteWorkSession(self, self._dedicated())

    def watch_session(self, label: str) -> SqliteWatchSession:
        connection = self._dedicated()
        try:
            return SqliteWatchSession(self, connection)
        except BaseException:
            connection.close()
            raise

    def still_there(self) -> Callable[[], None]:
        """What raises OperationalError once the file has been deleted or replaced, under a connection that stays open.

        For those of workers: a connection of the pool is looked at when it is given out.
        """
        opened = file_identity(self.path)

        def check() -> None:
            if (why := why_away(self.path, opened)) is not None:
                raise OperationalError(why)

        return check

    def _dedicated(self) -> PoolProxiedConnection:
        """A connection outside the pool; a database in memory has only the one."""
        with self.translating():
            pooled = self.engine.raw_connection()
            if self.path is not None:
                pooled.detach()
            return pooled


def _driver(connection: sa.Connection) -> sqlite3.Connection:
    return cast(sqlite3.Connection, connection.connection.driver_connection)


def _record(row: tuple[Any, ...]) -> JobRecord:
    values: list[Any] = [text_or_none(value) for value in row]
    values[8] = whole_number(row[8])
    values[10:13] = map(moment_or_none, row[10:13])
    values[18:] = (value if isinstance(value, bytes) else None for value in row[18:])
    return JobRecord(*values)
