"""Pool processes that are replaced: after so many tasks, or past so much memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue
from tests.waiting import wait_until
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
Send = Callable[..., Any]
NewPath = Callable[[str], str]
TIMEOUT = 60
PLENTY = 100 * 1024 * 1024
"""Kilobytes that no process of the tests grows to."""


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_each_process_runs_as_many_tasks_as_it_may(
    app: DBQueue, database_url: str, start_worker: Start, pool: str
) -> None:
    worker = start_worker(database_url, pool=pool, concurrency=1, max_tasks_per_child=3)
    results = app.tasks["sample.pid"].enqueue_many([()] * 9)
    pids = [result.get(timeout=TIMEOUT) for result in results]
    assert [len(list(same)) for _, same in groupby(pids)] == [3, 3, 3]
    assert len(set(pids)) == 3
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_a_long_task_does_not_stop_a_process_that_others_share(
    app: DBQueue, send: Send, database_url: str, start_worker: Start, path: NewPath, pool: str
) -> None:
    """Another process takes over what the first may not run any more; both together run no more than the pool may."""
    worker = start_worker(database_url, pool=pool, concurrency=2, max_tasks_per_child=3)
    name = "ahold" if pool == "asyncio" else "hold"
    first = send(name, path("first"), path("release"))
    wait_until(Path(path("first")).exists, TIMEOUT, "the first long task")
    pids = [send("pid").get(timeout=TIMEOUT) for _ in range(6)]
    assert [len(list(same)) for _, same in groupby(pids)] == [2, 3, 1]
    second = send(name, path("second"), path("go"))
    wait_until(Path(path("second")).exists, TIMEOUT, "the second long task")
    beyond = send("record", path("beyond"), "ran")
    assert app.control.ping(timeout=TIMEOUT), "the loop has turned"
    wait_until(lambda: beyond.state == "PENDING", TIMEOUT, "its return, if it was claimed")
    assert not Path(path("beyond")).exists()
    Path(path("go")).touch()
    assert [second.get(timeout=TIMEOUT), beyond.get(timeout=TIMEOUT)] == ["released", "ran"]
    Path(path("release")).touch()
    assert first.get(timeout=TIMEOUT) == "released"
    assert worker.stop() == 0


def test_what_a_process_gives_back_does_not_count(
    app: DBQueue, database_url: str, start_worker: Start, path: NewPath
) -> None:
    """Short tasks are sent ahead; what waits behind a long one is taken back, and runs there later all the same."""
    start_worker(database_url, concurrency=1, max_tasks_per_child=30)
    hold = app.tasks["sample.hold"]
    Path(path("released")).touch()
    for _ in range(20):  # it is known as a short one from now on
        hold.delay(path("pids"), path("released")).get(timeout=TIMEOUT)
    calls = [(path("pids"), path("release")), *[(path("pids"), path("released"))] * 9]
    first, *behind = hold.enqueue_many(calls)
    wait_until(lambda: len(Path(path("pids")).read_text().split()) == 21, TIMEOUT, "the start of the long one")
    wait_until(lambda: {each.state for each in behind} == {"PENDING"}, TIMEOUT, "the return of what waits behind it")
    Path(path("release")).touch()
    assert [each.get(timeout=TIMEOUT) for each in (first, *behind)] == ["released"] * 10
    assert set(Counter(Path(path("pids")).read_text().split()).values()) == {30}


def test_memory(app: DBQueue, send: Send, database_url: str, start_worker: Start) -> None:
    """One that has grown past its limit ends with its task; one that has not stays."""
    worker = start_worker(database_url, concurrency=1, max_memory_per_child=1000)
    first = send("pid").get(timeout=TIMEOUT)
    wait_until(lambda: send("pid").get(timeout=TIMEOUT) != first, TIMEOUT, "another process")
    assert worker.stop() == 0
    assert "has grown past worker_max_memory_per_child" in worker.log
    start_worker(database_url, concurrency=1, max_memory_per_child=PLENTY)
    assert len({send("pid").get(timeout=TIMEOUT) for _ in range(10)}) == 1
