"""From which queues a worker takes jobs, and in which order: -Q, -X, patterns, pauses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.store import queues
from tests.stores import TestWorker, enqueued, opened
from tests.waiting import wait_until
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
Send = Callable[..., Any]


def lines(path: str) -> list[str]:
    return Path(path).read_text().split() if Path(path).exists() else []


def test_a_pattern_is_every_queue_that_fits(app: DBQueue, start_worker: Start, send: Send) -> None:
    start_worker(app.conf.broker_url, pool="solo", queues="reports.*,mail", exclude_queues="reports.secret")
    first = send("add", 1, 2, queue="reports.daily")
    assert first.get(timeout=60) == 3
    # A queue that nobody has used yet, and one more.
    later = [send("add", 2, number, queue=f"reports.{number}") for number in range(3)]
    assert [result.get(timeout=60) for result in later] == [2, 3, 4]
    left = [send("add", 0, 0, queue=name) for name in ("reports.secret", "reports", "celery")]
    assert send("add", 4, 4, queue="mail").get(timeout=60) == 8
    assert send("add", 4, 5, queue="reports.last").get(timeout=60) == 9
    assert [result.state for result in left] == ["PENDING"] * 3


def test_a_paused_queue_waits_until_it_is_resumed(app: DBQueue, start_worker: Start, send: Send) -> None:
    queues.pause(app.database.store, ["mail"])
    queues.pause(app.database.store, ["mail", "mail"])
    workers = [start_worker(app.conf.broker_url, pool="solo", queues="mail,celery") for _ in range(2)]
    held = [send("add", number, 1, queue="mail") for number in range(3)]
    assert [send("add", number, 2).get(timeout=60) for number in range(3)] == [2, 3, 4]
    assert [result.state for result in held] == ["PENDING"] * 3
    assert list(queues.paused(app.database.store)) == ["mail"]
    assert queues.resume(app.database.store, ["mail", "celery"]) == {"mail"}
    assert [result.get(timeout=60) for result in held] == [1, 2, 3]
    assert all(worker.alive for worker in workers)


def test_a_pause_is_kept_by_a_worker_that_runs(
    app: DBQueue, start_worker: Start, send: Send, path: Callable[[str], str]
) -> None:
    start_worker(app.conf.broker_url, pool="solo")
    assert send("add", 1, 1).get(timeout=60) == 2
    queues.pause(app.database.store, ["celery"])

    sent: list[Any] = []

    def is_kept() -> bool:
        """Whether a job stays where it is for longer than a worker's answer may be old."""
        sent.append(send("record", path("log"), "x"))
        try:
            sent[-1].get(timeout=1.5)
        except TimeoutError:
            return True
        return False

    wait_until(is_kept, what="the pause")
    queues.resume(app.database.store, ["celery"])
    assert [result.get(timeout=60) for result in sent] == ["x"] * len(sent)
    assert len(lines(path("log"))) == len(sent)


@pytest.mark.parametrize(("order", "expected"), [("strict", "aaaabbbb"), ("round_robin", "abababab")])
def test_the_order_of_queues(
    app: DBQueue, start_worker: Start, send: Send, path: Callable[[str], str], order: str, expected: str
) -> None:
    for number in range(4):
        for queue in "ba":
            # Long enough that none is claimed ahead of its turn.
            send("record_slowly", path("log"), f"{queue}{number}", 0.06, queue=queue)
    start_worker(app.conf.broker_url, pool="solo", concurrency=1, queues="a,b", settings={"worker_queue_order": order})
    wait_until(lambda: len(lines(path("log"))) == 8, what="all jobs")
    ran = "".join(line[0] for line in lines(path("log")))
    assert ran in (expected, expected.swapcase(), "babababa" if order == "round_robin" else expected)


def test_weighted_queues_share_a_busy_worker(
    app: DBQueue, start_worker: Start, send: Send, path: Callable[[str], str]
) -> None:
    for number in range(12):
        for queue in "ba":
            send("record_slowly", path("log"), f"{queue}{number}", 0.06, queue=queue)
    settings = {"worker_queue_weights": {"a": 3, "b": 1}}
    start_worker(app.conf.broker_url, pool="solo", concurrency=1, queues="b,a", settings=settings)
    wait_until(lambda: len(lines(path("log"))) == 24, what="all jobs")
    ran = "".join(line[0] for line in lines(path("log")))
    # Three of four while both have jobs; then b has the worker to itself.
    assert 11 <= ran[:16].count("a") <= 12
    assert "b" in ran[:5]
    assert ran.endswith("bbbbbb")


def test_the_names_of_queues_that_wait(database_url: str) -> None:
    with opened(database_url) as store:
        worker = TestWorker(store)
        assert worker.session.waiting_queues() == []
        for name in ("b", "a", "b", "ü", "a.b", "Z"):
            enqueued(store, queue=name, priority=len(name))
        enqueued(store, queue="later", delay_seconds=3600)
        assert worker.session.waiting_queues() == ["Z", "a", "a.b", "b", "later", "ü"]
        worker.claim(queues=["a", "Z"])
        assert worker.session.waiting_queues() == ["a.b", "b", "later", "ü"]
        assert worker.session.paused_queues() == frozenset()
        queues.pause(store, ["a", "never used"])
        assert worker.session.paused_queues() == {"a", "never used"}
        worker.close()
