"""A worker's life: it starts, is woken, chooses queues, loses its lease, and ends in order."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import sqlalchemy.orm

from dbqueue import DBQueue
from dbqueue.errors import TimeoutError as ResultTimeout
from tests.servers import libpq_url
from tests.waiting import wait_until
from tests.worker import late
from tests.worker.sample import make_app
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
Send = Callable[..., Any]
PathOf = Callable[[str], str]

TIMEOUT = 60.0
NEVER = 600.0
"""A poll interval that no test waits for: what happens sooner was woken."""

pools = pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo"])


def statuses(app: DBQueue) -> dict[str, str]:
    with app.database.store.connect() as connection:
        return {row.id: row.status for row in connection.execute(sa.text("SELECT id, status FROM dbqueue_jobs"))}


def column(app: DBQueue, name: str) -> dict[str, Any]:
    with app.database.store.connect() as connection:
        rows = connection.execute(sa.text(f"SELECT id, {name} AS value FROM dbqueue_jobs"))
        return {row.id: row.value for row in rows}


def lines(path: str) -> list[str]:
    return Path(path).read_text().split() if Path(path).exists() else []


class TestQueues:
    def test_only_the_chosen_queues(self, app: DBQueue, database_url: str, send: Send, start_worker: Start) -> None:
        other = send("add", 1, 1, queue="other")
        first, second = send("add", 2, 2, queue="first"), send("add", 3, 3, queue="second")
        start_worker(database_url, queues="first,second,other", exclude_queues="other")
        assert (first.get(timeout=TIMEOUT), second.get(timeout=TIMEOUT)) == (4, 6)
        assert other.status == "PENDING"

    def test_the_default_queue_of_the_application(self, database_url: str, start_worker: Start) -> None:
        settings = {"task_default_queue": "house"}
        with make_app(database_url, **settings) as app:
            start_worker(database_url, settings=settings)
            result = app.tasks["sample.add"].delay(1, 2)
            assert result.get(timeout=TIMEOUT) == 3
            assert result.queue == "house"

    def test_priority_decides_with_one_slot(self, app: DBQueue, database_url: str, send: Send, path: PathOf,
                                            start_worker: Start) -> None:  # fmt: skip
        results = [send("record", path("order"), n, priority=n) for n in (1, 9, 5, 0, 7)]
        start_worker(database_url, concurrency=1)
        for result in results:
            result.get(timeout=TIMEOUT)
        assert lines(path("order")) == ["9", "7", "5", "1", "0"]


def test_ignored_by_the_setting(database_url: str, start_worker: Start) -> None:
    settings = {"task_ignore_result": True}
    with make_app(database_url, **settings) as app:
        start_worker(database_url, settings=settings)
        result = app.tasks["sample.add"].delay(1, 2)
        assert result.get() is None
        record = wait_until(lambda: app.database.store.finished([result.id]))[result.id]
        assert (record.status, record.result) == ("SUCCESS", None)
        kept = app.tasks["sample.add"].apply_async((1, 2), ignore_result=False)
        assert kept.get(timeout=TIMEOUT) == 3


def test_it_is_ready_when_all_of_its_processes_are(sqlite_url: str, path: PathOf, start_worker: Start) -> None:
    """One of them works already: that is told to nobody as the worker's start."""
    until = Path(path("until"))
    with make_app(sqlite_url) as app:
        environment = {late.UNTIL: str(until)}
        worker = start_worker(sqlite_url, module="tests.worker.late", environment=environment, ready=False)
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=TIMEOUT) == 3
        assert not (worker.folder / "ready").exists()
        until.touch()
        worker.wait_ready()
        assert worker.stop() == 0


