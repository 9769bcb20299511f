"""How commands come in and replies go out where the connection fails, by a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.errors import OperationalError
from dbqueue.store import control
from dbqueue.worker import desk as desks
from dbqueue.worker.control import WorkerState
from dbqueue.worker.desk import GAP_SECONDS, LISTENING_LOOK_SECONDS, Desk

WORKER = "w@test#1"


class Session:
    """A connection with commands in its table; it fails as often as it is told."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, str, str, str | None]] = []
        self.replies: list[str] = []
        self.failures = 0

    def run(self, template: str, parameters: dict[str, Any]) -> list[Any]:
        if self.failures:
            self.failures -= 1
            raise OperationalError("the lock was not free in time")
        if template == control.PENDING:
            return self.commands
        self.replies.append(parameters["command"])
        return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(desks, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(desks, "PATIENCE_SECONDS", 0.0)
    return now


@pytest.fixture
def woken() -> list[str]:
    return []


@pytest.fixture
def desk(clock: list[float], woken: list[str]) -> Desk:
    nobody: Any = None
    parts: dict[str, Any] = dict.fromkeys(WorkerState.__dataclass_fields__, nobody)
    parts |= {"store": SimpleNamespace(supports_listen=True), "clock": 0, "rounds": SimpleNamespace(queues=("celery",))}
    parts["config"] = SimpleNamespace(remote_control=True, name="w@test", queues=("celery",), slots=1)
    parts["dispatcher"] = SimpleNamespace(slots=1)
    return Desk(WorkerState(**parts), wake=lambda: woken.append("woken"))


def serve(desk: Desk, session: Any) -> None:
    """What the watch thread does in one of its turns, between which the loop does its work."""
    desk.serve(session, WORKER)
    desk.work()
    desk.serve(session, WORKER)


def test_a_look_that_failed_is_repeated_soon(desk: Desk, clock: list[float]) -> None:
    """The announcement does not come again, and who has sent the command waits for a second."""
    session = Session()
    session.commands, session.failures = [("a", "ping", "{}", None)], 1
    desk.heard()
    clock[0] += 1
    with pytest.raises(OperationalError):
        serve(desk, session)
    assert 0 < desk.pause(60) <= GAP_SECONDS
    clock[0] += GAP_SECONDS
    serve(desk, session)
    assert session.replies == ["a"]
    assert desk.pause(60) == LISTENING_LOOK_SECONDS


def test_a_command_is_carried_out_once_while_it_is_there(desk: Desk, clock: list[float], woken: list[str]) -> None:
    session = Session()
    session.commands = [("a", "ping", "{}", None), ("not for it", "ping", "{}", '{"workers": ["other@test"]}')]
    for turn in range(3):
        desk.heard()
        clock[0] += 1
        serve(desk, session)
        if turn == 1:
            session.commands.append(("b", "ping", "{}", '{"workers": ["w@test"]}'))
    assert session.replies == ["a", "b"]
    assert woken == ["woken"] * 2


def test_a_reply_that_cannot_be_written_is_not_waited_for(desk: Desk, clock: list[float]) -> None:
    session = Session()
    session.commands = [("a", "ping", "{}", None), ("b", "ping", "{}", None)]
    clock[0] += LISTENING_LOOK_SECONDS
    desk.serve(session, WORKER)  # type: ignore[arg-type]
    desk.work()
    session.failures = 1
    with pytest.raises(OperationalError):
        desk.serve(session, WORKER)  # type: ignore[arg-type]
    desk.serve(session, WORKER)  # type: ignore[arg-type]
    desk.flush()
    assert session.replies == ["b"]
    assert desk._written == desk._replied == 2
    assert desk.pause(60) > GAP_SECONDS
