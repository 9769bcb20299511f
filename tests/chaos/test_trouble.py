"""Rows D9 to D12 and D16: a full tablespace, old snapshots, locks and time-outs, wrong clocks, no connections left."""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
import sqlalchemy as sa

from tests.chaos.campaign import POOLS, Campaign, task_of, wrong_clock
from tests.chaos.conftest import Judge, Tries
from tests.chaos.test_servers import LASTING
from tests.chaos.test_sqlite import small_disk
from tests.servers import PostgresServer, libpq_url

JOBS = 60


@contextlib.contextmanager
def application(url: str) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """A connection of the program that the database belongs to."""
    with psycopg.connect(libpq_url(url), application_name="shop") as connection:
        yield connection


@pytest.mark.chaos("D9")
@pytest.mark.parametrize("pool", POOLS)
def test_a_full_tablespace(
    campaign: Judge,
    tries: Tries,
    fresh_postgres: Callable[[], str],
    postgres_server: PostgresServer,
    pool: str,
) -> None:
    """Enqueues fail with a clear error while it is full, and nothing that was acknowledged is lost."""
    for number in tries.until(short=1):
        url = fresh_postgres()
        name = f"small_{os.getpid()}_{number}"
        with postgres_server.folder() as folder, small_disk(24, folder / name) as disk:
            (disk / "space").mkdir()
            (disk / "space").chmod(0o777)
            postgres_server.own(disk / "space")
            postgres_server.execute(f"CREATE TABLESPACE {name} LOCATION '{disk / 'space'}'")
            try:
                with campaign(url, **LASTING) as it:
                    with application(url) as connection:
                        connection.execute(f"ALTER TABLE dbqueue_jobs SET TABLESPACE {name}".encode())
                    worker = it.start_worker(pool)
                    it.enqueue_many(JOBS, 0.05, task=task_of(pool))
                    it.wait_running(2)
                    it.fault("a full tablespace", worker)
                    with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as file:
                        while True:
                            file.write(b"x" * 8192)
                    it.producing(0.0, task=task_of(pool), pause=0.002)
                    it.wait_event("unknown")
                    (disk / "ballast").unlink()
                    it.heal()
                    told = [event.data["error"] for event in it.events() if event.kind == "unknown"]
                    assert all("No space left on device" in error or "could not extend" in error for error in told), (
                        told
                    )
                    it.stop_workers()
            finally:
                with application(url) as connection:
                    connection.execute(b"DROP TABLE dbqueue_jobs CASCADE")
                postgres_server.execute(f"DROP TABLESPACE {name}")


@pytest.mark.chaos("D10")
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("how", ["snapshot", "idle in transaction"])
def test_an_old_snapshot(campaign: Judge, tries: Tries, fresh_postgres: Callable[[], str], how: str, pool: str) -> None:
    """Dead rows pile up behind it; the queue goes on, and is as fast again soon after."""
    for _ in tries.until(short=1):
        with campaign(counts=1, **LASTING) as it, application(it.url) as held:
            worker = it.start_worker(pool)
            it.enqueue_many(JOBS * 5, 0.0, task=task_of(pool))
            before = waits(it, 10)
            it.enqueue_many(10, 0.1, task=task_of(pool))
            it.wait_running()
            it.fault(how, worker)
            if how == "snapshot":
                held.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            held.execute("SELECT count(*) FROM dbqueue_jobs")
            deadline = time.monotonic() + (15 * 60 if tries.full else 3)
            during: list[float] = []
            while time.monotonic() < deadline:
                it.enqueue_many(JOBS * 5, 0.0, task=task_of(pool))
                during += waits(it, 3)
                if tries.full:  # a hundred thousand jobs: all that they do is written down, and read at the end
                    time.sleep(2)
            if tries.full:
                assert statistics.quantiles(during, n=100)[98] <= 10 * max(before)
            held.rollback()
            it.heal()
            it.stop_workers()


def waits(it: Campaign, count: int) -> list[float]:
    """How long single jobs wait for their start behind whatever is there, in seconds, by the database's clock.

    By the rows' own times, for what the histories hold grows by the minute, and takes longer and longer to read.
    """
    jobs = []
    for _ in range(count):
        (job,) = it.enqueue(1, priority=9)
        it.app.AsyncResult(job).get(timeout=60)
        jobs.append(job)
    query = "SELECT extract(epoch FROM started_at - created_at)::float8 FROM dbqueue_jobs WHERE id = ANY(:jobs)"
    with it.store.connect() as connection:
        return list(connection.execute(sa.text(query), {"jobs": jobs}).scalars())