class TestWakeUp:
    def test_a_delay_wakes_an_idle_worker(self, database_url: str, start_worker: Start) -> None:
        with make_app(database_url) as app:
            start_worker(database_url, settings={"worker_poll_interval": NEVER})
            for n in range(5):  # each finds the worker idle again
                assert app.tasks["sample.add"].delay(n, 1).get(timeout=TIMEOUT) == n + 1

    def test_a_joined_transaction_wakes_at_its_commit(self, database_url: str, start_worker: Start) -> None:
        with make_app(database_url) as app:
            start_worker(database_url, settings={"worker_poll_interval": NEVER})
            engine = sa.create_engine(database_url)
            with sa.orm.Session(engine) as session:
                result = app.tasks["sample.add"].apply_async((1, 2), connection=session)
                session.commit()
            assert result.get(timeout=TIMEOUT) == 3
            with engine.begin() as connection:
                result = app.tasks["sample.add"].apply_async((1, 2), connection=connection)
            assert result.get(timeout=TIMEOUT) == 3
            engine.dispose()

    def test_an_eta_wakes_by_the_clock(self, database_url: str, start_worker: Start) -> None:
        with make_app(database_url) as app:
            start_worker(database_url, settings={"worker_poll_interval": NEVER})
            assert app.tasks["sample.add"].apply_async((1, 2), countdown=0.5).get(timeout=TIMEOUT) == 3
            app.tasks["sample.add"].apply_async((1, 2), countdown=3600)  # a far one hides no near one
            assert app.tasks["sample.add"].apply_async((1, 2), countdown=0.5).get(timeout=TIMEOUT) == 3

    def test_a_retry_of_its_own_wakes_it(self, database_url: str, path: PathOf, start_worker: Start) -> None:
        with make_app(database_url) as app:
            start_worker(database_url, settings={"worker_poll_interval": NEVER})
            assert app.tasks["sample.retry_until"].delay(path("runs"), 2, 0.2).get(timeout=TIMEOUT) == 2

    def test_after_the_listening_connection_was_cut(self, postgres_url: str, start_worker: Start) -> None:
        with make_app(postgres_url) as app, psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
            worker = start_worker(postgres_url, settings={"worker_poll_interval": NEVER})
            for _ in range(2):
                pids = [
                    pid
                    for (pid,) in admin.execute(
                        "SELECT pg_terminate_backend(pid)::int * pid FROM pg_stat_activity "
                        "WHERE application_name LIKE 'dbqueue celery@%' AND datname = current_database()"
                    ).fetchall()
                ]
                assert len(pids) == 2
                assert app.tasks["sample.add"].delay(1, 2).get(timeout=TIMEOUT) == 3
                wait_until(
                    lambda: (
                        admin.execute(
                            "SELECT count(*) = 2 FROM pg_stat_activity "
                            "WHERE application_name LIKE 'dbqueue celery@%' AND datname = current_database()"
                        ).fetchone()
                        == (True,)
                    )
                )
            assert worker.stop() == 0


