"""The store on PostgreSQL: psycopg for the hot statements, on connections from SQLAlchemy's pool."""

from __future__ import annotations

import contextlib
import logging
import math
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import Any, Final, TypeVar, cast

import psycopg
import sqlalchemy as sa
from psycopg.errors import InsufficientPrivilege
from psycopg.pq import TransactionStatus
from sqlalchemy.dialects import postgresql
from sqlalchemy.pool import PoolProxiedConnection

from dbqueue import failpoints
from dbqueue.bulk import Batch
from dbqueue.errors import DBQueueError
from dbqueue.jobs import NewJob, is_new, storable
from dbqueue.store import steps as operations
from dbqueue.store.base import Store
from dbqueue.store.engine import OWN_SETTINGS_HERE, Access, make_engine
from dbqueue.store.inserts import refuse_other_content, refuse_unwritten
from dbqueue.store.postgres import copying, sql
from dbqueue.store.postgres.driver import UNFIT, UNTOLD, Driver, Untold, translated
from dbqueue.store.postgres.inserts import PostgresInserts
from dbqueue.store.postgres.liveness import Liveness
from dbqueue.store.postgres.partitions.catalog import row_words
from dbqueue.store.postgres.pool_connection import PoolConnection, closed_unless_opened
from dbqueue.store.postgres.pooler import PoolerConnection
from dbqueue.store.postgres.quick_pool import QuickPool
from dbqueue.store.postgres.watch_session import PostgresWatchSession
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.records import JobRecord
from dbqueue.store.rows import Finish
from dbqueue.store.statements import Statement, literal, numbered
from dbqueue.store.tables import NAMES, PREFIX
from dbqueue.store.transactions import completing
from dbqueue.store.transactions.joining import JoinedPsycopg
from dbqueue.store.trouble import Tries, Trouble, first_line, may_be_outdated, trouble_of
from dbqueue.store.values import moment_or_none
from dbqueue.store.workflows import words
from dbqueue.workflows import Workflow

logger: Final = logging.getLogger("dbqueue.store")
NOT_WOKEN: Final = "No worker was woken (%s); they will find the job when they poll"
T = TypeVar("T")
NO_SETTINGS: Final[Mapping[str, str]] = {}


class _InTheWay(InsufficientPrivilege):
    """There are rows with the ids of jobs that were to be enqueued, and the user may not read whose they are."""


