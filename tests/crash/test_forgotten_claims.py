"""A claim that a crash of the server has forgotten, for claims are not durable: its run ends, and another begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash.holding import make_app
from tests.servers import PostgresServer
from tests.stores import opened, row
from tests.waiting import wait_until
from tests.workers import WorkerProcess

CRASHES = 5
"""In most of them the claim is lost; something else may have been committed just then, and have taken it along."""
QUIET: dict[str, Any] = {"worker_lease_seconds": 60.0, "worker_heartbeat_interval": 20.0}
"""A heartbeat's commit would take the claim to the disk."""


@pytest.fixture
def running(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres_server
    postgres_server.start()


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
