"""What a SQLite file that cannot be written says: the reason, and what to look at. And when it can, it is."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import IntegrityError

import pytest
import sqlalchemy as sa

from dbqueue.errors import OperationalError
from dbqueue.store.base import Store
from dbqueue.store.queues import paused
from dbqueue.store.sqlite.driver import immediate
from tests.stores import TestWorker, count, enqueued, opened, run_sql
from tests.worker.sample import make_app
from tests.workers import starting


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    with opened(sqlite_url) as store:
        yield store


def with_pragma(store: Store, pragma: str) -> None:
    """Every connection of the store's begins with it."""
    sa.event.listen(store.engine, "connect", lambda connection, _: connection.execute(f"PRAGMA {pragma}").fetchall())


def replaced(path: str, copy: Path) -> None:
    """A backup is put in the place of the file."""
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.replace(path)
    for end in ("-wal", "-shm"):
        Path(path + end).unlink(missing_ok=True)


def test_a_file_that_was_replaced(store: Store, sqlite_url: str, tmp_path: Path) -> None:
    """The system keeps it for whoever has it open; nobody else would ever see what is written there."""
    worker, watch = TestWorker(store), store.watch_session("test")
    before = enqueued(store)
    replaced(sqlite_url.removeprefix("sqlite:///"), tmp_path / "backup")
    after = enqueued(store)
    with opened(sqlite_url) as fresh:
        assert fresh.fetch([before, after]).keys() == {before, after}
    for operation in (worker.claim, lambda: worker.session.rescue(max_losses=1), lambda: watch.wait(0)):
        with pytest.raises(OperationalError, match="deleted or replaced"):
            operation()
    watch.close()
    worker.close()


def test_a_folder_that_cannot_be_entered(store: Store, sqlite_url: str) -> None:
    """The file is where it was: nobody is told that it is gone, and all goes on once it can be reached."""
    worker = TestWorker(store)
    job_id = enqueued(store)
    folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
    away = folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.name)  # it leads to itself; a closed folder would be open to root
    for operation in (worker.claim, lambda: store.fetch([job_id])):
        with pytest.raises(OperationalError, match=r"cannot be reached: Too many levels|unable to open"):
            operation()
    folder.unlink()
    away.rename(folder)
    assert [job.id for job in worker.claim()] == [job_id]
    worker.close()


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_a_transactional_task_writes_to_the_file_that_is_there(
    store: Store, sqlite_url: str, tmp_path: Path, kind: str
) -> None:
    """It would succeed with what nobody will ever see."""
    path, engines = sqlite_url.removeprefix("sqlite:///"), store.task_engines

    async def write(number: int) -> None:
        statement = f"INSERT INTO notes VALUES ({number})"
        if kind == "coroutine":
            acquired = await engines.aconnected(patient=False)
            await acquired.exec_driver_sql(statement)
            await acquired.close()
        else:
            with engines.connected(patient=False) as connection:
                connection.exec_driver_sql(statement)

    async def run() -> None:
        await write(1)
        replaced(path, tmp_path / "backup")
        await write(2)
        await engines.aclose()

    run_sql(store, "CREATE TABLE notes (number integer)")
    asyncio.run(run())
    with closing(sqlite3.connect(path)) as fresh:
        assert fresh.execute("SELECT number FROM notes ORDER BY number").fetchall() == [(1,), (2,)]


def test_a_worker_goes_over_to_the_new_file(sqlite_url: str, tmp_path: Path) -> None:
    with starting() as start, make_app(sqlite_url) as app:
        worker = start(sqlite_url)
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
        replaced(sqlite_url.removeprefix("sqlite:///"), tmp_path / "backup")
        with make_app(sqlite_url) as fresh:
            assert fresh.tasks["sample.add"].delay(2, 3).get(timeout=30) == 5
        assert app.tasks["sample.add"].delay(3, 4).get(timeout=30) == 7
        assert worker.stop() == 0