class PostgresStore(Store):
    dialect = "postgresql"
    notifies = True

    def __init__(
        self,
        url: str,
        *,
        schema: str | None,
        pool_size: int,
        connect_timeout: float,
        shown_url: str,
        pooler: bool = False,
        listen_url: str | None = None,
    ) -> None:
        self.access = Access(url, pool_size, connect_timeout, pooler)
        self.engine = make_engine(self.access)
        # One that is dropped and not closed leaves no connection behind; at the program's end the system sees to it.
        weakref.finalize(self, self.engine.dispose).atexit = False
        self._workers_engine = self.engine
        if listen_url is not None:
            self._workers_engine = make_engine(Access(listen_url, 1, connect_timeout))
        self.schema, self.url = schema, shown_url
        self.supports_listen = not pooler or listen_url is not None
        self.must_poll = not self.supports_listen
        self.pool_limit = 2 * pool_size  # every connection of the pool may be broken, its overflow included
        quote = self.engine.dialect.identifier_preparer.quote
        prefix = f"{quote(schema)}." if schema else ""
        self.names = {
            **{name: f"{prefix}{PREFIX}{name}" for name in NAMES},
            "jobs_text": literal(f"{prefix}{PREFIX}jobs"),
            **words.POSTGRES,
            **row_words(partitioned=False),  # until a worker's session has looked
            "now": "now()",
            "text_of_body": "body::text",
            "text_of_destination": "destination::text",
            "batch_rows": "(SELECT value AS body FROM json_array_elements(CAST(:batch AS json))) AS batch",
            "seconds_ago": "now() - make_interval(secs => :seconds)",
            "seconds_ahead": "now() + make_interval(secs => :ahead)",
            # A sequence gives them out, whatever number somebody has written: at 10,000 a second for 900 years.
            "highest_seq": str(2**48),
        }
        self.inserts = PostgresInserts(self.names)
        self.copy = copying.statement(self.names["jobs"])
        self._insert_one, names = numbered(self.inserts.one)
        self._values_of_one = attrgetter(*names)
        self._pooler = pooler
        self.liveness = Liveness()
        self.identity = self.text(sql.IDENTITY)

    def listed(self, values: Collection[str]) -> list[str]:
        return storable(values)

    def finishing(self, row: Finish, *, linked: bool) -> operations.Steps[tuple[bool, bool]]:
        return completing.finish_postgres(self, row, linked=linked)

    def content_of(self, job_id: str, lease: str, content: bytes) -> Statement:
        return completing.content_postgres(self, job_id, lease, content)

    def insert(self, table: sa.Table) -> postgresql.Insert:
        return postgresql.insert(table)

    def in_transaction(self, driver: Any) -> bool:
        return bool(driver.info.transaction_status != TransactionStatus.IDLE)

    def is_busy(self, driver: Any) -> bool:
        return bool(driver.info.transaction_status == TransactionStatus.ACTIVE)

    def task_begin(self, idle_seconds: float | None) -> str:
        if idle_seconds is None:
            return ""
        return f"SELECT set_config('idle_in_transaction_session_timeout', '{math.ceil(idle_seconds * 1000)}', true)"

    def perform(self, operation: Callable[[], operations.Steps[T]]) -> T:
        def run(driver: PoolConnection) -> T:
            with self._transaction(driver):
                return operations.run(operation(), self._reply(driver))

        return self._run(run)

    @contextlib.contextmanager
    def _transaction(self, driver: PoolConnection) -> Iterator[None]:
        """In which no wait for a lock is endless, through a pooler neither: there its connections have no settings."""
        with driver.transaction():
            if self._pooler:
                driver.execute(OWN_SETTINGS_HERE)
            yield

    def translating(self) -> AbstractContextManager[None]:
        return translated()

    # enqueue and results

    def enqueue(self, jobs: Batch) -> Mapping[str, str]:
        try:
            return self._enqueue(jobs)
        except Untold as error:
            self._acknowledge(jobs, error)
            return {}

    def enqueue_workflow(self, workflow: Workflow) -> None:
        try:
            super().enqueue_workflow(workflow)
        except Untold as error:
            self._acknowledge(workflow.jobs, error)

    def _acknowledge(self, jobs: Batch, error: Untold) -> None:
        """Of a user who may only insert: rows of new ids, which are in the way of another try, are those of the first.

        Raises the error where they are not, or may be somebody else's; and where some of several jobs may have been
        left out for others that hold their keys: which, the first try's answer said.
        """
        may_be_left_out = len(jobs) > 1 and any(job.unique_key is not None for job in jobs)
        if may_be_left_out or not (isinstance(error.__cause__, _InTheWay) and all(is_new(job.id) for job in jobs)):
            raise error
        self.wake()

    def _enqueue(self, jobs: Batch) -> Mapping[str, str]:
        if not jobs:
            return {}
        if len(jobs) == 1 and not self._pooler:
            job = next(iter(jobs))
            if job.is_plain and job.unique_key is None:
                self._run(lambda driver: self._enqueue_one(driver, job), settled=False)
                return {}
        tries = Tries(self.pool_limit)  # for both: what COPY has done unheard is in its own way, and the INSERT's
        if copying.can_copy(jobs) and self._run(lambda driver: self._copied(driver, jobs), tries):
            return {}
        jobs = list(jobs)
        # One statement needs no transaction, unless it may write some jobs and then refuse others.
        one_statement = len(jobs) == 1 and jobs[0].unique_key is None

        def run(driver: PoolConnection) -> dict[str, str]:
            failpoints.hit("enqueue.before", driver)
            with contextlib.nullcontext() if one_statement else self._transaction(driver):
                taken = operations.run(self.inserts.steps(jobs), self._reply(driver))
            failpoints.hit("enqueue.after", driver)
            _wake_on(driver)
            return taken

        return self._run(run, tries)

    def _enqueue_one(self, driver: PoolConnection, job: NewJob) -> None:
        """The way of most calls, and the quickest."""
        failpoints.hit("enqueue.before", driver)
        if not driver.insert_and_notify(self._insert_one, self._values_of_one(job), sql.NOTIFY):
            driver.settle()
            found = self._reply(driver)(self.inserts.duplicates([job])).rows
            refuse_other_content([job], found)
            refuse_unwritten([job], found)
        failpoints.hit("enqueue.after", driver)

    def _reply(self, driver: PoolConnection) -> Callable[[Statement], operations.Reply]:
        reply = JoinedPsycopg(driver).reply

        def run(statement: Statement) -> operations.Reply:
            try:
                return reply(statement)
            except InsufficientPrivilege as error:
                if statement.sql == self.inserts.same:
                    raise _InTheWay(*error.args) from error
                raise

        return run

    def _copied(self, driver: PoolConnection, jobs: Batch) -> bool:
        failpoints.hit("enqueue.before", driver)
        with self._transaction(driver) if self._pooler else contextlib.nullcontext():  # the statement is one by itself
            copied = copying.copy(driver, self.copy, jobs)
        failpoints.hit("enqueue.after", driver, when=copied)
        if copied:
            _wake_on(driver)
        return copied

    def wake(self) -> None:
        try:
            self._run(_wake_on)
        except DBQueueError as error:
            logger.debug(NOT_WOKEN, error)

    def wait_briefly(self, connection: sa.Connection, seconds: float) -> None:
        connection.exec_driver_sql(sql.WAIT_BRIEFLY, {"seconds": str(seconds)})

    def announce_command(self, connection: sa.Connection) -> None:
        connection.execute(sa.text(sql.NOTIFY_CONTROL))

    def close(self) -> None:
        self._workers_engine.dispose()
        super().close()

    def fetch(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        return self._records(job_ids, sql.FETCH_ONE, sql.FETCH)

    def finished(self, job_ids: Sequence[str]) -> dict[str, JobRecord]:
        return self._records(job_ids, sql.FINISHED_ONE, sql.FINISHED)

    def _records(self, job_ids: Sequence[str], one: str, many: str) -> dict[str, JobRecord]:
        known = storable(job_ids)
        template, ids = (one, {"id": known[0]}) if len(known) == 1 else (many, {"ids": known})
        rows = self._run(lambda driver: driver.execute(self.text(template), ids).fetchall())
        return {row[0]: _record(row) for row in rows}

    def forget(self, job_id: str) -> bool:
        # Most are in no workflow, and have no edges: one statement, and no transaction.
        if not storable([job_id]):
            return False
        alone = self._run(lambda driver: driver.execute(self.text(sql.FORGET_ALONE), {"id": job_id}).fetchone())
        return alone is not None or super().forget(job_id)

    def connect(self) -> AbstractContextManager[sa.Connection]:
        @contextlib.contextmanager
        def connected() -> Iterator[sa.Connection]:
            with translated(), self.engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
                if self._pooler:
                    connection.exec_driver_sql(OWN_SETTINGS_HERE)
                try:
                    yield connection
                except BaseException as error:
                    if not connection.invalidated and self._is_spent(connection, error):
                        connection.invalidate()
                    raise

        return connected()

    def _is_spent(self, connection: sa.Connection, error: BaseException) -> bool:
        """Whether nothing more can be asked of the connection after this error.

        It leads to a server that takes no writes any more, or has settings that its role has no longer, or was left
        amid a statement: to try would hide what has come in between.
        """
        lost = trouble_of(error) is Trouble.LOST or may_be_outdated(error)
        return lost or self.is_busy(connection.connection.driver_connection)

    def same_database(self, ask: Callable[[str], Sequence[Any]]) -> bool:
        ours = self._run(lambda driver: driver.execute(self.identity).fetchone())
        return ours == tuple(ask(self.identity))

    def _run(self, operation: Callable[[PoolConnection], T], tries: Tries | None = None, *, settled: bool = True) -> T:
        """Run an operation that is safe to repeat on a pooled connection, anew where that was broken.

        Without `settled` the connection may have an answer to come. Raises Untold where it may have been done before
        it broke, and the user has no right to what would tell.
        """
        tries = tries or Tries(self.pool_limit)
        with translated():
            while True:
                pool = cast(QuickPool, self.engine.pool)
                try:
                    pooled = pool.take(settled=settled)
                except (psycopg.OperationalError, sa.exc.OperationalError) as error:
                    if not tries.again(trouble_of(error)):
                        raise
                    continue
                driver = cast(PoolConnection, pooled.driver_connection)
                try:
                    return operation(driver)
                except psycopg.Error as error:
                    if may_be_outdated(error):
                        pooled.invalidate()
                        if tries.unheard and isinstance(error, InsufficientPrivilege):
                            raise Untold(f"{UNTOLD} ({first_line(error)})") from error
                        raise
                    if not isinstance(error, UNFIT):
                        raise
                    trouble = Trouble.LOST if driver.closed else trouble_of(error)
                    if trouble is Trouble.LOST:
                        # The server was restarted, maybe. Not the whole pool at once: the connections
                        # that other threads have out would come back to a pool that nobody closes.
                        pooled.invalidate()
                        tries.unheard = tries.unheard or _may_have_been_done(error)
                    pooled.close()
                    if not tries.again(trouble):
                        raise
                finally:
                    pool.keep(pooled)

    # worker

    def work_session(self, label: str) -> PostgresWorkSession:
        return PostgresWorkSession(self, self._dedicated(self._workers_engine, label, sql.SESSION, sql.LISTEN))

    def watch_session(self, label: str) -> PostgresWatchSession:
        watch = f"{label} watch"
        return PostgresWatchSession(
            self, self._dedicated(self._workers_engine, watch, sql.WATCH_SESSION, sql.LISTEN_CONTROL)
        )

    def _dedicated(
        self, engine: sa.Engine, label: str, settings: Mapping[str, str] = NO_SETTINGS, listen: str | None = None
    ) -> PoolProxiedConnection:
        """A connection outside the pool, for as long as a worker lives."""
        settings = {"application_name": f"dbqueue {label}"[:63], **settings}
        with translated():
            pooled = engine.raw_connection()
            pooled.detach()
            driver = cast(Driver, pooled.dbapi_connection)
            if isinstance(driver, PoolerConnection):
                driver.local_settings = settings
                return pooled
            with closed_unless_opened(pooled):
                driver.prepare_threshold = 0
                for setting, value in settings.items():
                    driver.execute("SELECT set_config(%s, %s, false)", [setting, value])
                if listen is not None:
                    driver.execute(listen)
            return pooled


def _may_have_been_done(error: psycopg.Error) -> bool:
    """Whether the server has not said that it was not: classes 08 and 57 tell of the connection, and of its own end."""
    return error.sqlstate is None or error.sqlstate[:2] in ("08", "57")


def _wake_on(driver: PoolConnection) -> None:
    """What is to be found is committed already, and must not seem to have failed."""
    try:
        driver.notify(sql.NOTIFY)
    except psycopg.Error as error:
        logger.debug(NOT_WOKEN, error)


def _record(row: tuple[Any, ...]) -> JobRecord:
    return JobRecord(*row[:10], *map(moment_or_none, row[10:13]), *row[13:])