class TestResultsElsewhere:
    def test_from_another_process_by_id(self, app: DBQueue, database_url: str, send: Send, start_worker: Start) -> None:
        import subprocess

        start_worker(database_url)
        result = send("echo", {"a": [1, "ü"]})
        code = (
            "import sys; from tests.worker.sample import make_app; app = make_app(sys.argv[1])\n"
            "result = app.AsyncResult(sys.argv[2]); print(ascii((result.get(timeout=30), result.status)))"
        )
        command = [sys.executable, "-c", code, database_url, result.id]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        assert done.stdout.strip() == ascii(({"a": [1, "ü"]}, "SUCCESS"))

    def test_an_unknown_id(self, app: DBQueue) -> None:
        result = app.AsyncResult("nobody")
        assert (result.status, result.exists(), result.ready(), result.result) == ("PENDING", False, False, None)
        with pytest.raises(ResultTimeout):
            result.get(timeout=0.2)
        with pytest.raises(ResultTimeout):
            result.get(timeout=0)
        with pytest.raises(TimeoutError):  # the builtin too
            result.get(timeout=0.01)
        result.forget()

    def test_status_while_it_runs(self, app: DBQueue, database_url: str, send: Send, path: PathOf,
                                  start_worker: Start) -> None:  # fmt: skip
        start_worker(database_url)
        result = send("hold", path("started"), path("release"))
        wait_until(Path(path("started")).exists)
        assert (result.status, result.ready()) == ("STARTED", False)
        assert set(result.result) == {"pid", "hostname"}  # as Celery tells of a job that runs
        result.forget()
        assert result.exists()  # what runs cannot be forgotten
        Path(path("release")).touch()
        assert result.get(timeout=TIMEOUT) == "released"
        result.forget()
        assert (result.status, result.exists()) == ("PENDING", False)

    def test_many_threads_wait_for_many_jobs(self, app: DBQueue, database_url: str, send: Send,
                                             start_worker: Start) -> None:  # fmt: skip
        results = [send("add", n, 0) for n in range(40)]
        values: dict[int, Any] = {}

        def wait(n: int) -> None:
            values[n] = app.AsyncResult(results[n % 40].id).get(timeout=TIMEOUT)

        threads = [threading.Thread(target=wait, args=(n,)) for n in range(80)]
        for thread in threads:
            thread.start()
        start_worker(database_url)
        for thread in threads:
            thread.join(60)
        assert values == {n: n % 40 for n in range(80)}

    def test_aget(self, app: DBQueue, database_url: str, send: Send, start_worker: Start) -> None:
        import asyncio

        async def ask() -> list[Any]:
            sent = [await app.tasks["sample.aadd"].adelay(n, 1) for n in range(5)]
            with pytest.raises(ResultTimeout):
                await app.AsyncResult("nobody").aget(timeout=0.1)
            failed = await app.tasks["sample.fail"].adelay("value")
            with pytest.raises(ValueError, match="bad"):
                await failed.aget(timeout=TIMEOUT)
            assert await sent[0] == 1
            return await asyncio.gather(*(result.aget(timeout=TIMEOUT) for result in sent))

        start_worker(database_url)
        assert asyncio.run(ask()) == [1, 2, 3, 4, 5]


class TestWarmShutdown:
    @pools
    def test_running_jobs_end_and_the_rest_goes_back(
        self, app: DBQueue, database_url: str, send: Send, path: PathOf, start_worker: Start, pool: str
    ) -> None:
        slots = 1 if pool == "solo" else 2
        held = [send("hold", path(f"started{n}"), path("release")) for n in range(slots)]
        waiting = [send("add", n, n) for n in range(20)]
        before = column(app, "ready_at")
        worker = start_worker(database_url, pool=pool, concurrency=2)
        for n in range(slots):
            wait_until(Path(path(f"started{n}")).exists)
        worker.term()
        late = send("add", 1, 1)
        wait_until(lambda: "Warm shutdown" in worker.log)
        Path(path("release")).touch()
        assert worker.wait() == 0
        assert [result.status for result in held] == ["SUCCESS"] * slots
        after, rows = column(app, "ready_at"), statuses(app)
        for result in waiting:
            assert rows[result.id] == "PENDING"
            assert after[result.id] == before[result.id]
        assert rows[late.id] == "PENDING"
        assert set(column(app, "losses").values()) == {0}
        assert worker.family() == []

    @pools
    def test_idle(self, database_url: str, start_worker: Start, pool: str) -> None:
        worker = start_worker(database_url, pool=pool)
        assert worker.stop() == 0
        assert worker.family() == []

    @pytest.mark.parametrize("pool", ["prefork", "solo"])
    def test_in_the_middle_of_quick_jobs_nothing_is_left_started(
        self, app: DBQueue, database_url: str, path: PathOf, start_worker: Start, pool: str
    ) -> None:
        app.tasks["sample.record"].enqueue_many([(path("runs"), n) for n in range(1200)])
        for seen in (50, 300, 600):
            worker = start_worker(database_url, pool=pool)
            wait_until(lambda seen=seen: len(lines(path("runs"))) > seen)  # type: ignore[misc]
            assert worker.stop() == 0
            assert "STARTED" not in statuses(app).values()
        done = [job_id for job_id, status in statuses(app).items() if status == "SUCCESS"]
        runs = lines(path("runs"))
        assert len(runs) == len(set(runs)) == len(done)

    def test_the_row_of_the_worker_is_closed(self, app: DBQueue, database_url: str, start_worker: Start) -> None:
        assert start_worker(database_url).stop() == 0
        with app.database.store.connect() as connection:
            assert (
                connection.execute(sa.text("SELECT count(*) FROM dbqueue_workers WHERE closed_at IS NULL")).scalar_one()
                == 0
            )

    def test_interrupt_and_hangup_do_the_same(self, database_url: str, start_worker: Start) -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            worker = start_worker(database_url)
            worker.signal(number)
            assert worker.wait() == 0

    def test_when_the_database_is_gone_a_second_signal_still_ends_it(
        self, postgres_url: str, path: PathOf, start_worker: Start
    ) -> None:
        with make_app(postgres_url) as app, psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
            worker = start_worker(postgres_url)
            app.tasks["sample.hold"].delay(path("started"), path("release"))
            wait_until(Path(path("started")).exists)
            name = sa.make_url(postgres_url).database
            with psycopg.connect(libpq_url(postgres_url), dbname="postgres", autocommit=True) as other:
                admin.close()
                other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
                other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
                Path(path("release")).touch()
                worker.term()
                wait_until(lambda: "Warm shutdown" in worker.log)
                worker.term()
                assert worker.wait() == 1
                other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


