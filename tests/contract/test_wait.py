"""`wait` of both sessions: what ends it, and what is not lost before it begins."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import cast

import psycopg
import pytest

from dbqueue.errors import OperationalError
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.readiness import wait_readable
from dbqueue.store.sessions import Sign, WatchSession
from dbqueue.worker.claiming.doorbell import Doorbell
from tests.contract.callers import sqlite_path
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, opened
from tests.waiting import wait_until

LONG = 60.0


def wait(worker: TestWorker, bell: Doorbell) -> bool:
    """Wait for long; it must be ended before."""
    began = time.monotonic()
    announced = worker.session.wait(LONG, bell)
    assert time.monotonic() - began < LONG / 2, "nothing ended the wait"
    return announced


@pytest.fixture
def bell() -> Iterator[Doorbell]:
    bell = Doorbell()
    bell.open()
    yield bell
    bell.close()


@pytest.fixture
def worker(database_url: str) -> Iterator[TestWorker]:
    with opened(database_url) as store:
        worker = TestWorker(store)
        yield worker
        worker.close()


def test_it_ends_with_its_time(worker: TestWorker, bell: Doorbell) -> None:
    assert worker.session.wait(0.01, bell) is False


def test_nothing_ends_it_before(worker: TestWorker, bell: Doorbell) -> None:
    """An idle worker sleeps."""
    began = time.monotonic()
    assert worker.session.wait(0.2, bell) is False
    assert time.monotonic() - began > 0.19


def test_a_ring_before_it_and_one_during_it(worker: TestWorker, bell: Doorbell) -> None:
    bell.ring()
    assert wait(worker, bell) is False
    bell.answer()
    thread = threading.Thread(target=bell.ring)
    thread.start()
    assert wait(worker, bell) is False
    thread.join()


def test_a_ring_after_the_look_at_its_flag(worker: TestWorker, bell: Doorbell) -> None:
    """The wait has begun, and sees the descriptor alone."""

    class Unseen(Doorbell):
        rung = False

        def fileno(self) -> int:
            return bell.fileno()

    bell.ring()
    assert wait(worker, Unseen()) is False


def test_a_ring_that_was_answered_half_is_kept(worker: TestWorker, bell: Doorbell) -> None:
    """Rung while the bell was answered: its byte is read with the others, and its flag stays."""
    bell.ring()
    bell._rung = False  # the first half of `answer`
    bell.ring()
    assert bell._ends is not None
    bell._ends[0].recv(4096)  # the second
    assert not wait_readable([bell], 0)
    assert wait(worker, bell) is False


class TestNotifications:
    @pytest.fixture
    def database_url(self, postgres_url: str) -> str:
        return postgres_url

    def test_before_it_and_during_it(self, worker: TestWorker, bell: Doorbell) -> None:
        for _ in range(3):
            enqueued(worker.store)
            assert wait(worker, bell) is True
            assert worker.session.wait(0.01, bell) is False
        thread = threading.Thread(target=enqueued, args=(worker.store,))
        thread.start()
        assert wait(worker, bell) is True
        thread.join()

    def test_one_that_came_with_the_answer_of_a_statement(
        self, worker: TestWorker, bell: Doorbell, database_url: str
    ) -> None:
        session = cast(PostgresWorkSession, worker.session)
        with psycopg.connect(libpq_url(database_url), autocommit=True) as other:
            other.execute("NOTIFY dbqueue")

        def announced() -> bool:
            session.paused_queues()
            return session._listening._announced

        wait_until(announced, what="the notification beside an answer")
        assert wait(worker, bell) is True
        assert session.wait(0.01, bell) is False

    def test_one_that_was_read_and_told_to_nobody(self, worker: TestWorker, bell: Doorbell, database_url: str) -> None:
        """The driver does so with what comes along with a pipeline's last answers, where these come at once."""
        session = cast(PostgresWorkSession, worker.session)
        with psycopg.connect(libpq_url(database_url), autocommit=True) as other:
            other.execute("NOTIFY dbqueue")
        assert wait_readable([session._driver], LONG)
        session._driver.pgconn.consume_input()
        assert not wait_readable([session._driver], 0)
        assert wait(worker, bell) is True
        assert session.wait(0.01, bell) is False

    def test_the_end_of_the_connection(self, worker: TestWorker, bell: Doorbell, database_url: str) -> None:
        with psycopg.connect(libpq_url(database_url), autocommit=True) as other:
            ours = "datname = current_database() AND application_name = 'dbqueue test'"
            other.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}".encode())

        def has_ended() -> bool:
            try:
                wait(worker, bell)  # the server's farewell ends one wait
            except OperationalError:
                return True
            return False

        for _ in range(2):  # and it stays ended
            wait_until(has_ended, what="the error")


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_file_tells_of_each_commit_once(sqlite_url: str, in_memory: bool) -> None:
    """On SQLite the second connection looks at the file; it does not tell of what it has written itself."""
    with opened("sqlite://" if in_memory else sqlite_url) as store:
        store.ensure_schema()
        worker, watch = TestWorker(store), store.watch_session("test")
        for _ in range(2):
            enqueued(store)
            assert watch.wait(LONG) == Sign.JOBS | Sign.COMMANDS
            assert watch.wait(0.01) is Sign.NONE
            assert watch.heartbeat(worker.id)
            assert in_memory or watch.wait(0.01) is Sign.NONE
        watch.close()
        worker.close()


