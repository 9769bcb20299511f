"""A worker is killed, and an operator deletes its row before anybody has found it dead: its job is not lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.crash.test_kills import LEASE, runs
from tests.stores import row, run_sql
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess


def test_the_jobs_of_a_worker_whose_row_was_deleted(
    database_url: str, tmp_path: Path, start_worker: Callable[..., WorkerProcess]
) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    with make_app(database_url) as app:
        killed = start_worker(database_url, settings=LEASE)
        result = app.tasks["sample.ahold"].delay(str(started), str(release))
        wait_until(lambda: runs(started), what="the run")
        killed.kill()
        wait_until(lambda: killed.family() == [], what="the end of its processes")
        run_sql(app.database.store, "DELETE FROM dbqueue_workers")
        worker = start_worker(database_url, settings=LEASE)
        worker.says("its row was deleted")
        wait_until(lambda: sum(runs(started).values()) == 2, what="another run")
        release.touch()
        assert result.get(timeout=60) == "released"
        assert row(app.database.store, result.id)["losses"] == 1
        assert worker.stop() == 0