class TestColdShutdown:
    @pools
    @pytest.mark.parametrize(
        "numbers", [(signal.SIGQUIT,), (signal.SIGTERM, signal.SIGTERM)], ids=["quit", "term twice"]
    )
    def test_running_jobs_go_back_uncounted_and_run_again(
        self, app: DBQueue, database_url: str, send: Send, path: PathOf, start_worker: Start, pool: str,
        numbers: tuple[int, ...],
    ) -> None:  # fmt: skip
        results = [send("hold", path("started"), path("release"), priority=9) for _ in range(2)]
        once = send("hold_once", path("once"), path("release"), queue="celery" if pool == "solo" else "once")
        rest = [send("add", n, n) for n in range(5)]
        worker = start_worker(database_url, pool=pool, concurrency=3, queues="celery,once")
        wait_until(lambda: lines(path("started")))
        if pool != "solo":  # it has a slot of its own; what is on its way to one may have started, too
            wait_until(lambda: lines(path("once")))
        for number in numbers:
            worker.signal(number)
            wait_until(lambda: "shutdown" in worker.log)
        assert worker.wait() == 1
        assert worker.family() == []
        rows = statuses(app)
        assert "STARTED" not in rows.values()
        assert {rows[result.id] for result in results} == {"PENDING"}
        # acks_late=False: never again once it has started
        assert rows[once.id] == ("PENDING" if pool == "solo" else "FAILURE")
        assert set(column(app, "losses").values()) == {0}
        Path(path("release")).touch()
        second = start_worker(database_url, pool=pool, concurrency=2)
        assert [result.get(timeout=TIMEOUT) for result in results] == ["released"] * 2
        assert [result.get(timeout=TIMEOUT) for result in rest] == [0, 2, 4, 6, 8]
        assert second.stop() == 0

    @pytest.mark.parametrize("pool", ["prefork"])
    def test_five_signals_at_once(self, app: DBQueue, database_url: str, send: Send, path: PathOf,
                                  start_worker: Start, pool: str) -> None:  # fmt: skip
        send("hold", path("started"), path("release"))
        worker = start_worker(database_url, pool=pool)
        wait_until(Path(path("started")).exists)
        worker.term()
        wait_until(lambda: "Warm shutdown" in worker.log)  # signals that come at once count as one
        for _ in range(4):
            worker.term()
        assert worker.wait() == 1
        assert "STARTED" not in statuses(app).values()
        assert worker.family() == []

    def test_right_at_the_start(self, database_url: str, start_worker: Start) -> None:
        for _ in range(2):
            worker = start_worker(database_url, concurrency=4)
            worker.signal(signal.SIGQUIT)
            assert worker.wait() == 1
            assert worker.family() == []
            assert "Another takes its place" not in worker.log

    def test_when_the_nursery_is_killed(self, app: DBQueue, database_url: str, send: Send, path: PathOf,
                                        start_worker: Start) -> None:  # fmt: skip
        result = send("hold", path("started"), path("release"))
        worker = start_worker(database_url, concurrency=1)
        child = int(wait_until(lambda: lines(path("started")))[0])  # the file is there before its line
        (nursery,) = set(worker.family()) - {worker.pid, child}
        os.kill(nursery, signal.SIGKILL)
        assert worker.wait() == 1
        assert worker.family() == []
        assert result.status == "PENDING"