APART = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
for statement in sys.argv[2:]:
    connection.execute(statement).fetchall()
"""
WRITE = "INSERT INTO dbqueue_jobs (task) VALUES ('shop.pack')"


def run_apart(url: str, *statements: str) -> None:
    """In a process of its own, which knows nothing of dbqueue."""
    subprocess.run([sys.executable, "-c", APART, sqlite_path(url), *statements], check=True, timeout=LONG)


@pytest.fixture
def watch(sqlite_url: str) -> Iterator[WatchSession]:
    with opened(sqlite_url) as store:
        session = store.watch_session("test")
        yield session
        session.close()


def test_a_file_tells_of_a_commit_of_another_process(sqlite_url: str, watch: WatchSession) -> None:
    """Before the wait, and during it."""
    run_apart(sqlite_url, WRITE)
    assert watch.wait(LONG) == Sign.JOBS | Sign.COMMANDS
    assert watch.wait(0.01) is Sign.NONE
    thread = threading.Thread(target=run_apart, args=(sqlite_url, "BEGIN IMMEDIATE", WRITE, "COMMIT"))
    thread.start()
    assert watch.wait(LONG) == Sign.JOBS | Sign.COMMANDS
    thread.join()
    assert watch.wait(0.01) is Sign.NONE


def test_a_file_tells_of_what_its_own_worker_has_committed(sqlite_url: str) -> None:
    """That is on another connection of the same process; on its own it does not."""
    with opened(sqlite_url) as store:
        worker, watch = TestWorker(store), store.watch_session("test")
        enqueued(store)
        assert watch.wait(LONG) == Sign.JOBS | Sign.COMMANDS
        assert worker.claim_one()
        assert watch.wait(LONG) == Sign.JOBS | Sign.COMMANDS
        watch.run("DELETE FROM {jobs}", {})
        assert watch.wait(0.01) is Sign.NONE
        watch.close()
        worker.close()


def test_a_file_tells_of_no_look_and_of_nothing_that_was_undone(sqlite_url: str, watch: WatchSession) -> None:
    """Its own look or another's: workers that look at the same file would wake each other for ever."""
    look = "SELECT count(*) FROM dbqueue_jobs"
    assert watch.run(look, {}) == [(0,)]
    assert watch.wait(0.01) is Sign.NONE
    run_apart(sqlite_url, look, "BEGIN IMMEDIATE", WRITE, "ROLLBACK")
    assert watch.wait(0.01) is Sign.NONE
