"""Errors that nobody expected, inside the worker itself: its jobs are given back, or it goes on."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from dbqueue.errors import WorkerLostError
from tests.stores import moment, row
from tests.waiting import wait_until
from tests.worker import breaking
from tests.worker.test_lifecycle import column, lines, statuses
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
PathOf = Callable[[str], str]
TIMEOUT = 60.0


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """The file that breaks the named part while it is there."""

    def file_of(variable: str) -> Path:
        path = tmp_path / variable
        monkeypatch.setenv(variable, str(path))
        return path

    return file_of


def worker_rows(app: DBQueue) -> list[dict[str, Any]]:
    with app.database.store.connect() as connection:
        return [dict(each) for each in connection.execute(sa.text("SELECT * FROM dbqueue_workers")).mappings()]


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_an_error_of_the_loop(
    app: DBQueue, database_url: str, path: PathOf, start_worker: Start, broken: Callable[[str], Path], pool: str
) -> None:
    """The worker ends with the error; what ran, and what waited in it, waits again for another at once."""
    fault = broken(breaking.LOOP)
    worker = start_worker(database_url, module="tests.worker.breaking", pool=pool, concurrency=2)
    held = [app.tasks["sample.hold"].delay(path(f"started{n}"), path("release")) for n in range(2)]
    waiting = [app.tasks["sample.add"].delay(n, n) for n in range(5)]
    for n in range(2):
        wait_until(lambda n=n: lines(path(f"started{n}")), what="the start")  # type: ignore[misc]
    fault.touch()
    assert worker.wait() == 1
    assert "LookupError: _look_after is broken" in worker.log
    assert "Another takes its place" not in worker.log
    assert worker.family() == []
    assert set(statuses(app).values()) == {"PENDING"}
    assert set(column(app, "losses").values()) == {0}
    assert [each["closed_at"] is not None for each in worker_rows(app)] == [True]
    Path(path("release")).touch()
    start_worker(database_url)
    assert [each.get(timeout=TIMEOUT) for each in held] == ["released"] * 2
    assert [each.get(timeout=TIMEOUT) for each in waiting] == [0, 2, 4, 6, 8]


def test_an_error_of_the_watch(
    app: DBQueue, database_url: str, start_worker: Start, broken: Callable[[str], Path]
) -> None:
    """Whatever it is, the thread tries again: heartbeats go on, and the worker never noticed."""
    fault = broken(breaking.WATCH)
    settings = {"worker_heartbeat_interval": 0.2}
    worker = start_worker(database_url, module="tests.worker.breaking", settings=settings)
    for number in range(2):
        fault.touch()
        wait_until(lambda number=number: worker.log.count("heartbeat is broken") > number, what="the fault")  # type: ignore[misc]
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=TIMEOUT) == 3
        before = moment(worker_rows(app)[0]["heartbeat_at"])
        fault.unlink()
        wait_until(lambda before=before: moment(worker_rows(app)[0]["heartbeat_at"]) > before, what="a heartbeat")  # type: ignore[misc]
    assert worker.stop() == 0


@pytest.mark.parametrize("concurrency", [3, 4], ids=["all slots are busy", "one waits for a job"])
def test_a_sub_task_that_ends_the_loop(
    app: DBQueue, database_url: str, path: PathOf, start_worker: Start, concurrency: int
) -> None:
    """SystemExit in a task of asyncio's own stops the whole loop: that is its job's death, and nobody's failure."""
    worker = start_worker(database_url, pool="asyncio", concurrency=concurrency)
    neighbours = [app.tasks["sample.ahold"].delay(path(f"started{n}"), path("release")) for n in range(2)]
    for n in range(2):
        wait_until(lambda n=n: lines(path(f"started{n}")), what="the start")  # type: ignore[misc]
    culprit = app.tasks["sample.exit_beside"].delay(path("runs"))
    with pytest.raises(WorkerLostError):
        culprit.get(timeout=TIMEOUT)
    assert len(lines(path("runs"))) == 3  # task_max_losses=2
    Path(path("release")).touch()
    assert [each.get(timeout=TIMEOUT) for each in neighbours] == ["released"] * 2
    for each in neighbours:
        assert row(app.database.store, each.id)["losses"] == 1
    assert app.tasks["sample.aadd"].delay(1, 2).get(timeout=TIMEOUT) == 3
    assert worker.stop() == 0


def test_a_task_that_closes_all_descriptors_does_not_keep_its_worker(
    app: DBQueue, database_url: str, path: PathOf, start_worker: Start
) -> None:
    """The event loop cannot be woken any more; what the worker asks, nobody hears."""
    worker = start_worker(database_url, pool="asyncio")
    result = app.tasks["sample.die"].delay("close", path("runs"))
    wait_until(lambda: lines(path("runs")), what="the start")
    worker.stop()
    assert result.state != "STARTED"
    assert worker.family() == []


def test_no_room_for_a_pool_process(app: DBQueue, database_url: str, path: PathOf, start_worker: Start) -> None:
    """The process that starts them may open nothing: it is tried again, and once it may the worker goes on."""
    worker = start_worker(database_url, concurrency=1)
    child = app.tasks["sample.pid"].delay().get(timeout=TIMEOUT)
    (nursery,) = set(worker.family()) - {worker.pid, child}
    _, hard = resource.prlimit(nursery, resource.RLIMIT_NOFILE)
    soft, _ = resource.prlimit(nursery, resource.RLIMIT_NOFILE, (0, hard))
    os.kill(child, signal.SIGKILL)
    worker.says("No pool process can be started (Too many open files)")
    result = app.tasks["sample.add"].delay(1, 2)
    wait_until(lambda: worker.family() == sorted((worker.pid, nursery)), what="the end of the pool process")
    resource.prlimit(nursery, resource.RLIMIT_NOFILE, (soft, hard))
    assert result.get(timeout=TIMEOUT) == 3
    assert worker.log.count("No pool process can be started") == 1
    assert worker.stop() == 0


def test_the_process_that_starts_others_is_stopped(
    app: DBQueue, database_url: str, path: PathOf, start_worker: Start
) -> None:
    """It tells of deaths: without it the job would be STARTED for as long as the worker lives, which would not end."""
    worker = start_worker(database_url, concurrency=1)
    child = app.tasks["sample.pid"].delay().get(timeout=TIMEOUT)
    (nursery,) = set(worker.family()) - {worker.pid, child}
    result = app.tasks["sample.hold"].delay(path("started"), path("release"))
    wait_until(lambda: lines(path("started")), what="the start")
    os.kill(nursery, signal.SIGSTOP)
    os.kill(child, signal.SIGKILL)
    Path(path("release")).touch()
    assert result.get(timeout=TIMEOUT) == "released"
    os.kill(nursery, signal.SIGSTOP)
    assert worker.stop() == 0
    assert worker.family() == []
