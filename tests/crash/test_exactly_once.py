"""Promise I9 under faults, in short; `make chaos` has all pools and more jobs."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from dbqueue.errors import WorkerLostError
from dbqueue.failpoints import LOG_VARIABLE, VARIABLE
from tests.chaos.proxy import Weather
from tests.waiting import wait_until
from tests.worker.transactional import exactly_once
from tests.worker.transactional.exactly_once import check, counting, scalar, start
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
JOBS = 30


def test_processes_killed_before_and_after_the_commit(database_url: str, start_worker: Start, tmp_path: Path) -> None:
    assert exactly_once.kill_at_commits(database_url, start_worker, "prefork", JOBS, tmp_path) > 0


@pytest.mark.parametrize("name", ["t.count_up", "t.count_by_hand"])
def test_a_worker_killed_under_load(postgres_url: str, start_worker: Start, name: str) -> None:
    exactly_once.kill_workers(postgres_url, start_worker, name, JOBS)


def test_a_process_stopped_before_its_first_write(sqlite_url: str, start_worker: Start, tmp_path: Path) -> None:
    exactly_once.stop_past_lease(sqlite_url, start_worker, "prefork", "start.before", tmp_path)


def test_a_process_stopped_before_its_commit(postgres_url: str, start_worker: Start, tmp_path: Path) -> None:
    """The server ends the transaction that it left open: the rival has to wait for its locks no longer."""
    exactly_once.stop_past_lease(postgres_url, start_worker, "prefork", "commit.before", tmp_path)


def test_a_child_stopped_alone_keeps_its_lease(postgres_url: str, start_worker: Start, tmp_path: Path) -> None:
    """Its transaction is ended by the server, and its commit is found to have failed: it runs again."""
    with counting(postgres_url) as app:
        log = tmp_path / "faults"
        environment = {VARIABLE: "commit.before=stop@1", LOG_VARIABLE: str(log)}
        worker = start(start_worker, postgres_url, "prefork", concurrency=1, environment=environment)
        result = app.tasks["t.count_up"].delay()
        wait_until(log.exists, what="the stop")
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in %'"
        wait_until(lambda: scalar(app, query) == 0, what="the end of the transaction that was left")
        os.kill(int(log.read_text().split()[1]), signal.SIGCONT)
        assert result.get(timeout=60) == 1
        check(app, 1)
        assert "it runs again, as after a lost run" in worker.log


def test_a_commit_that_always_fails_ends_as_a_failure(postgres_url: str, start_worker: Start) -> None:
    with counting(postgres_url) as app:
        environment = {VARIABLE: "commit.before=cut"}
        settings = {"task_max_losses": 2}
        start(start_worker, postgres_url, "prefork", concurrency=1, environment=environment, settings=settings)
        result = app.tasks["t.count_up"].delay()
        with pytest.raises(WorkerLostError, match="was not committed, and it may not run again"):
            result.get(timeout=60)
        assert scalar(app, "SELECT losses FROM dbqueue_jobs") == 2
        assert scalar(app, "SELECT n FROM counter") == 0


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_replies_and_requests_lost(postgres_url: str, start_worker: Start, pool: str) -> None:
    weather = Weather(lost_replies=0.04, lost_requests=0.02, late_requests=0.02)
    exactly_once.lose_replies(postgres_url, start_worker, pool, JOBS, weather)
