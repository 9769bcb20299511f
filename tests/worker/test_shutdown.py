"""How long a worker waits for running tasks when it ends: `dbqueue.worker.supervising.shutdown` draws the states.

Celery's guide "Workers", from "Stopping the worker" to "Soft shutdown".
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dbqueue
from dbqueue import DBQueue, signals
from dbqueue.contrib.testing.worker import start_worker as embedded_worker
from tests.waiting import wait_until
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
Send = Callable[..., Any]
PathOf = Callable[[str], str]
TIMEOUT = 30.0
LONG = 600.0


def running(send: Send, path: PathOf, name: str = "hold") -> Any:
    """A job that runs until `release` is there."""
    result = send(name, path("started"), path("release"))
    wait_until(Path(path("started")).exists)
    return result


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo"])
def test_a_soft_shutdown_lets_tasks_end(
    app: DBQueue, database_url: str, send: Send, path: PathOf, start_worker: Start, pool: str
) -> None:
    worker = start_worker(database_url, pool=pool, settings={"worker_soft_shutdown_timeout": LONG})
    result = running(send, path)
    worker.signal(signal.SIGQUIT)
    wait_until(lambda: "worker: Soft shutdown (MainProcess)" in worker.log)
    Path(path("release")).touch()
    assert worker.wait() == 0
    assert result.get(timeout=TIMEOUT) is not None


def test_a_soft_shutdown_has_an_end(
    app: DBQueue, database_url: str, send: Send, path: PathOf, start_worker: Start
) -> None:
    worker = start_worker(database_url, settings={"worker_soft_shutdown_timeout": 0.3})
    result = running(send, path)
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 1
    assert result.state == "PENDING"
    assert "Soft shutdown" in worker.log
    assert "Cold shutdown" in worker.log


def test_one_signal_after_the_other(
    app: DBQueue, database_url: str, send: Send, path: PathOf, start_worker: Start
) -> None:
    """Warm, soft, cold: Celery's three Ctrl-C."""
    worker = start_worker(database_url, settings={"worker_soft_shutdown_timeout": LONG})
    result = running(send, path)
    for text in ("Warm shutdown", "Soft shutdown", "Cold shutdown"):
        worker.signal(signal.SIGINT)
        worker.says(text)
    assert worker.wait() == 1
    assert result.state == "PENDING"


def test_what_waits_behind_the_run_of_a_solo_worker_goes_back_with_it(
    app: DBQueue, database_url: str, send: Send, path: PathOf, start_worker: Start
) -> None:
    """It has not begun: it is no failure where it may run once, and waits for no rescue."""
    worker = start_worker(database_url, pool="solo")
    Path(path("over")).touch()
    for _ in range(3):  # short, as far as the worker knows: others are sent ahead, and more are claimed
        assert send("hold_and_quit", path("before"), path("over")).get(timeout=TIMEOUT) == "released"
        send("record_once", path("ran"), "before").get(timeout=TIMEOUT)
    with app.database.store.connect() as connection, dbqueue.using(connection):
        run = send("hold_and_quit", path("started"), path("release"))
        behind = [send("record_once", path("ran"), "behind") for _ in range(500)]
    assert worker.wait() == 1
    assert [result.state for result in (run, *behind)] == ["PENDING"] * 501
    assert "behind" not in Path(path("ran")).read_text()


def test_an_idle_worker_is_not_soft_unless_it_is_told(database_url: str, start_worker: Start) -> None:
    worker = start_worker(database_url, settings={"worker_soft_shutdown_timeout": LONG})
    worker.signal(signal.SIGQUIT)
    assert worker.wait() == 1
    settings = {"worker_soft_shutdown_timeout": 0.5, "worker_enable_soft_shutdown_on_idle": True}
    worker = start_worker(database_url, settings=settings)
    worker.signal(signal.SIGQUIT)
    wait_until(lambda: "Soft shutdown" in worker.log)
    assert worker.wait() == 1


def test_a_warm_shutdown_may_have_an_end(
    app: DBQueue, database_url: str, send: Send, path: PathOf, start_worker: Start
) -> None:
    worker = start_worker(database_url, settings={"worker_shutdown_timeout": 0.3})
    result = running(send, path)
    worker.term()
    assert worker.wait() == 1
    assert result.state == "PENDING"


def test_term_can_mean_quit(
    app: DBQueue, database_url: str, send: Send, path: PathOf, start_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`REMAP_SIGTERM=SIGQUIT`: for platforms that only send TERM."""
    monkeypatch.setenv("REMAP_SIGTERM", "SIGQUIT")
    worker = start_worker(database_url)
    result = running(send, path)
    worker.term()
    assert worker.wait() == 1
    assert result.state == "PENDING"


def test_the_signal_tells_how(sqlite_url: str) -> None:
    from tests.worker.sample import make_app

    told: list[dict[str, Any]] = []

    def tell(sender: Any, **given: Any) -> None:
        told.append({name: given[name] for name in ("sig", "how", "exitcode")})

    signals.worker_shutting_down.connect(tell)
    with make_app(sqlite_url) as app, embedded_worker(app, ping_task_timeout=60, shutdown_timeout=60):
        pass
    assert told == [{"sig": None, "how": "Warm", "exitcode": 0}]


def test_a_program_that_runs_a_worker_gets_its_signals_back(sqlite_url: str) -> None:
    from tests.worker.sample import make_app

    def own(number: int, frame: object) -> None:
        raise AssertionError("not while the worker runs")

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, own) for number in (signal.SIGTERM, signal.SIGHUP)}
    wakeup = signal.set_wakeup_fd(writer)
    try:
        with make_app(sqlite_url) as app:
            worker = app.Worker(
                pool="solo", on_ready=lambda: threading.Timer(0, os.kill, (os.getpid(), signal.SIGTERM)).start()
            )
            assert worker.start() == 0
        assert signal.getsignal(signal.SIGTERM) is signal.getsignal(signal.SIGHUP) is own
        assert signal.set_wakeup_fd(writer) == writer
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
