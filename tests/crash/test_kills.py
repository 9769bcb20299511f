"""Workers killed in mid-load: every job ends once, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from tests.waiting import wait_until
from tests.worker.sample import make_app, set_bound
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]

LEASE = {"worker_lease_seconds": 2.5, "worker_heartbeat_interval": 0.4, "task_max_losses": 50}
"""Short, for a rescue is waited for; but a worker that has to wait for the processor must not lose it."""
JOBS = 600


def ended(app: DBQueue) -> Counter[str]:
    with app.database.store.connect() as connection:
        rows = connection.execute(sa.text("SELECT status, count(*) AS number FROM dbqueue_jobs GROUP BY status"))
        return Counter({row[0]: row[1] for row in rows})


def runs(path: Path) -> Counter[str]:
    return Counter(path.read_text().split()) if path.exists() else Counter()


def await_runs(path: Path, number: int) -> None:
    """Let `number` more jobs run, and some beyond them: what is killed now is at work.

    A test has set a bound before it enqueues: else all may have run before this one is set.
    """
    before = sum(runs(path).values())
    set_bound(path, before + 2 * number)
    wait_until(lambda: sum(runs(path).values()) > before + number)


def check_history(app: DBQueue, path: Path, jobs: int, kills: int, slots: int) -> None:
    """Each job ended once, as SUCCESS; again ran only what ran at a kill."""
    assert ended(app) == {"SUCCESS": jobs}
    seen = runs(path)
    assert set(seen) == {str(n) for n in range(jobs)}  # nothing lost, nothing invented
    again = sum(seen.values()) - jobs
    # What had ended and was not written yet at a supervisor's kill runs again too: a round of each slot's.
    assert again <= kills * max(slots, 1) * 40, f"{again} runs too many after {kills} kills"


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_supervisors_killed_in_mid_load(database_url: str, tmp_path: Path, start_worker: Start, pool: str) -> None:
    path = tmp_path / "runs"
    set_bound(path, 0)
    kills = 3
    with make_app(database_url) as app:
        app.tasks["sample.record_slowly"].enqueue_many([(str(path), n, 0.006) for n in range(JOBS)])
        for kill in range(kills):
            worker = start_worker(database_url, pool=pool, settings=LEASE)
            await_runs(path, 40)
            worker.kill()
            wait_until(lambda worker=worker: worker.family() == [], what=f"the children's end after kill {kill}")  # type: ignore[misc]
        assert ended(app)["SUCCESS"] < JOBS
        set_bound(path, None)
        survivor = start_worker(database_url, pool=pool, settings=LEASE)
        wait_until(lambda: ended(app)["SUCCESS"] == JOBS, timeout=60)
        check_history(app, path, JOBS, kills, 2)
        assert survivor.stop() == 0
        with app.database.store.connect() as connection:
            open_rows = connection.execute(sa.text("SELECT count(*) FROM dbqueue_workers WHERE closed_at IS NULL"))
            assert open_rows.scalar_one() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_children_killed_at_random(database_url: str, tmp_path: Path, start_worker: Start, pool: str) -> None:
    path = tmp_path / "runs"
    set_bound(path, 0)
    with make_app(database_url) as app:
        worker = start_worker(database_url, pool=pool, settings=LEASE)
        app.tasks["sample.record_slowly"].enqueue_many([(str(path), n, 0.005) for n in range(JOBS)])
        kills = 0
        while ended(app)["SUCCESS"] < JOBS * 3 // 4:
            await_runs(path, 10)
            nursery = children_of(worker.pid)
            victims = [child for pid in nursery for child in children_of(pid)]
            if victims:
                with contextlib.suppress(ProcessLookupError):  # the last victim, whom its parent has buried just now
                    os.kill(random.choice(victims), signal.SIGKILL)
                    kills += 1
        assert kills
        set_bound(path, None)
        wait_until(lambda: ended(app)["SUCCESS"] == JOBS, timeout=60)
        seen = runs(path)
        assert set(seen) == {str(n) for n in range(JOBS)}
        assert sum(seen.values()) - JOBS <= kills * 2  # a child's kill costs what it ran, and no more
        assert worker.stop() == 0
        assert worker.family() == []


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def test_a_job_that_is_never_to_run_again_does_not(database_url: str, tmp_path: Path, start_worker: Start) -> None:
    """`acks_late=False`: when its worker is gone it ends as FAILURE."""
    with make_app(database_url) as app:
        worker = start_worker(database_url, settings=LEASE)
        result = app.tasks["sample.hold_once"].delay(str(tmp_path / "started"), str(tmp_path / "release"))
        wait_until((tmp_path / "started").exists)
        worker.kill()
        start_worker(database_url, settings=LEASE)
        wait_until(result.ready)
        assert result.status == "FAILURE"
        assert len((tmp_path / "started").read_text().split()) == 1


def test_everything_killed_at_once(database_url: str, tmp_path: Path, start_worker: Start) -> None:
    path = tmp_path / "runs"
    with make_app(database_url) as app:
        app.tasks["sample.record_slowly"].enqueue_many([(str(path), n, 0.002) for n in range(JOBS)])
        workers = [start_worker(database_url, settings=LEASE) for _ in range(2)]
        wait_until(lambda: sum(runs(path).values()) > 50)
        for worker in workers:
            worker.end()
        start_worker(database_url, settings=LEASE)
        wait_until(lambda: ended(app)["SUCCESS"] == JOBS, timeout=60)
        check_history(app, path, JOBS, 2, 2)


def test_sqlite_is_whole_after_kills(sqlite_url: str, tmp_path: Path, start_worker: Start) -> None:
    with make_app(sqlite_url) as app:
        app.tasks["sample.record"].enqueue_many([(str(tmp_path / "runs"), n) for n in range(JOBS)])
        for _ in range(3):
            worker = start_worker(sqlite_url, settings=LEASE)
            worker.end()
        with app.database.store.connect() as connection:
            assert connection.execute(sa.text("PRAGMA integrity_check")).scalar_one() == "ok"
