"""Soft limits and `revoke(terminate=True)` of `async def` tasks, which wait where no bytecode runs."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue.errors import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from tests.waiting import wait_until
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
Send = Callable[..., Any]
PathOf = Callable[[str], str]
TIMEOUT = 30.0
PROMPTLY = 20.0
"""Far less than the 60 seconds that the tasks would wait, whatever the machine is busy with."""

each_pool = pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo"])


def started(path: str) -> None:
    wait_until(lambda: Path(path).exists() and Path(path).read_text(), what="the start of the task")


@each_pool
def test_a_soft_limit(database_url: str, send: Send, path: PathOf, start_worker: Start, pool: str) -> None:
    start_worker(database_url, pool=pool)
    began = time.monotonic()
    hit = send("ahold", path("started"), path("never"), soft_time_limit=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        hit.get(timeout=TIMEOUT)
    caught = send("ahold_softly", path("again"), path("never"), soft_time_limit=0.2)
    assert caught.get(timeout=TIMEOUT) == "caught"
    assert "soft limit" in Path(path("again")).read_text()
    assert time.monotonic() - began < PROMPTLY
    assert send("aadd", 1, 2).get(timeout=TIMEOUT) == 3  # the loop is as it was


def test_a_function_on_the_loop_of_asyncio(sqlite_url: str, path: PathOf, start_worker: Start) -> None:
    """It runs in a thread: the exception is raised there, and its slot is free only when it has ended."""
    from tests.worker.sample import make_app

    with make_app(sqlite_url) as app:
        start_worker(sqlite_url, pool="asyncio", concurrency=1)
        softly = app.tasks["sample.hold_softly"]
        for number in range(3):
            mark = path(f"limited{number}")
            with pytest.raises(SoftTimeLimitExceeded):
                softly.apply_async((mark, path("never")), soft_time_limit=0.2).get(timeout=TIMEOUT)
            assert "soft limit" in Path(mark).read_text()
        result = softly.delay(path("revoked"), path("never"))
        started(path("revoked"))
        result.revoke(terminate=True)
        with pytest.raises(TaskRevokedError, match="terminated"):
            result.get(timeout=TIMEOUT)
        wait_until(lambda: "soft limit" in Path(path("revoked")).read_text(), what="the exception in the function")
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=TIMEOUT) == 3


def test_a_hard_limit_in_the_worker_itself(sqlite_url: str, path: PathOf, start_worker: Start) -> None:
    """The pool solo cannot end a run: it goes on to its end, and is not a failure while it does."""
    from tests.worker.sample import make_app

    with make_app(sqlite_url) as app:
        worker = start_worker(sqlite_url, pool="solo")
        hold, add = app.tasks["sample.hold"], app.tasks["sample.add"]
        over = hold.apply_async((path("held"), path("release")), time_limit=0.2)
        after = add.apply_async((1, 2), time_limit=60)
        started(path("held"))
        worker.says("cannot end it; it goes on")
        assert over.state == "STARTED"
        Path(path("release")).touch()
        assert over.get(timeout=TIMEOUT) == "released"
        assert after.get(timeout=TIMEOUT) == 3


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_waits_behind_a_run_past_its_hard_limit(
    sqlite_url: str, path: PathOf, start_worker: Start, pool: str
) -> None:
    """A stopped process gives nothing back; what was sent there ahead of its turn has not run, and is not over time."""
    from tests.worker.sample import make_app

    with make_app(sqlite_url) as app:
        start_worker(sqlite_url, pool=pool, concurrency=1)
        freeze = app.tasks["sample.freeze"]
        Path(path("thawed")).touch()
        for result in freeze.enqueue_many([(path("thawed"),)] * 20):  # it is known as a short one from now on
            assert result.get(timeout=TIMEOUT) == "thawed"
        over, *behind = freeze.enqueue_many([(path("cold"),), *[(path("thawed"),)] * 5], time_limit=1.5)
        with pytest.raises(TimeLimitExceeded):
            over.get(timeout=TIMEOUT)
        assert [each.get(timeout=TIMEOUT) for each in behind] == ["thawed"] * 5
        with app.database.store.connect() as connection:
            assert connection.execute(sa.text("SELECT sum(losses) FROM dbqueue_jobs")).scalar_one() == 0


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_a_hard_limit_beside_another_run(sqlite_url: str, path: PathOf, start_worker: Start, pool: str) -> None:
    """The process that they share is ended when the other has come to its end, and another takes its place."""
    from tests.worker.sample import make_app

    with make_app(sqlite_url) as app:
        worker = start_worker(sqlite_url, pool=pool, concurrency=2)
        hold = app.tasks["sample.hold"]
        beside = hold.delay(path("beside"), path("release"))
        started(path("beside"))
        pid = int(Path(path("beside")).read_text())
        with pytest.raises(TimeLimitExceeded):
            hold.apply_async((path("over"), path("never")), time_limit=0.2).get(timeout=TIMEOUT)
        for _ in range(3):  # the worker's loop has gone on, and has heard what the process gives back
            assert app.control.ping(timeout=TIMEOUT)
        assert beside.state == "STARTED"
        Path(path("release")).touch()
        assert beside.get(timeout=TIMEOUT) == "released"
        wait_until(lambda: pid not in worker.family(), what="the end of the process")
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=TIMEOUT) == 3
        assert len(Path(path("beside")).read_text().split()) == 1


@pytest.mark.parametrize(
    ("pool", "signum"), [("threads", "SIGTERM"), ("asyncio", "SIGTERM"), ("prefork", "SIGUSR1"), ("prefork", "SIGTERM")]
)
def test_revoked_while_it_waits(
    database_url: str, send: Send, path: PathOf, start_worker: Start, pool: str, signum: str
) -> None:
    worker = start_worker(database_url, pool=pool)
    began = time.monotonic()
    result = send("ahold_softly", path("started"), path("never"))
    started(path("started"))
    result.revoke(terminate=True, signal=signum)
    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(timeout=TIMEOUT)
    if signum == "SIGUSR1" or pool != "prefork":
        wait_until(lambda: "soft limit" in Path(path("started")).read_text(), what="the exception in the task")
    assert send("aadd", 1, 2).get(timeout=TIMEOUT) == 3
    assert worker.stop() == 0
    assert time.monotonic() - began < PROMPTLY


@pytest.mark.parametrize("pool", ["prefork", "asyncio", "solo"])
def test_one_that_blocks_its_loop(sqlite_url: str, path: PathOf, start_worker: Start, pool: str) -> None:
    from tests.worker.sample import make_app

    with make_app(sqlite_url) as app:
        start_worker(sqlite_url, pool=pool)
        result = app.tasks["sample.ablock"].apply_async((path("started"),), soft_time_limit=0.2)
        with pytest.raises(SoftTimeLimitExceeded):
            result.get(timeout=PROMPTLY)
        assert app.tasks["sample.aadd"].delay(1, 2).get(timeout=TIMEOUT) == 3


def test_what_waits_for_the_loop_is_not_over_its_limit(sqlite_url: str, path: PathOf, start_worker: Start) -> None:
    """It has not begun while a run beside it blocks the loop: it had ended as a failure, and had never run."""
    from tests.worker.sample import make_app

    with make_app(sqlite_url) as app:
        start_worker(sqlite_url, pool="asyncio", concurrency=2)
        blocks = app.tasks["sample.ablock"].apply_async((path("started"),), soft_time_limit=3.0)
        started(path("started"))
        waits = app.tasks["sample.aadd"].apply_async((1, 2), soft_time_limit=0.5, time_limit=2.0)
        assert waits.get(timeout=TIMEOUT) == 3
        with pytest.raises(SoftTimeLimitExceeded):
            blocks.get(timeout=TIMEOUT)


def test_its_neighbours_on_the_loop_go_on(sqlite_url: str, path: PathOf, start_worker: Start) -> None:
    from tests.worker.sample import make_app

    with make_app(sqlite_url) as app:
        worker = start_worker(sqlite_url, pool="asyncio", concurrency=4)
        hold = app.tasks["sample.ahold"]
        neighbour = hold.delay(path("neighbour"), path("release"))
        started(path("neighbour"))
        hit = [hold.apply_async((path(f"hit{n}"), path("never")), soft_time_limit=0.2) for n in range(3)]
        for each in hit:
            with pytest.raises(SoftTimeLimitExceeded):
                each.get(timeout=TIMEOUT)
        Path(path("release")).touch()
        assert neighbour.get(timeout=TIMEOUT) == "released"
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
