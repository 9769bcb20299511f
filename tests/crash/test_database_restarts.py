"""PostgreSQL stopped, in each way, under load: workers and clients wait and go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dbqueue.errors import OperationalError
from dbqueue.jobs import new_job_id
from tests.crash.test_kills import LEASE, ended, runs
from tests.servers import PostgresServer
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]

JOBS = 400


@pytest.fixture
def running(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres_server
    postgres_server.start()


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_a_restart_under_load(
    running: PostgresServer, postgres_url: str, tmp_path: Path, start_worker: Start, mode: str
) -> None:
    """Acknowledged enqueues end once; others exist once or not at all, and may be repeated by their id."""
    path = tmp_path / "runs"
    settings = LEASE | {"worker_lease_seconds": 20.0, "worker_heartbeat_interval": 1.0}
    with make_app(postgres_url, database_connect_timeout=2) as app:
        record = app.tasks["sample.record_slowly"]
        worker = start_worker(postgres_url, settings=settings)
        record.enqueue_many([(str(path), n, 0.002) for n in range(JOBS)])
        acknowledged: list[int] = []
        refused = 0

        def produce() -> None:
            nonlocal refused
            for n in range(JOBS, 2 * JOBS):
                task_id = new_job_id()
                while True:
                    try:
                        record.apply_async((str(path), n, 0.0), task_id=task_id)
                    except OperationalError:
                        refused += 1
                        stopped.wait(0.05)
                    else:
                        acknowledged.append(n)
                        break

        stopped = threading.Event()
        producer = threading.Thread(target=produce)
        wait_until(lambda: sum(runs(path).values()) > 20)
        producer.start()
        wait_until(lambda: len(acknowledged) > 20)
        running.restart(mode)
        producer.join(60)
        assert len(acknowledged) == JOBS
        wait_until(lambda: ended(app)["SUCCESS"] == 2 * JOBS, timeout=60)
        assert ended(app) == {"SUCCESS": 2 * JOBS}
        assert set(runs(path)) == {str(n) for n in range(2 * JOBS)}
        assert worker.alive
        assert worker.stop() == 0, worker.log[-3000:]


def test_a_pooled_connection_survives(running: PostgresServer, postgres_url: str) -> None:
    with make_app(postgres_url) as app:
        add = app.tasks["sample.add"]
        first = add.delay(1, 2)
        for mode in ("fast", "immediate", "kill"):
            running.restart(mode)
            assert add.delay(1, 2).status == "PENDING"
            running.restart(mode)
            assert first.exists()
            running.restart(mode)
            add.enqueue_many([(1, 2), (3, 4)])


def test_many_pooled_connections_survive(running: PostgresServer, postgres_url: str) -> None:
    with make_app(postgres_url, database_pool_size=8) as app:
        add = app.tasks["sample.add"]

        def all_at_once() -> None:
            barrier = threading.Barrier(8)
            errors: list[BaseException] = []

            def one() -> None:
                barrier.wait()
                try:
                    for _ in range(5):
                        add.delay(1, 2)
                except BaseException as error:  # noqa: BLE001
                    errors.append(error)

            threads = [threading.Thread(target=one) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert errors == []

        all_at_once()
        running.restart("fast")
        all_at_once()
        assert ended(app) == {"PENDING": 80}


def test_an_enqueue_without_a_database_fails_in_time(running: PostgresServer, postgres_url: str) -> None:
    with make_app(postgres_url, database_connect_timeout=2) as app:
        app.tasks["sample.add"].delay(1, 2)
        running.stop()
        with pytest.raises(OperationalError):
            app.tasks["sample.add"].delay(1, 2)
        with pytest.raises(OperationalError):
            app.AsyncResult("any").get(timeout=10)
        running.start()
        app.tasks["sample.add"].delay(1, 2)


def test_an_idle_worker_survives_a_long_outage(running: PostgresServer, postgres_url: str, start_worker: Start) -> None:
    """Longer than its lease: it fences itself, comes back, and serves."""
    settings = LEASE | {"worker_poll_interval": 600.0}
    with make_app(postgres_url) as app:
        worker = start_worker(postgres_url, settings=settings)
        running.stop()
        wait_until(lambda: "No heartbeat reached the database" in worker.log)
        running.start()
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
        assert worker.stop() == 0


def test_a_worker_that_stops_tells_that_it_waits_for_the_database(
    running: PostgresServer, postgres_url: str, tmp_path: Path, start_worker: Start
) -> None:
    """It said that tasks ran, for as long as the database was away."""
    with make_app(postgres_url) as app:
        worker = start_worker(postgres_url, settings={"worker_lease_seconds": 600.0, "worker_heartbeat_interval": 60.0})
        result = app.tasks["sample.hold"].delay(str(tmp_path / "started"), str(tmp_path / "release"))
        wait_until((tmp_path / "started").exists)
        running.stop("immediate")
        worker.term()
        (tmp_path / "release").touch()
        wait_until(lambda: "the database does not take the last outcomes" in worker.log)
        running.start()
        assert worker.wait() == 0
        assert result.get(timeout=60) == "released"


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_that_holds_nothing_stops_without_the_database(
    running: PostgresServer, postgres_url: str, start_worker: Start, pool: str
) -> None:
    """It would have waited for the end of the outage, or for its process manager's patience."""
    with make_app(postgres_url) as app:
        worker = start_worker(postgres_url, pool=pool)
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
        running.stop("immediate")
        wait_until(lambda: "finished jobs are kept" in worker.log)
        assert worker.stop() == 0
        assert "The database does not hear that this worker ends, which held nothing" in worker.log


def test_a_worker_that_stops_does_not_wait_for_the_database_past_its_time(
    running: PostgresServer, postgres_url: str, tmp_path: Path, start_worker: Start
) -> None:
    settings = {"worker_lease_seconds": 600.0, "worker_heartbeat_interval": 60.0, "worker_shutdown_timeout": 1.0}
    with make_app(postgres_url) as app:
        worker = start_worker(postgres_url, settings=settings)
        app.tasks["sample.hold"].delay(str(tmp_path / "started"), str(tmp_path / "release"))
        wait_until((tmp_path / "started").exists)
        running.stop("immediate")
        (tmp_path / "release").touch()
        wait_until(lambda: "finished jobs are kept" in worker.log)
        worker.term()
        assert worker.wait() == 1
        assert "did not take the last outcomes" in worker.log


def test_a_running_job_survives_a_short_outage(
    running: PostgresServer, postgres_url: str, tmp_path: Path, start_worker: Start
) -> None:
    with make_app(postgres_url) as app:
        worker = start_worker(postgres_url)
        result = app.tasks["sample.hold"].delay(str(tmp_path / "started"), str(tmp_path / "release"))
        wait_until((tmp_path / "started").exists)
        running.stop("immediate")
        (tmp_path / "release").touch()
        wait_until(lambda: "finished jobs are kept" in worker.log)
        running.start()
        assert result.get(timeout=60) == "released"
        assert len((tmp_path / "started").read_text().split()) == 1
        assert worker.stop() == 0
