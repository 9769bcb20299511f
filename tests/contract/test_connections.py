"""What each connection is told: to PostgreSQL how to find out that a host has gone, to SQLite how to write."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from typing import Any, Final, cast

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.errors import OperationalError
from dbqueue.jobs import Succeeded
from dbqueue.store import open_store
from dbqueue.store.base import Store
from dbqueue.store.engine import BUSY_TIMEOUT_SECONDS
from dbqueue.store.postgres import copying, sql
from dbqueue.store.postgres.watch_session import PostgresWatchSession
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.sqlite.store import SqliteStore
from dbqueue.store.sqlite.watch_session import SqliteWatchSession
from dbqueue.store.sqlite.work_session import SqliteWorkSession
from dbqueue.store.statements import Statement
from dbqueue.store.steps import Steps
from dbqueue.store.transactions.async_tasks import AsyncTaskTransaction
from dbqueue.store.transactions.tasks import TaskTransaction
from dbqueue.store.trouble import LOCK_SECONDS, ROUND_LOCK_SECONDS
from tests.contract.callers import sqlite_path
from tests.contract.workflows import chord, done
from tests.servers import libpq_url
from tests.stores import TestWorker, claimed_job, count, enqueued, new_job, opened, row
from tests.waiting import wait_until

OPTIONS = {
    (socket.SOL_SOCKET, "SO_KEEPALIVE"): 1,
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE"): 30,
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL"): 10,
    (socket.IPPROTO_TCP, "TCP_KEEPCNT"): 3,
    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"): 20_000,
}
"""Seconds, but for the last: milliseconds."""

FULL = 2
"""Of SQLite's `synchronous`."""

Driver = psycopg.Connection[Any]


@contextmanager
def pooled(store: Store) -> Iterator[Driver]:
    connection = store.engine.raw_connection()
    yield cast(Driver, connection.driver_connection)
    connection.close()


@contextmanager
def of_rounds(store: Store) -> Iterator[Driver]:
    session = cast(PostgresWorkSession, store.work_session("test"))
    yield session._driver
    session.close()


@contextmanager
def of_watch(store: Store) -> Iterator[Driver]:
    session = cast(PostgresWatchSession, store.watch_session("test"))
    yield session._driver
    session.close()


@pytest.mark.parametrize("connected", [pooled, of_rounds, of_watch], ids=lambda each: each.__name__)
def test_a_host_that_is_silent_is_given_up(postgres_url: str, connected: Callable[[Store], Any]) -> None:
    known = [(level, name) for level, name in OPTIONS if hasattr(socket, name)]  # all of them on Linux
    with opened(postgres_url) as store, connected(store) as driver:
        same = socket.socket(fileno=os.dup(driver.fileno()))
        if same.family == socket.AF_UNIX:
            pytest.skip("a socket of this host, which cannot go without a word")
        found = {(level, name): same.getsockopt(level, getattr(socket, name)) for level, name in known}
        same.close()
    assert found == {key: OPTIONS[key] for key in known}


@pytest.mark.parametrize(
    ("connected", "seconds"), [(pooled, LOCK_SECONDS), (of_rounds, ROUND_LOCK_SECONDS), (of_watch, 4)]
)
def test_no_statement_waits_for_ever_for_a_lock(
    postgres_url: str, connected: Callable[[Store], Any], seconds: int
) -> None:
    with opened(postgres_url) as store, connected(store) as driver:
        row = driver.execute("SELECT current_setting('lock_timeout')").fetchone()
    assert row == (f"{seconds}s",)


IDLE = "SELECT current_setting('idle_in_transaction_session_timeout')"


@pytest.mark.parametrize("connected", [pooled, of_rounds, of_watch], ids=lambda each: each.__name__)
def test_no_process_that_stands_still_keeps_its_locks_for_ever(
    postgres_url: str, connected: Callable[[Store], Any]
) -> None:
    with opened(postgres_url) as store, connected(store) as driver:
        row = driver.execute(IDLE).fetchone()
    assert row == ("1min",)


