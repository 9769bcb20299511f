"""What a worker tells monitors, and what it keeps for that, by a clock that the test moves."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import task_events
from dbqueue.jobs import FAILURE, REVOKED, Failed, Outcome, Released, Retried, Settled, Succeeded
from dbqueue.store import events
from dbqueue.worker import events as sending
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.events import HEARTBEAT_SECONDS, WRITE_SECONDS, EventSender
from tests.clocks import set_clock
from tests.stores import claimed_job


class Session:
    """A connection that takes all events."""

    def __init__(self) -> None:
        self.written: list[dict[str, Any]] = []
        self.pruned = 0

    def run(self, template: str, parameters: dict[str, Any]) -> None:
        if template == events.WRITE:
            self.written += json.loads(parameters["batch"])
        else:
            self.pruned += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return set_clock(monkeypatch, sending)


@pytest.fixture
def sender(clock: list[float]) -> EventSender:
    return EventSender(WorkerConfig("w@test", ("celery",), "threads", 1, task_events=True))


def written(sender: EventSender, clock: list[float]) -> list[str]:
    """The types of the events that its thread writes next."""
    session: Any = Session()
    clock[0] += WRITE_SECONDS
    sender.write(session)
    return [event["type"] for event in session.written]


def test_each_run_of_a_job_is_told_of_once(sender: EventSender, clock: list[float]) -> None:
    sender.beat(0)
    written(sender, clock)
    child: Any = SimpleNamespace(running=[], pid=7)
    for lease in ("first", "second"):
        child.running = [claimed_job("a", lease=lease)]
        for _ in range(3):
            sender.keep([child])
        sender.ended(Retried("a", lease, "{}", None, 0.0))
    assert written(sender, clock) == ["task-started", "task-retried"] * 2
    sender.keep([child])
    sender.ended(Succeeded("a", "second", "1", 0.0), 7)
    assert not sender._began  # a worker runs for weeks


def test_a_heartbeat_each_two_seconds(sender: EventSender, clock: list[float]) -> None:
    for _ in range(9):
        sender.keep([])
        clock[0] += HEARTBEAT_SECONDS / 4
    assert written(sender, clock) == ["worker-heartbeat"] * 3


def test_the_oldest_are_dropped_while_the_database_is_away(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "MAX_WAITING", 3)
    sender = EventSender(WorkerConfig("w@test", ("celery",), "threads", 1, task_events=True))
    sender.online()
    for _ in range(3):
        sender.beat(0)
    assert written(sender, clock) == ["worker-heartbeat"] * 3


def test_what_waits_is_written_soon_also_where_no_more_is_sent(sender: EventSender, clock: list[float]) -> None:
    assert sender.enable(False)
    assert sender.pause(60) == WRITE_SECONDS
    assert written(sender, clock) == ["worker-offline"]
    assert sender.pause(60) == 60


def test_what_is_old_is_deleted_now_and_then(sender: EventSender, clock: list[float]) -> None:
    session: Any = Session()
    for _ in range(31):
        sender.write(session)
        clock[0] += 1
    assert session.pruned == 3


def test_what_monitors_are_told_of_an_end() -> None:
    """Nothing of what is told of otherwise, or goes back to its queue by no doing of the task's."""
    error = '{"exc_type": "KeyError", "exc_message": ["x"], "exc_module": "builtins"}'
    told: dict[str, Outcome] = {
        "another serializer": Succeeded("u", "l", '{"content_type": "application/x-yaml"}', 0.1, b"- 1"),
        "completed by its task": Settled("u", "l", 0.1, succeeded=True, result="3"),
        "replaced in its transaction": Settled("u", "l", 0.1, succeeded=False),
        "failed": Failed("u", "l", error, None, 0.1, status=FAILURE),
        "revoked": Failed("u", "l", error, None, 0.1, status=REVOKED),
        "given back": Released("u", "l", "2020-01-01"),
    }
    events_ = {name: task_events.ended(outcome, "h", levels=3) for name, outcome in told.items()}
    assert {name: event and (event["type"], event.get("result")) for name, event in events_.items()} == {
        "another serializer": ("task-succeeded", "<another serializer>"),
        "completed by its task": ("task-succeeded", "3"),
        "replaced in its transaction": None,
        "failed": ("task-failed", None),
        "revoked": None,
        "given back": None,
    }
