"""A claim that was granted, and whose worker was not told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.chaos import transitions
from tests.crash.test_kills import LEASE, ended
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess


def test_a_lost_claim_is_not_repeated_under_its_lease(
    database_url: str, start_worker: Callable[..., WorkerProcess]
) -> None:
    """Its jobs are handed back, and claimed anew: a lease that was used twice would open what the first one left."""
    with make_app(database_url) as app:
        store = app.database.store
        transitions.install(store)
        result = app.tasks["sample.add"].delay(1, 2)
        environment = {"DBQUEUE_FAILPOINTS": "claim.after=raise@1"}
        worker = start_worker(database_url, settings=LEASE, environment=environment)
        assert result.get(timeout=60) == 3
        wait_until(lambda: ended(app) == {"SUCCESS": 1})
        assert "1 jobs of a lost claim were handed back" in worker.log
        found = transitions.read_transitions(store)
        granted = [step.new_lease for step in found if step.new_status == "STARTED"]
        assert len(granted) == len(set(granted)) == 2
        assert worker.stop() == 0


def test_the_points_of_a_worker_are_those_of_its_environment(
    database_url: str, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    """A claim that waits at a point holds its jobs, and nobody runs them; then it goes on."""
    with make_app(database_url) as app:
        result = app.tasks["sample.add"].delay(1, 2)
        environment = {
            "DBQUEUE_FAILPOINTS": f"claim.after=pause:{tmp_path / 'go'}",
            "DBQUEUE_FAILPOINTS_LOG": str(tmp_path / "log"),
        }
        start_worker(database_url, settings=LEASE, environment=environment)
        wait_until(lambda: (tmp_path / "log").exists() and "claim.after pause" in (tmp_path / "log").read_text())
        assert ended(app) == {"STARTED": 1}
        (tmp_path / "go").touch()
        assert result.get(timeout=60) == 3
