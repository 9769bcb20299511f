"""Celery's guide "Calling Tasks": `on_message`, and routing keys of kombu's queues."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.calls import routes
from dbqueue.contrib.testing.worker import start_worker
from dbqueue.exceptions import TimeoutError  # noqa: A004 - Celery's name
from dbqueue.result import ResultSet

TIMEOUT = 30


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with DBQueue("tasks", broker=database_url, set_as_current=False) as app:
        yield app


class TestOnMessage:
    """Section "On message": "Celery supports catching all states changes by setting on_message callback"."""

    def test_states_as_they_are_seen(self, app: DBQueue) -> None:
        @app.task(name="hello", bind=True)
        def hello(self: Any, a: int, b: int, told: str) -> str:
            self.update_state(state="PROGRESS", meta={"progress": 50})
            while not app.AsyncResult(told).ready():
                pass
            return f"hello world: {a + b}"

        told = app.task(name="told")(lambda: None).apply_async(queue="nobody")
        messages: list[dict[str, Any]] = []

        def on_raw_message(body: dict[str, Any]) -> None:
            messages.append(body)
            if body["status"] == "PROGRESS":
                told.revoke()

        with start_worker(app, perform_ping_check=False):
            result = hello.delay(1, 1, told.id)
            value = result.get(on_message=on_raw_message, propagate=False, timeout=TIMEOUT)
        assert value == "hello world: 2"
        shown = [(body["status"], body["result"]) for body in messages if body["status"] != "STARTED"]
        assert shown == [("PROGRESS", {"progress": 50}), ("SUCCESS", "hello world: 2")]
        assert messages[-1] == {
            "task_id": result.id,
            "status": "SUCCESS",
            "result": "hello world: 2",
            "traceback": None,
            "children": [],
        }

    def test_while_nothing_happens(self, app: DBQueue) -> None:
        intervals: list[int] = []
        with pytest.raises(TimeoutError):
            app.task(name="none")(lambda: None).delay().get(
                timeout=0.01, on_message=intervals.append, on_interval=lambda: intervals.append(1)
            )
        assert set(intervals) == {1}


WAITS: dict[str, Callable[[Any], Any]] = {
    "get": lambda result: result.get(timeout=0.01),
    "wait": lambda result: result.wait(timeout=0.01),
    "aget": lambda result: asyncio.run(result.aget(timeout=0.01)),
    "not at all": lambda result: result.get(timeout=0),
    "not at all, awaited": lambda result: asyncio.run(result.aget(timeout=0)),
    "of a set": lambda result: ResultSet([result, result]).get(timeout=0.01),
    "of a set, awaited": lambda result: asyncio.run(ResultSet([result, result]).aget(timeout=0.01)),
    "told of the pauses": lambda result: result.get(timeout=0.01, on_interval=lambda: None),
}


@pytest.mark.parametrize("how", WAITS)
def test_a_wait_has_an_end(app: DBQueue, how: str) -> None:
    """On a thread: a wait without one would be this test's, too."""
    result = app.task(name="none")(lambda: None).delay()
    timed_out = threading.Event()

    def wait() -> None:
        try:
            WAITS[how](result)
        except TimeoutError:
            timed_out.set()

    threading.Thread(target=wait, daemon=True).start()
    assert timed_out.wait(60)


def test_nobody_waits_for_what_is_ignored(app: DBQueue) -> None:
    """There is no worker, and there will be no result."""
    result = app.task(name="ignoring", ignore_result=True)(lambda: 1).delay()
    assert result.get(timeout=60) is None
    assert asyncio.run(result.aget(timeout=60)) is None
    result = app.task(name="telling")(lambda: 1).apply_async(ignore_result=True)
    assert result.get(timeout=60) is None


def test_bindings_and_broadcasts_of_kombu(app: DBQueue) -> None:
    """Section "Routing options", and `binding` and `Broadcast` of the guide "Routing Tasks"."""
    bindings = [SimpleNamespace(routing_key="media.video"), SimpleNamespace(routing_key="media.image")]
    app.conf.task_queues = [
        SimpleNamespace(name="default", routing_key="default"),
        SimpleNamespace(name="media", routing_key="", bindings=bindings),
        SimpleNamespace(name="bcast.5f1c", alias="broadcast_tasks", routing_key=None),
    ]
    assert routes.queue_names(app.conf) == ["default", "media", "broadcast_tasks"]
    task = app.task(name="task")(lambda: None)
    assert task.apply_async(routing_key="media.image").queue == "media"
    assert task.apply_async(routing_key="media.video").queue == "media"
    assert task.apply_async(routing_key="default").queue == "default"