class TestLongJobs:
    @pytest.mark.parametrize("pool", ["prefork", "asyncio"])
    def test_a_long_job_does_not_hold_up_others(
        self, app: DBQueue, database_url: str, path: PathOf, start_worker: Start, pool: str
    ) -> None:
        """Short jobs are sent to a child ahead of their turn; behind a long one they are taken back."""
        record, hold = app.tasks["sample.record"], app.tasks["sample.hold"]
        start_worker(database_url, pool=pool, concurrency=2)
        # Measured as short, so that a buffer is filled; then one of them is long.
        first = record.enqueue_many([(path("warm"), n) for n in range(200)])
        for result in first:
            result.get(timeout=TIMEOUT)
        app.tasks["sample.record_slowly"].enqueue_many([(path("warm"), n, 0.0) for n in range(200)])
        long = hold.delay(path("started"), path("release"))
        rest = record.enqueue_many([(path("rest"), n) for n in range(500)])
        for result in rest:
            result.get(timeout=TIMEOUT)
        assert long.status == "STARTED"
        Path(path("release")).touch()
        assert long.get(timeout=TIMEOUT) == "released"

    def test_another_worker_takes_what_waits_behind_long_jobs(
        self, app: DBQueue, database_url: str, send: Send, path: PathOf, start_worker: Start
    ) -> None:
        start_worker(database_url, concurrency=1)
        for n in range(50):
            send("add", n, n).get(timeout=TIMEOUT)
        send("hold", path("started"), path("release"))
        quick = [send("add", n, n) for n in range(30)]
        wait_until(Path(path("started")).exists)
        start_worker(database_url, concurrency=1)
        assert [result.get(timeout=TIMEOUT) for result in quick] == [2 * n for n in range(30)]
        Path(path("release")).touch()


def stop_processes(app: DBQueue, pids: list[int], *, between_writes: bool = False) -> None:
    """SIGSTOP; but not in the midst of a write to SQLite, for the file's lock would stop everybody else as well.

    With `between_writes` not in one to PostgreSQL either: what is in that transaction is nobody else's until it ends.
    """
    is_sqlite = app.database.store.dialect == "sqlite"

    def are_stopped() -> bool:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        if not is_sqlite and not between_writes:
            return True
        wait_until(lambda: all(map(is_stopped, pids)), what="the stop")  # a thread ends its system call first
        if not (is_locked(app) if is_sqlite else has_open_transaction(app)):
            return True
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        return False

    wait_until(are_stopped, what="a moment without a write")


