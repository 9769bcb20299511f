"""Limits kept by real workers: no more at once than may, no faster than may, and nothing lost when one is killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue, Limit
from dbqueue.store import limits, queues
from tests.stores import count
from tests.waiting import wait_until
from tests.worker.limited import make_app
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


@pytest.fixture
def start(app: DBQueue, start_worker: Start) -> Start:
    return lambda **options: start_worker(app.conf.broker_url, module="tests.worker.limited", **options)


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "log")


@dataclass(frozen=True)
class Line:
    sign: str
    name: str
    pid: int
    key: str
    time: float


def lines(log: str) -> list[Line]:
    text = Path(log).read_text() if Path(log).exists() else ""
    found = [line.split(" ") for line in text.splitlines()]
    return [Line(sign, name, int(pid), key, float(at)) for sign, name, pid, key, at in found]


def most_at_once(log: str) -> int:
    """Most runs that overlapped; one whose process was killed has ended when it begins again."""
    open_names: set[str] = set()
    most = 0
    for line in lines(log):
        (open_names.add if line.sign == "+" else open_names.discard)(line.name)
        most = max(most, len(open_names))
    return most


def starts(log: str) -> list[float]:
    return sorted(line.time for line in lines(log) if line.sign == "+")


def send(app: DBQueue, name: str, number: int, log: str, seconds: float = 0.0, **options: Any) -> list[Any]:
    task = app.tasks[f"limited.{name}"]
    return task.enqueue_many([(log, n, seconds) for n in range(number)], **options)


def test_three_workers_run_no_more_than_two(app: DBQueue, start: Start, log: str) -> None:
    results = send(app, "two", 15, log, 0.05)
    for _ in range(3):
        start(concurrency=3)
    # Of other jobs as many as there are slots.
    plain = send(app, "plain", 20, log + "-plain", 0.05)
    assert sorted(result.get(timeout=60) for result in results) == list(range(15))
    assert [result.get(timeout=60) for result in plain] == list(range(20))
    assert most_at_once(log) == 2
    assert most_at_once(log + "-plain") > 2
    assert count(app.database.store, "permit IS NOT NULL OR held_at IS NOT NULL") == 0


@pytest.mark.parametrize("whom", ["worker", "child"])
def test_permits_come_back_from_the_killed(app: DBQueue, start: Start, log: str, whom: str) -> None:
    settings = {"worker_lease_seconds": 1.0, "task_max_losses": 5}
    workers = [start(concurrency=2, settings=settings) for _ in range(3)]
    results = send(app, "two", 24, log, 0.1)
    for turn in range(2):
        wait_until(lambda turn=turn: len(starts(log)) >= 4 * (turn + 1), what="runs")  # type: ignore[misc]
        if whom == "child":
            os.kill(lines(log)[-1].pid, signal.SIGKILL)
        else:
            # One that runs something: on a busy machine a process may have been replaced since it wrote the last line.
            busy = wait_until(
                lambda: [each for each in workers if each.alive and lines(log)[-1].pid in each.family()],
                what="a worker that runs the newest job",
            )
            busy[0].kill()
    assert sorted(result.get(timeout=90) for result in results) == list(range(24))
    assert most_at_once(log) == 2
    assert count(app.database.store, "permit IS NOT NULL OR held_at IS NOT NULL") == 0


def test_a_limit_for_each_key(app: DBQueue, start: Start, log: str) -> None:
    calls = [(f"{log}-{n % 3}", n, 0.05, f"{n % 3}") for n in range(15)]
    results = app.tasks["limited.by_key"].enqueue_many(calls)
    workers = [start(concurrency=3) for _ in range(2)]
    assert sorted(result.get(timeout=60) for result in results) == list(range(15))
    assert [most_at_once(f"{log}-{key}") for key in range(3)] == [1, 1, 1]
    assert {row.key for row in limits.rows(app.database.store)} >= {"by-0", "by-1", "by-2"}
    assert all(worker.alive for worker in workers)


def test_a_rate_over_all_workers(app: DBQueue, start: Start, log: str) -> None:
    for _ in range(3):
        start(concurrency=2)
    results = send(app, "paced", 25, log)
    for result in results:
        result.get(timeout=60)
    at = starts(log)
    # Ten in a second, and what a busy machine adds by starting one late and the next in time.
    assert at[-1] - at[0] >= 2.0
    assert max(sum(begin <= each < begin + 1 for each in at) for begin in at) <= 14
    assert at[-1] - at[0] < 30


def test_a_rate_of_each_worker(app: DBQueue, start: Start, log: str) -> None:
    start(concurrency=2)
    results = send(app, "slow", 20, log)
    for result in results:
        result.get(timeout=60)
    at = starts(log)
    assert at[-1] - at[0] >= 1.5
    assert max(sum(begin <= each < begin + 1 for each in at) for begin in at) <= 14
    assert [line.name for line in lines(log) if line.sign == "+"] == [str(n) for n in range(20)]


def test_a_backlog_without_tokens_keeps_nobody_waiting(app: DBQueue, start: Start, log: str) -> None:
    hourly = send(app, "hourly", 3000, log)
    other = send(app, "plain", 5, log)
    start(concurrency=2)
    assert [result.get(timeout=30) for result in other] == list(range(5))
    assert sum(result.ready() for result in hourly[:20]) == 1
    wait_until(lambda: count(app.database.store, "blocked_reason = 'limit'") == 2999, what="the parking of all")
    late = send(app, "hourly", 2, log)
    assert [result.get(timeout=30) for result in send(app, "plain", 5, log)] == list(range(5))
    assert not any(result.ready() for result in late)
    # A higher rate acts at once; 2,000 in a second, so that the backlog ends in this test.
    replies = app.control.rate_limit("limited.hourly", "2000/s", reply=True, timeout=10)
    assert [list(reply.values()) for reply in replies or []] == [[{"ok": "new rate limit set successfully"}]]
    assert [result.get(timeout=60) for result in [*hourly[-3:], *late]] == [2997, 2998, 2999, 0, 1]


def test_a_worker_without_the_rate_takes_what_another_parked(app: DBQueue, start: Start, log: str) -> None:
    start(concurrency=1)
    results = send(app, "hourly", 50, log)
    wait_until(lambda: count(app.database.store, "blocked_reason = 'limit'") == 49, what="the parking")
    start(concurrency=1, settings={"worker_disable_rate_limits": True})
    assert [result.get(timeout=30) for result in results] == list(range(50))


def test_rates_of_settings_and_annotations(app: DBQueue, start: Start, log: str) -> None:
    settings = {
        "task_default_rate_limit": "1/h",
        "task_annotations": {"limited.plain": {"rate_limit": "100/s"}, "limited.slow": {"rate_limit": 0}},
    }
    start(concurrency=1, settings=settings)
    results = [*send(app, "plain", 5, log), *send(app, "slow", 30, log)]
    for result in results:
        result.get(timeout=30)
    by_key = send(app, "by_key", 3, log)
    assert by_key[0].get(timeout=30) == 0
    registered = app.control.inspect(timeout=10).registered() or {}
    (names,) = registered.values()
    assert "limited.plain [rate_limit=100/s]" in names
    assert "limited.two [rate_limit=1/h]" in names
    assert "limited.slow [rate_limit=0]" in names
    assert [result.ready() for result in by_key[1:]] == [False, False]


def test_what_waits_is_admitted_when_the_limit_changes(app: DBQueue, start: Start, log: str) -> None:
    store = app.database.store
    app.control.set_limit("limited.two", running=0)
    start(concurrency=2)
    results = send(app, "two", 4, log)
    assert app.tasks["limited.plain"].delay(log, "x").get(timeout=30) == "x"
    assert count(store, "held_at IS NOT NULL") == 4
    before = time.monotonic()
    app.control.set_limit("limited.two", running=1)
    assert [result.get(timeout=30) for result in results] == list(range(4))
    assert time.monotonic() - before < 10
    (row,) = [row for row in app.control.limits() if row["key"] == "limited.two"]
    assert (row["max_running"], row["source"]) == (1, "user")
    assert app.control.clear_limit("limited.two") is True


def test_paused_queues_and_countdowns_are_kept(app: DBQueue, start: Start, log: str) -> None:
    queues.pause(app.database.store, ["paused"])
    start(concurrency=2, queues="celery,paused")
    held = send(app, "two", 4, log, queue="paused")
    later = send(app, "two", 1, log, countdown=1.5)
    sent_at = time.time()
    elsewhere = send(app, "two", 1, log, queue="nobody's")
    assert [result.get(timeout=30) for result in send(app, "two", 3, log)] == [0, 1, 2]
    assert later[0].get(timeout=30) == 0
    assert starts(log)[-1] - sent_at > 1.4
    assert [result.state for result in [*held, *elsewhere]] == ["PENDING"] * 5
    queues.resume(app.database.store, ["paused"])
    assert [result.get(timeout=30) for result in held] == [0, 1, 2, 3]


def test_a_call_names_its_limit(app: DBQueue, start: Start, log: str) -> None:
    app.control.set_limit("shared", running=1)
    for _ in range(2):
        start(concurrency=2)
    results = [
        app.tasks[f"limited.{name}"].apply_async((log, n, 0.05), limit_key="shared")
        for n, name in enumerate(["plain", "two", "plain", "two", "plain", "two"])
    ]
    assert [result.get(timeout=30) for result in results] == list(range(6))
    assert most_at_once(log) == 1


def test_limits_of_code(app: DBQueue) -> None:
    with pytest.raises(ValueError, match="rate:"):
        app.tasks["limited.plain"].apply_async(("x", 1), limit_key="rate:x")
    with pytest.raises(ValueError, match="whole number"):
        Limit(running=-1)