SETTINGS = {
    "statement_timeout": "'200ms'",
    "lock_timeout": "'50ms'",
    "idle_in_transaction_session_timeout": "'500ms'",
    "default_transaction_isolation": "'serializable'",
}


@pytest.mark.chaos("D11")
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_the_database(
    campaign: Judge, tries: Tries, fresh_postgres: Callable[[], str], setting: str, pool: str
) -> None:
    """An operator has set them for all; the application locks the table now and then."""
    for _ in tries.until(short=1):
        with campaign(counts=1, **LASTING) as it:
            name = sa.make_url(it.url).database
            with application(it.url) as connection:
                connection.execute(f"ALTER DATABASE {name} SET {setting} = {SETTINGS[setting]}".encode())
            worker = it.start_worker(pool)
            it.enqueue_many(JOBS, 0.02, task=task_of(pool))
            it.producing(0.02, task=task_of(pool))
            it.wait_running(2)
            for _ in range(3):
                it.fault("LOCK TABLE", worker)
                with application(it.url) as connection, contextlib.suppress(psycopg.Error):
                    connection.execute("SET lock_timeout = '2s'")
                    connection.execute("LOCK TABLE dbqueue_jobs IN ACCESS EXCLUSIVE MODE")
                    connection.execute("SELECT pg_sleep(0.3)")
                it.wait_running(2)
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("D11")
@pytest.mark.parametrize("pool", POOLS)
def test_an_application_that_locks_rows_in_its_own_order(
    campaign: Judge, tries: Tries, fresh_postgres: Callable[[], str], pool: str
) -> None:
    """Deadlocks: one of the two is ended by the server, and the worker does its part again."""
    for _ in tries.until(short=1):
        with campaign(counts=1, **LASTING) as it:
            worker = it.start_worker(pool, concurrency=8)
            jobs = it.enqueue_many(JOBS * 3, 0.02, task=task_of(pool))
            it.wait_running(2)
            it.fault("deadlocks", worker)
            stop = threading.Event()

            def lock(it: Campaign = it, jobs: list[str] = jobs, stop: threading.Event = stop) -> None:
                with application(it.url) as connection:
                    while not stop.wait(0.1):
                        with contextlib.suppress(psycopg.Error), connection.transaction():
                            for job in sorted(random.sample(jobs, 20), reverse=True):
                                connection.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [job])

            thread = threading.Thread(target=lock)
            thread.start()
            try:
                it.heal()
            finally:
                stop.set()
                thread.join()
            it.stop_workers()


@pytest.mark.chaos("D12")
@pytest.mark.parametrize("shift", ["-3600", "+3600"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_clock_that_is_an_hour_off(
    campaign: Judge, tries: Tries, fresh_postgres: Callable[[], str], shift: str, pool: str
) -> None:
    """The database's time decides: what is due, who is dead. (SQLite has none: see `test_sqlite`.)"""
    for left in tries.until(short=JOBS):
        jobs = min(left, 500)
        with campaign(counts=jobs) as it:
            worker = it.start_worker(pool, environment=wrong_clock(shift))
            # On an event loop: under this library `time.sleep`, which waits for a moment, is refused.
            it.enqueue_many(jobs, 0.01, task="chaos.awork")
            it.wait_running(2)
            it.fault("a wrong clock", worker)
            it.start_worker(pool)
            sent = time.monotonic()
            (later,) = it.enqueue(1, countdown=2.0)
            it.wait_starts(later, 1)
            assert time.monotonic() - sent > 1.9, "it ran before the database's clock said so"
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("D16")
@pytest.mark.parametrize("pool", POOLS)
def test_no_connections_left(
    campaign: Judge, tries: Tries, fresh_postgres: Callable[[], str], postgres_server: PostgresServer, pool: str
) -> None:
    """The worker keeps those that it has; one that breaks comes back when there is room again."""
    for _ in tries.until(short=1):
        with campaign(**LASTING) as it, contextlib.ExitStack() as held:
            it.start_worker(pool)
            it.enqueue_many(JOBS * 2, 0.1, task=task_of(pool))
            it.wait_running(2)
            superuser = held.enter_context(psycopg.connect(libpq_url(postgres_server.url), autocommit=True))
            it.fault("no connections left")
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    held.enter_context(psycopg.connect(libpq_url(it.url), application_name="shop"))
            it.wait_running(2)
            it.fault("one of its connections ends")
            name = sa.make_url(it.url).database
            superuser.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = %s AND application_name LIKE 'dbqueue%%watch' LIMIT 1",
                [name],
            )
            it.wait_running(2)
            held.close()
            it.heal()
            it.stop_workers()