@pytest.mark.parametrize("connected", [of_rounds, of_watch], ids=lambda each: each.__name__)
def test_a_worker_with_nothing_to_do_keeps_its_connections(
    empty_postgres_url: str, connected: Callable[[Store], Any]
) -> None:
    """Whatever the role's time-out for idle sessions: it would break both of them each time."""
    url = sa.make_url(empty_postgres_url)
    with opened(empty_postgres_url) as store:
        with psycopg.connect(libpq_url(empty_postgres_url), autocommit=True) as owner:
            owner.execute(f"ALTER DATABASE {url.database} SET idle_session_timeout = '100ms'".encode())
        with connected(store) as driver:
            row = driver.execute("SELECT current_setting('idle_session_timeout')").fetchone()
    assert row == ("0",)


@pytest.mark.parametrize("connected", [of_rounds, of_watch], ids=lambda each: each.__name__)
def test_a_process_without_descriptors_has_no_connection(postgres_url: str, connected: Callable[[Store], Any]) -> None:
    """One is left, for the socket, and none to wait for the answer with: that is over once others are closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    with opened(postgres_url) as store:
        with connected(store):  # what is imported at first is imported
            pass
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1000, soft), hard))
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            os.close(taken.pop())
            with pytest.raises(OperationalError, match="Too many open files"), connected(store):
                pass
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)
        with connected(store):
            pass


def test_no_setting_of_the_role_changes_how_values_are_written(postgres_url: str) -> None:
    """Those of dbqueue's own connections are the same wherever it runs."""
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as owner:
        for setting in ("DateStyle = 'SQL, DMY'", "array_nulls = off", "IntervalStyle = 'sql_standard'"):
            owner.execute(f"ALTER DATABASE {owner.info.dbname} SET {setting}".encode())
    with opened(postgres_url) as store:
        jobs = [new_job(unique_key="k"), new_job()]
        store.enqueue(jobs)
        worker = TestWorker(store)
        worker.settle(*(Succeeded(job.id, job.lease, "7", 0.0) for job in worker.claim()))
        worker.close()
        found = store.finished([job.id for job in jobs])
    assert [(found[job.id].status, found[job.id].result) for job in jobs] == [("SUCCESS", "7")] * 2
    assert all(record.finished_at for record in found.values())


def test_no_statement_reads_otherwise_where_backslashes_escape(postgres_url: str) -> None:
    """As in databases of old applications; a workflow's statements are made in their transactions, too."""
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as owner:
        owner.execute(f"ALTER DATABASE {owner.info.dbname} SET standard_conforming_strings = off".encode())
    with opened(postgres_url) as store:
        store.enqueue_workflow(chord(["a", "b"], "c", options='{"delay_seconds": 90.5, "note": "\\\\u"}'))
        worker = TestWorker(store)
        worker.settle(*map(done, worker.claim()))
        worker.close()
        assert row(store, "c")["ready_at"] - row(store, "a")["finished_at"] == timedelta(seconds=90.5)


def test_through_a_pooler_neither(postgres_url: str) -> None:
    with closing(open_store(postgres_url, shown_url="", pooler=True)) as store:
        ((by_steps,),) = store.perform(lambda: _asked(IDLE))
        with store.connect() as connection:
            by_sqlalchemy = connection.exec_driver_sql(IDLE).scalar()
        with pooled(store) as driver:
            left = driver.execute(IDLE).fetchone()
    assert (by_steps, by_sqlalchemy, left) == ("1min", "1min", ("0",))


def test_through_a_pooler_no_transaction_waits_for_ever_for_a_lock(postgres_url: str) -> None:
    """As where somebody has a unique key, and has not committed yet."""
    shown = "SELECT current_setting('lock_timeout')"
    with closing(open_store(postgres_url, shown_url="", pooler=True)) as store:
        ((by_steps,),) = store.perform(lambda: _asked(shown))
        with store.connect() as connection:
            by_sqlalchemy = connection.exec_driver_sql(shown).scalar()
            connection.exec_driver_sql("SET LOCAL lock_timeout = '5s'")
        with pooled(store) as driver:
            left = driver.execute(shown).fetchone()
    assert (by_steps, by_sqlalchemy, left) == (f"{LOCK_SECONDS}s", f"{LOCK_SECONDS}s", ("0",))