def is_stopped(pid: int) -> bool:
    """Whether all of its threads are; where there is no /proc, it is taken for granted."""
    try:
        threads = [stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False  # one that was just ending
    return all(thread.rpartition(")")[2].split()[0] in "TZ" for thread in threads)


def is_locked(app: DBQueue) -> bool:
    path = sa.make_url(str(app.conf.broker_url)).database
    connection = sqlite3.connect(str(path), timeout=0.1, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return True
    else:
        connection.execute("ROLLBACK")
        return False
    finally:
        connection.close()


OPEN_TRANSACTIONS = """
SELECT wait_event = 'ClientRead' FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"""


def has_open_transaction(app: DBQueue) -> bool:
    """Whether any session waits for its client amid a transaction; one that is at work is waited for."""
    found: list[bool | None] = []

    def is_settled() -> bool:
        with app.database.store.connect() as connection:
            found[:] = connection.scalars(sa.text(OPEN_TRANSACTIONS))
        return not found or True in found

    wait_until(is_settled, what="the end of what the server does")
    return bool(found)


class TestLostLease:
    @pytest.mark.parametrize("pool", ["prefork", "threads"])
    def test_a_zombies_outcome_is_refused_and_it_goes_on(
        self, app: DBQueue, database_url: str, path: PathOf, start_worker: Start, pool: str
    ) -> None:
        """Stopped past its lease, a worker loses its job to a rival; continued, it finds out and registers anew."""
        settings = {"worker_lease_seconds": 2.0, "worker_heartbeat_interval": 0.3}
        zombie = start_worker(database_url, pool=pool, concurrency=1, settings=settings)
        result = app.tasks["sample.hold"].delay(path("started"), path("release"))
        wait_until(Path(path("started")).exists)
        stop_processes(app, [zombie.pid])  # the supervisor alone: its child runs on, and answers nobody
        rival = start_worker(database_url, pool=pool, concurrency=1, settings=settings)
        wait_until(lambda: len(lines(path("started"))) == 2, what="the rescue")
        Path(path("release")).touch()
        assert result.get(timeout=TIMEOUT) == "released"
        record = app.database.record(result.id)
        os.kill(zombie.pid, signal.SIGCONT)
        wait_until(lambda: "registers anew" in zombie.log)
        assert app.database.record(result.id) == record
        assert rival.stop() == 0
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=TIMEOUT) == 3
        assert zombie.stop() == 0
        assert set(statuses(app).values()) == {"SUCCESS"}

    def test_its_whole_tree_stopped(self, app: DBQueue, database_url: str, path: PathOf, start_worker: Start) -> None:
        settings = {"worker_lease_seconds": 2.0, "worker_heartbeat_interval": 0.3}
        zombie = start_worker(database_url, concurrency=2, settings=settings)
        results = app.tasks["sample.record_slowly"].enqueue_many([(path("runs"), n, 0.02) for n in range(100)])
        wait_until(lambda: len(lines(path("runs"))) > 5)
        stop_processes(app, zombie.family(), between_writes=True)
        start_worker(database_url, concurrency=2, settings=settings)
        for result in results:
            result.get(timeout=TIMEOUT)
        for pid in zombie.family():
            # The supervisor, continued first, may have ended its children by now: as it should.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        # A stop that comes while it registers is one of a worker whose lease has ended, with exit code 1.
        wait_until(lambda: "Registered anew: claiming again" in zombie.log)
        assert set(statuses(app).values()) == {"SUCCESS"}
        # What ran at the stop, and what had just ended and was not written yet: a round's worth on a busy machine.
        assert len(lines(path("runs"))) <= 100 + 20
        assert zombie.stop() == 0


def test_a_dead_child_whose_own_child_lives_on(
    app: DBQueue, database_url: str, path: PathOf, start_worker: Start
) -> None:
    """The grandchild holds the dead child's socket open: the worker must not wait for its end."""
    worker = start_worker(database_url, concurrency=1, settings={"task_max_losses": 1})
    result = app.tasks["sample.leave_child"].delay(path("grandchild"))
    follower = app.tasks["sample.add"].delay(1, 2)
    result.get(timeout=TIMEOUT, propagate=False)
    assert result.status == "FAILURE"
    assert follower.get(timeout=TIMEOUT) == 3
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 50  # the grandchild sleeps for a minute