def test_read_only(store: Store) -> None:
    with_pragma(store, "query_only = ON")
    assert store.fetch(["any"]) == {}
    with pytest.raises(
        OperationalError, match=r"cannot be written \(attempt to write a readonly database\): .*writable"
    ):
        enqueued(store)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}") as store:  # a folder
        with pytest.raises(OperationalError, match=r"cannot be written \(unable to open database file\)"):
            store.ensure_schema()
        with pytest.raises(OperationalError, match="unable to open"):
            enqueued(store)


def test_locked_by_another_program(store: Store, sqlite_url: str) -> None:
    with_pragma(store, "busy_timeout = 20")
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            OperationalError, match=r"another program kept the SQLite file locked .*\(database is locked\)"
        ):
            enqueued(store)
        other.execute("ROLLBACK")
    enqueued(store)
    assert count(store) == 1


@pytest.mark.parametrize("end", [IntegrityError, KeyboardInterrupt])
def test_a_transaction_that_does_not_end_well_lets_go_of_the_file(sqlite_url: str, end: type[BaseException]) -> None:
    """Its commit is refused, or a signal comes in between."""
    path = sqlite_url.removeprefix("sqlite:///")
    with (
        closing(sqlite3.connect(path, isolation_level=None)) as driver,
        closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other,
    ):
        driver.execute("PRAGMA foreign_keys = ON")
        driver.execute(
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, of INT REFERENCES notes DEFERRABLE INITIALLY DEFERRED)"
        )

        def write() -> None:
            with immediate(driver):
                driver.execute("INSERT INTO notes VALUES (1, 2)")
                if end is KeyboardInterrupt:
                    raise KeyboardInterrupt

        with pytest.raises(end):
            write()
        with immediate(other):
            assert other.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_what_sqlite_has_rolled_back_itself_is_told_as_it_was(sqlite_url: str) -> None:
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as driver:
        driver.execute("CREATE TABLE notes (id INTEGER)")
        driver.execute("CREATE TRIGGER no BEFORE INSERT ON notes BEGIN SELECT RAISE(ROLLBACK, 'not today'); END")
        with pytest.raises(IntegrityError, match="not today"), immediate(driver):
            driver.execute("INSERT INTO notes VALUES (1)")


def test_values_that_the_table_refuses_are_no_trouble_of_the_database(store: Store) -> None:
    """Which would be tried again, for ever."""
    with pytest.raises(IntegrityError):
        enqueued(store, task=None)


def test_a_session_that_is_closed_has_no_connection(store: Store) -> None:
    """Whoever still refers to it."""
    work, watch = store.work_session("test"), store.watch_session("test")
    for session in (work, watch):
        session.close()
    for operation in (work.anything_held, lambda: watch.heartbeat("any")):
        with pytest.raises(OperationalError, match="closed database"):
            operation()


def test_what_fails_between_two_statements_leaves_nothing(store: Store) -> None:
    def write() -> None:
        with store.connect() as connection:
            connection.exec_driver_sql("INSERT INTO dbqueue_paused_queues (queue) VALUES ('q')")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    assert paused(store) == {}


def test_a_claim_leaves_the_session_able_to_read_any_text(store: Store) -> None:
    """It reads its own rows by a faster way, which fails for text that is no UTF-8."""
    worker = TestWorker(store)
    enqueued(store)
    worker.claim_one()
    enqueued(store, queue="odd")
    run_sql(store, "UPDATE dbqueue_jobs SET queue = CAST(x'ff' AS TEXT) WHERE queue = 'odd'")
    assert worker.session.waiting_queues() == ["\ufffd"]
    worker.close()


def test_no_space_left(store: Store, sqlite_url: str) -> None:
    with_pragma(store, "max_page_count = 1")  # no page more than there are
    job_id = enqueued(store)
    with pytest.raises(OperationalError, match="database or disk is full"):
        enqueued(store, args=f'["{"x" * 100_000}"]')
    with opened(sqlite_url) as roomy:
        enqueued(roomy, args=f'["{"x" * 100_000}"]')
    assert count(store) == 2
    assert job_id in store.fetch([job_id])
