"""Celery's "Workers Guide" (docs.celeryq.dev/en/stable/userguide/workers.html): revoking, remote control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.exceptions import TaskRevokedError
from dbqueue.result import AsyncResult
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess, starting

TIMEOUT = 60


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


@pytest.fixture
def worker(database_url: str) -> Iterator[WorkerProcess]:
    with starting() as start:
        yield start(database_url, hostname="worker1@example.com", concurrency=2)


@pytest.fixture
def running(app: DBQueue, worker: WorkerProcess, tmp_path: Path) -> Callable[[], Any]:
    """A task that runs until it is ended."""

    def start() -> Any:
        started = tmp_path / f"started{len(list(tmp_path.iterdir()))}"
        result = app.tasks["sample.hold"].delay(str(started), str(tmp_path / "never"))
        wait_until(started.exists, TIMEOUT)
        return result

    return start


def revoked(result: Any) -> None:
    with pytest.raises(TaskRevokedError):
        result.get(timeout=TIMEOUT)


def test_revoke_of_the_result_and_of_the_id(app: DBQueue) -> None:
    """`result.revoke()`, `AsyncResult(id).revoke()`, `app.control.revoke('d9078da5-9915-40a0-bfa1-392c7bde42ed')`."""
    add = app.tasks["sample.add"]
    one, two = add.delay(1, 2), add.delay(1, 2)
    one.revoke()
    AsyncResult(two.id, app=app).revoke()
    app.control.revoke("d9078da5-9915-40a0-bfa1-392c7bde42ed")
    three = add.apply_async((1, 2), task_id="d9078da5-9915-40a0-bfa1-392c7bde42ed")
    for result in (one, two, three):
        revoked(result)


def test_terminate(app: DBQueue, running: Callable[[], Any]) -> None:
    """`app.control.revoke(id, terminate=True)`, and `signal='SIGKILL'`, and a list of ids."""
    one = running()
    app.control.revoke(one.id, terminate=True)
    revoked(one)
    two, three = running(), running()
    app.control.revoke([two.id, three.id], terminate=True, signal="SIGKILL")
    revoked(two)
    revoked(three)
    four = running()
    app.control.terminate(four.id)
    revoked(four)


def test_the_broadcast_function(app: DBQueue, worker: WorkerProcess) -> None:
    arguments = {"task_name": "sample.add", "hard": 120, "soft": 60}
    assert app.control.broadcast("time_limit", arguments=arguments) is None
    replies = app.control.broadcast(
        "time_limit", arguments, reply=True, destination=["worker1@example.com"], timeout=TIMEOUT
    )
    assert replies == [{"worker1@example.com": {"ok": "time limits set successfully"}}]


def test_time_limits(app: DBQueue, worker: WorkerProcess) -> None:
    """`app.control.time_limit('tasks.crawl_the_web', soft=60, hard=120, reply=True)`."""
    replies = app.control.time_limit("sample.add", soft=60, hard=120, reply=True, timeout=TIMEOUT)
    assert replies == [{"worker1@example.com": {"ok": "time limits set successfully"}}]


def test_queues(app: DBQueue, worker: WorkerProcess) -> None:
    """`app.control.add_consumer('foo', reply=True)`, `cancel_consumer`, `inspect().active_queues()`."""
    assert app.control.add_consumer("foo", reply=True, destination=["worker1@example.com"], timeout=TIMEOUT) == [
        {"worker1@example.com": {"ok": "add consumer foo"}}
    ]
    queues = (app.control.inspect(timeout=TIMEOUT).active_queues() or {})["worker1@example.com"]
    assert [queue["name"] for queue in queues] == ["celery", "foo"]
    assert app.control.cancel_consumer("foo", reply=True, timeout=TIMEOUT) == [
        {"worker1@example.com": {"ok": "no longer consuming from foo"}}
    ]


def test_inspect(app: DBQueue, worker: WorkerProcess, running: Callable[[], Any]) -> None:
    """Dump of registered, active, scheduled and reserved tasks; statistics."""
    inspect = app.control.inspect(["worker1@example.com"], timeout=TIMEOUT)
    assert "sample.add" in (inspect.registered() or {})["worker1@example.com"]
    result = running()
    (active,) = (inspect.active() or {})["worker1@example.com"]
    assert active.keys() >= {"name", "id", "args", "kwargs", "hostname", "time_start", "worker_pid", "delivery_info"}
    later = app.tasks["sample.add"].apply_async((1, 2), countdown=600)
    (scheduled,) = (inspect.scheduled() or {})["worker1@example.com"]
    assert (scheduled.keys(), scheduled["request"]["id"]) == ({"eta", "priority", "request"}, later.id)
    assert inspect.reserved() == {"worker1@example.com": []}
    stats = (inspect.stats() or {})["worker1@example.com"]
    assert stats.keys() >= {"broker", "clock", "uptime", "pid", "pool", "prefetch_count", "rusage", "total"}
    assert stats["pool"].keys() >= {"max-concurrency", "max-tasks-per-child", "processes", "timeouts"}
    result.revoke(terminate=True, signal="SIGKILL")
    revoked(result)


def test_ping_and_shutdown(app: DBQueue, worker: WorkerProcess) -> None:
    assert app.control.ping(timeout=TIMEOUT) == [{"worker1@example.com": {"ok": "pong"}}]
    assert app.control.ping(["worker2@example.com"], timeout=0.5) == []
    app.control.shutdown()
    assert worker.wait() == 0


def test_a_control_command_of_ones_own() -> None:
    from dbqueue.worker.control import Panel, control_command, inspect_command

    @control_command(args=[("n", int)], signature="[N=1]")
    def increase_prefetch_count(state: Any, n: int = 1) -> dict[str, str]:
        return {"ok": "prefetch count incremented"}

    @inspect_command()
    def current_prefetch_count(state: Any) -> dict[str, int]:
        return {"prefetch_count": 1}

    try:
        info = Panel.commands["increase_prefetch_count"]
        assert (info.type, info.args, info.signature) == ("control", (("n", int),), "[N=1]")
        assert Panel.commands["current_prefetch_count"].type == "inspect"
    finally:
        del Panel.commands["increase_prefetch_count"], Panel.commands["current_prefetch_count"]
