"""A worker in a thread of this process, as tests have it: `dbqueue.contrib.testing.worker.start_worker`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.contrib.testing import worker as embedded
from dbqueue.contrib.testing.worker import start_worker
from dbqueue.errors import SchemaError
from tests.waiting import wait_until
from tests.worker.sample import make_app

SECONDS: dict[str, Any] = {"ping_task_timeout": 60.0, "shutdown_timeout": 60.0}
"""Upper limits for a slow machine."""


@pytest.fixture
def memory_app() -> Iterator[DBQueue]:
    with make_app("sqlite://") as app:
        yield app


def test_solo_runs_tasks_in_this_process(memory_app: DBQueue) -> None:
    seen: list[Any] = []

    @memory_app.task(name="here")
    def here(value: int) -> int:
        seen.append((value, threading.current_thread().name, memory_app.current_task))
        return os.getpid()

    interval = sys.getswitchinterval()
    with start_worker(memory_app, **SECONDS) as worker:
        assert here.delay(3).get(timeout=60) == os.getpid()
        assert seen == [(3, "test-worker", here)]
        assert worker.config.pool == "solo"
    assert sys.getswitchinterval() == interval
    assert not [thread for thread in threading.enumerate() if thread.name in ("test-worker", "supervisor", "rounds")]


@pytest.mark.parametrize("pool", ["solo", "prefork", "threads", "asyncio"])
def test_each_pool_on_each_database(app: DBQueue, pool: str) -> None:
    app.tasks["sample.add"].delay(0, 0)  # this process has connections, and a thread, before the worker forks
    with start_worker(app, pool=pool, **SECONDS):
        results = [app.tasks["sample.add"].delay(number, 1) for number in range(20)]
        assert [result.get(timeout=60) for result in results] == list(range(1, 21))
        failed = app.tasks["sample.fail"].delay("value")
        with pytest.raises(ValueError, match="bad"):
            failed.get(timeout=60)
        same = app.tasks["sample.pid"].delay().get(timeout=60) == os.getpid()
        assert same == (pool == "solo")


def test_a_stop_that_comes_before_it_runs_is_heeded(memory_app: DBQueue) -> None:
    codes: list[int] = []
    worker = memory_app.Worker(pool="solo", concurrency=1, embedded=True)
    worker.prepare()
    worker.stop()
    thread = threading.Thread(target=lambda: codes.append(worker.run(handle_signals=False)))
    thread.start()
    thread.join(60)
    found = list(codes)
    worker.stop()
    thread.join()
    assert found == [0]


def test_prefork_lives_on_when_another_thread_ends(app: DBQueue) -> None:
    """Linux ends the pool's processes with the thread that forked them: that must be the one of the block."""
    with start_worker(app, pool="prefork", **SECONDS):
        pid = app.tasks["sample.pid"].delay().get(timeout=60)
        for _ in range(3):
            thread = threading.Thread(target=app.tasks["sample.add"].delay, args=(1, 2))
            thread.start()
            thread.join()
        assert app.tasks["sample.pid"].delay().get(timeout=60) == pid


def test_two_workers_one_after_the_other_and_side_by_side(memory_app: DBQueue) -> None:
    add = memory_app.tasks["sample.add"]
    with start_worker(memory_app, **SECONDS), start_worker(memory_app, **SECONDS):
        assert [add.delay(n, n).get(timeout=60) for n in range(5)] == [0, 2, 4, 6, 8]
    waiting = add.delay(1, 1)
    assert not waiting.ready()
    with start_worker(memory_app, perform_ping_check=False, without_heartbeat=True, **SECONDS):
        assert waiting.get(timeout=60) == 2


def test_signals_tell_of_its_life(memory_app: DBQueue) -> None:
    told: list[tuple[str, bool]] = []

    def tell(name: str) -> Any:
        return lambda sender, **kwargs: told.append((name, sender is memory_app))

    receivers = {name: tell(name) for name in ("test_worker_starting", "test_worker_started", "test_worker_stopped")}
    for name, receiver in receivers.items():
        getattr(embedded, name).connect(receiver, sender=memory_app)
    with start_worker(memory_app, **SECONDS):
        assert told == [("test_worker_starting", True), ("test_worker_started", True)]
    assert told[2:] == [("test_worker_stopped", True)]


def test_a_task_that_runs_on_is_told_of(memory_app: DBQueue) -> None:
    running, release = threading.Event(), threading.Event()

    @memory_app.task(name="wait")
    def wait() -> None:
        running.set()
        assert release.wait(60)

    block = start_worker(memory_app, shutdown_timeout=0.01)
    block.__enter__()
    result = wait.delay()
    assert running.wait(60)
    with pytest.raises(RuntimeError, match="raise shutdown_timeout"):
        block.__exit__(None, None, None)
    release.set()
    assert result.get(timeout=60) is None
    wait_until(lambda: "test-worker" not in [thread.name for thread in threading.enumerate()], what="its end")


def test_a_cold_shutdown_leaves_the_process_alone(memory_app: DBQueue) -> None:
    running, release = threading.Event(), threading.Event()

    @memory_app.task(name="wait")
    def wait() -> None:
        running.set()
        assert release.wait(60)

    with start_worker(memory_app, **SECONDS) as worker:
        result = wait.delay()
        assert running.wait(60)
        worker.stop("cold")
        wait_until(lambda: result.state == "PENDING", what="the job to be handed back")
        release.set()


def test_what_keeps_it_from_starting_is_raised(empty_postgres_url: str) -> None:
    with make_app(empty_postgres_url) as app:
        for pool in ("solo", "prefork"):
            with pytest.raises(SchemaError), start_worker(app, pool=pool):
                raise AssertionError("it must not start")


def test_a_child_cannot_enqueue_into_this_process_memory(memory_app: DBQueue, tmp_path: Path) -> None:
    @memory_app.task(name="parent")
    def parent() -> None:
        memory_app.tasks["sample.add"].delay(1, 2)

    with start_worker(memory_app, pool="prefork", **SECONDS):
        with pytest.raises(Exception, match="memory of another process"):
            parent.delay().get(timeout=60)
        assert memory_app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