def _asked(query: str) -> Steps[Sequence[Sequence[Any]]]:
    return (yield Statement(query, {})).rows


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_through_a_pooler_an_enqueue_does_not_wait_for_ever_for_a_key(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    monkeypatch.setattr("dbqueue.store.postgres.store.OWN_SETTINGS_HERE", "SET LOCAL lock_timeout = '50ms'")
    pooler = closing(open_store(postgres_url, shown_url="", pooler=True))
    with pooler as store, psycopg.connect(libpq_url(postgres_url)) as rival:
        rival.execute("SET idle_in_transaction_session_timeout = '10s'")  # else this test might wait for ever
        rival.execute("INSERT INTO dbqueue_unique_keys (key, job_id) VALUES ('k', 'rival')")
        others = [new_job("other", unique_key="o")] if many else []
        with pytest.raises(OperationalError):
            store.enqueue([new_job("late", unique_key="k"), *others])
        assert count(store) == 0


def test_through_a_pooler_many_jobs_do_not_wait_for_ever_for_an_id(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COPY writes them, which waits for whoever has written one of these ids and not committed yet."""
    monkeypatch.setattr("dbqueue.store.postgres.store.OWN_SETTINGS_HERE", "SET LOCAL lock_timeout = '50ms'")
    jobs = [new_job() for _ in range(copying.FEWEST)]
    pooler = closing(open_store(postgres_url, shown_url="", pooler=True))
    with pooler as store, psycopg.connect(libpq_url(postgres_url)) as rival:
        rival.execute("SET idle_in_transaction_session_timeout = '10s'")  # else this test might wait for ever
        rival.execute("INSERT INTO dbqueue_jobs (id, task) VALUES (%s, %s)", [jobs[7].id, jobs[7].task])
        with pytest.raises(OperationalError):
            store.enqueue(jobs)
        assert count(store) == 0
        rival.rollback()
        assert store.enqueue(jobs) == {}
        assert store.enqueue(jobs) == {}  # COPY is refused, and the INSERT sees that all are the same
        assert count(store) == len(jobs)


def test_through_a_pooler_nothing_outlives_a_transaction(postgres_url: str) -> None:
    """The next one may be on another connection of the server's, and somebody else's on this one."""

    def left(driver: Driver) -> list[bytes | None]:
        query = b"SELECT current_setting('enable_seqscan') UNION ALL SELECT name FROM pg_prepared_statements"
        found = driver.pgconn.exec_(query)
        return [found.get_value(row, 0) for row in range(found.ntuples)]

    ask = "SELECT current_setting('enable_seqscan')"
    store = open_store(postgres_url, shown_url="", pooler=True)
    for _ in range(10):  # until the driver would have prepared them
        store.fetch([enqueued(store)])
    with pooled(store) as driver:
        assert left(driver) == [b"on"]
    with of_rounds(store) as driver:
        for _ in range(10):
            assert driver.execute(ask).fetchone() == ("off",)
        with driver.transaction():
            assert driver.execute(ask).fetchone() == ("off",)
        with driver.pipeline():
            assert driver.execute(ask).fetchone() == ("off",)
        assert left(driver) == [b"on"]
    store.close()


@contextmanager
def other_defaults(url: str) -> Iterator[None]:
    """The database's own settings are not those that dbqueue reckons with."""
    settings = {"default_transaction_isolation": "serializable", "timezone": "Asia/Tokyo", "datestyle": "German"}
    with opened(url) as store, store.connect() as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
        for setting, value in settings.items():
            connection.exec_driver_sql(f"ALTER DATABASE {name} SET {setting} = '{value}'")
    try:
        yield
    finally:
        with opened(url) as store, store.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {name} RESET ALL")


def test_the_rounds_are_as_they_must_be_whatever_the_database_s_own_settings(postgres_url: str) -> None:
    """Each statement has a snapshot of its own, no round fails for what others have written, and times sort as text."""
    ask = "SELECT current_setting('transaction_isolation'), timestamptz '2026-01-01 00:00:00+00'::text"
    with other_defaults(postgres_url), opened(postgres_url) as store, of_rounds(store) as driver:
        row = driver.execute(ask).fetchone()
    assert row == ("read committed", "2026-01-01 00:00:00+00")


@pytest.mark.parametrize("idle_seconds", [7.0, None])
@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_the_transaction_of_a_task(postgres_url: str, kind: str, idle_seconds: float | None) -> None:
    """As tasks expect it, whatever the database's own settings are; and it may be idle for as long as it was told."""
    ask = "SELECT current_setting('transaction_isolation'), current_setting('idle_in_transaction_session_timeout')"

    async def asked(transaction: AsyncTaskTransaction) -> Any:
        await transaction.open()
        found = (await transaction.connection.exec_driver_sql(ask)).one()
        await transaction.rollback()
        await transaction.store.task_engines.aclose()
        return found

    with other_defaults(postgres_url), opened(postgres_url) as store:
        worker = TestWorker(store)
        enqueued(store)
        if kind == "coroutine":
            settings = asyncio.run(asked(AsyncTaskTransaction(store, worker.claim_one(), idle_seconds=idle_seconds)))
        else:
            transaction = TaskTransaction(store, worker.claim_one(), idle_seconds=idle_seconds)
            settings = transaction.connection.exec_driver_sql(ask).one()
            transaction.rollback()
        worker.close()
    assert tuple(settings) == ("read committed", "7s" if idle_seconds else "0")


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_a_task_waits_for_a_connection_as_long_as_it_may_run(database_url: str, kind: str) -> None:
    """There may be more slots than connections; one that got none would have failed for good."""

    async def pool() -> sa.Pool:
        return store.task_engines.asynchronous().sync_engine.pool

    with opened(database_url) as store:
        found = asyncio.run(pool()) if kind == "coroutine" else store.task_engines.plain().pool
        assert isinstance(found, sa.QueuePool)
        assert found.timeout() is None


ENDED: Final = "SELECT count(pg_terminate_backend(%s, 10000))"  # when it has ended; it waits for so many milliseconds


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_no_task_is_given_a_connection_that_the_server_has_ended(postgres_url: str, kind: str) -> None:
    """It would fail with its first statement, for good, each time the server was restarted."""

    async def run(store: Store) -> None:
        for _ in range(2):
            if kind == "coroutine":
                transaction: Any = AsyncTaskTransaction(store, job, idle_seconds=7.0)
                await transaction.open()
                pid = (await transaction.connection.exec_driver_sql("SELECT pg_backend_pid()")).scalar_one()
                await transaction.rollback()
            else:
                transaction = TaskTransaction(store, job, idle_seconds=7.0)
                pid = transaction.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
                transaction.rollback()
            with pooled(store) as driver:
                driver.execute(ENDED, [pid])
        await store.task_engines.aclose()

    with opened(postgres_url) as store:
        worker = TestWorker(store)
        enqueued(store)
        job = worker.claim_one()
        asyncio.run(run(store))
        worker.close()


def end_each_new(engine: sa.Engine, url: str, count: int) -> None:
    """Have the server end the next connections of this engine, so many of them, as soon as each is open."""
    left = [None] * count

    def end(connection: Any, record: Any) -> None:
        if left:
            left.pop()
            with psycopg.connect(libpq_url(url), autocommit=True) as other:
                other.execute(ENDED, [record.driver_connection.info.backend_pid])

    sa.event.listen(engine, "connect", end)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_call_whose_new_connections_end_at_once_has_another(postgres_url: str, count: int) -> None:
    """As amid a server's crash. SQLAlchemy's pool gives up with the second, as if the program were wrong."""
    with opened(postgres_url) as store:
        end_each_new(store.engine, postgres_url, count)
        enqueued(store)


def test_a_look_whose_new_connections_end_at_once_says_so(postgres_url: str) -> None:
    with opened(postgres_url) as store:
        end_each_new(store.engine, postgres_url, 3)
        with pytest.raises(OperationalError), store.connect():
            pass


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_a_task_whose_new_connections_end_at_once_has_another(postgres_url: str, kind: str) -> None:
    """It waits for one as long as a server takes to come back."""

    async def run(store: Store) -> None:
        if kind == "coroutine":
            end_each_new(store.task_engines.asynchronous().sync_engine, postgres_url, 2)
            transaction: Any = AsyncTaskTransaction(store, job, idle_seconds=7.0)
            await transaction.open()
            await transaction.rollback()
        else:
            end_each_new(store.task_engines.plain(), postgres_url, 2)
            transaction = TaskTransaction(store, job, idle_seconds=7.0)
            transaction.connection.exec_driver_sql("SELECT 1")
            transaction.rollback()
        await store.task_engines.aclose()

    with opened(postgres_url) as store:
        worker = TestWorker(store)
        enqueued(store)
        job = worker.claim_one()
        asyncio.run(run(store))
        worker.close()


ON_A_FILE: dict[str, Callable[[Store], sa.PoolProxiedConnection]] = {
    "pooled": lambda store: store.engine.raw_connection(),
    "of rounds": lambda store: cast(SqliteWorkSession, store.work_session("test"))._connection,
    "of the watch": lambda store: cast(SqliteWatchSession, store.watch_session("test"))._connection,
    "of a task": lambda store: store.task_engines.plain().raw_connection(),
}


@pytest.mark.parametrize("kind", ON_A_FILE)
def test_a_commit_to_a_file_outlasts_the_power(sqlite_url: str, kind: str) -> None:
    """In WAL mode NORMAL may lose it. And no writer fails because another is writing."""
    with opened(sqlite_url) as store:
        connection = ON_A_FILE[kind](store)
        driver = cast(sqlite3.Connection, connection.dbapi_connection)
        found = [driver.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert found == ["wal", FULL]
        assert driver.execute("PRAGMA busy_timeout").fetchone()[0] == BUSY_TIMEOUT_SECONDS * 1000
        connection.close()


@contextmanager
def of_others(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store whose file another program keeps locked, until a task has given up to wait for it twice."""
    asked: list[Exception] = []

    def is_locked(store: SqliteStore, error: Exception) -> bool:
        asked.append(error)
        if len(asked) == 2:
            other.rollback()
        return locked(store, error)

    locked = SqliteStore.is_locked
    monkeypatch.setattr(SqliteStore, "is_locked", is_locked)
    monkeypatch.setattr("dbqueue.store.engine.BUSY_TIMEOUT_SECONDS", 0.05)
    with opened(url) as store, closing(sqlite3.connect(sqlite_path(url), check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield store


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_a_task_waits_for_the_lock_as_long_as_it_may_run(
    sqlite_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before it may be many, and it would fail for good."""

    async def run(store: Store) -> None:
        transaction = AsyncTaskTransaction(store, claimed_job(), idle_seconds=None)
        await transaction.open()
        await transaction.connection.exec_driver_sql("SELECT 1")
        await transaction.rollback()
        await store.task_engines.aclose()

    with of_others(sqlite_url, monkeypatch) as store:
        if kind == "coroutine":
            asyncio.run(run(store))
        else:
            transaction = TaskTransaction(store, claimed_job(), idle_seconds=None)
            transaction.connection.exec_driver_sql("SELECT 1")
            transaction.rollback()


def test_a_call_in_place_waits_no_longer_than_others(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with of_others(sqlite_url, monkeypatch) as store:
        transaction = TaskTransaction(store, claimed_job(lease=""), idle_seconds=None)
        with pytest.raises(sa.exc.OperationalError, match="database is locked"):
            transaction.connection.exec_driver_sql("SELECT 1")
        transaction.rollback()


@pytest.mark.parametrize("kind", ["work_session", "watch_session"])
def test_a_session_that_cannot_be_made_ready_leaves_no_connection(
    postgres_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker tries again and again, and what it left would be all that the server has."""
    for settings in (sql.SESSION, sql.WATCH_SESSION):
        monkeypatch.setitem(settings, "work_mem", "none")
    query = b"SELECT FROM pg_stat_activity WHERE application_name LIKE 'dbqueue not ready%'"
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url), autocommit=True) as other:
        with pytest.raises(psycopg.DataError) as failed:
            getattr(store, kind)("not ready")
        wait_until(lambda: other.execute(query).fetchone() is None, what="the end of the connection")
        del failed  # and with it what it was raised in


def test_a_watch_that_cannot_be_begun_leaves_no_connection_to_its_file(sqlite_url: str) -> None:
    """A worker tries again and again. What cannot be read is the file's version, which a watch begins with."""
    drivers: list[sqlite3.Connection] = []

    def disturb(driver: sqlite3.Connection, *_: Any) -> None:
        drivers.append(driver)
        driver.set_progress_handler(lambda: 1, 1)  # SQLite ends each statement with an error

    with opened(sqlite_url) as store:
        sa.event.listen(store.engine, "checkout", disturb)
        with pytest.raises(OperationalError, match="interrupted") as failed:
            store.watch_session("not ready")
        # While the error is held, and with it all that it was raised in: the collector has closed nothing.
        (driver,) = drivers
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            driver.execute("SELECT 1")
        del failed


def test_a_store_that_is_closed_leaves_no_connection_of_a_task(postgres_url: str) -> None:
    with opened(postgres_url) as store:
        connection = store.task_engines.plain().raw_connection()
        driver = cast(Driver, connection.driver_connection)
        connection.close()
        assert not driver.closed
    assert driver.closed
