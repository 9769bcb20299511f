"""A claim that a crash of the server has forgotten, for claims are not durable: its run ends, and another begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.crash.holding import make_app
from tests.servers import PostgresServer, libpq_url
from tests.stores import opened, row
from tests.waiting import wait_until
from tests.worker.sample import make_app as make_sample
from tests.workers import WorkerProcess

CRASHES = 5
"""In most of them the claim is lost; something else may have been committed just then, and have taken it along."""
QUIET: dict[str, Any] = {"worker_lease_seconds": 60.0, "worker_heartbeat_interval": 20.0}
"""A heartbeat's commit would take the claim to the disk."""


@pytest.fixture
def running(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres_server
    postgres_server.start()


FORGOTTEN = """
UPDATE dbqueue_jobs SET status = 'PENDING', lease = NULL, worker = NULL, started_at = NULL, ready_at = now()
WHERE id = %s"""
"""What a crash leaves of a claim, without one."""


def lease_of(url: str, job_id: str) -> str:
    with opened(url) as store:  # anew: the connections of before the crash are broken
        return str(row(store, job_id)["lease"])


def test_the_run_of_a_forgotten_claim_is_ended(
    running: PostgresServer, postgres_url: str, tmp_path: Path, start_worker: Callable[..., WorkerProcess]
) -> None:
    with make_app(postgres_url) as app:
        worker = start_worker(postgres_url, module="tests.crash.holding", concurrency=1, settings=QUIET)
        for crash in range(CRASHES):
            started, release = tmp_path / f"started {crash}", tmp_path / f"release {crash}"
            with running.lazily_written():
                result = app.tasks["holding.hold"].delay(str(started), str(release))
                wait_until(started.exists, what="the run")
                lease = lease_of(postgres_url, result.id)
                running.stop("kill")
            running.start()
            wait_until(lambda: worker.log.count("The database works again") > crash, what="the reconnect")  # noqa: B023
            if lease_of(postgres_url, result.id) != lease:
                break
            release.touch()
            assert result.get(timeout=60) == "released"
        else:
            pytest.fail("no crash has forgotten the claim")
        wait_until(lambda: len(started.read_text().split()) == 2, what="another run")
        first, _ = started.read_text().split()
        wait_until(lambda: not Path("/proc", first).exists(), what="the end of the first")
        assert f"Job {result.id} lost its lease in a crash of the database: its run is ended" in worker.log
        release.touch()
        assert result.get(timeout=60) == "released"
        assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_its_neighbours_in_the_process_are_not_lost(
    postgres_url: str, tmp_path: Path, start_worker: Callable[..., WorkerProcess], pool: str
) -> None:
    """They run again, for their process was ended; but it was the worker that did so."""
    release, task = tmp_path / "release", "sample.ahold" if pool == "asyncio" else "sample.hold"
    with make_sample(postgres_url) as app, psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        worker = start_worker(postgres_url, pool=pool, concurrency=2, settings=QUIET)
        started = [tmp_path / f"started {number}" for number in range(2)]
        results = [app.tasks[task].delay(str(each), str(release)) for each in started]
        for each in started:
            wait_until(each.exists, what="the run")
        admin.execute(FORGOTTEN, [results[0].id])
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        admin.execute(
            f"{query} AND application_name LIKE 'dbqueue%%' AND application_name NOT LIKE '%% watch'".encode()
        )
        for each in started:
            wait_until(lambda each=each: len(each.read_text().split()) == 2, what="another run")  # type: ignore[misc]
        release.touch()
        for result in results:
            assert result.get(timeout=60) == "released"
            assert row(app.database.store, result.id)["losses"] == 0
        assert worker.log.count("lost its lease in a crash of the database: its run is ended") == 1
        assert "lost its lease while it ran here" not in worker.log
        assert worker.stop() == 0
