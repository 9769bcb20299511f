"""How commands come in and replies go out where the connection fails, by a clock that the test moves."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.errors import OperationalError
from dbqueue.store import control
from dbqueue.worker import control as commands
from dbqueue.worker.control import CommandInfo, Panel, WorkerState, carry_out
from dbqueue.worker.control import desk as desks
from dbqueue.worker.control.desk import GAP_SECONDS, LISTENING_LOOK_SECONDS, LOOK_SECONDS, Desk
from tests.clocks import set_clock

WORKER = "w@test#1"


class Session:
    """A connection with commands in its table; it fails as often as it is told."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, str, str, str | None]] = []
        self.replies: list[str] = []
        self.described: list[tuple[str, str, int]] = []
        self.failures = 0

    def run(self, template: str, parameters: dict[str, Any]) -> list[Any]:
        if self.failures:
            self.failures -= 1
            raise OperationalError("the lock was not free in time")
        if template == control.PENDING:
            return self.commands
        if template == control.DESCRIBE:
            self.described.append((parameters["worker"], parameters["queues"], parameters["concurrency"]))
            return []
        self.replies.append(parameters["command"])
        return []


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    monkeypatch.setattr(desks, "PATIENCE_SECONDS", 0.0)
    return set_clock(monkeypatch, desks)


@pytest.fixture
def woken() -> list[str]:
    return []


def make_desk(*, listens: bool = True, obeys: bool = True, woken: list[str] | None = None) -> Desk:
    parts: dict[str, Any] = dict.fromkeys(WorkerState.__dataclass_fields__)
    parts |= {
        "store": SimpleNamespace(supports_listen=listens),
        "clock": 0,
        "rounds": SimpleNamespace(queues=("celery",)),
    }
    parts["config"] = SimpleNamespace(remote_control=obeys, name="w@test", queues=("celery",), slots=1)
    parts["dispatcher"] = SimpleNamespace(slots=1)
    told = [] if woken is None else woken
    return Desk(WorkerState(**parts), wake=lambda: told.append("woken"))


@pytest.fixture
def desk(clock: list[float], woken: list[str]) -> Desk:
    return make_desk(woken=woken)


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
    session.commands.clear()
    desk.heard()
    clock[0] += 1
    serve(desk, session)
    assert not desk._seen  # a worker runs for weeks


def test_a_reply_that_cannot_be_written_is_not_waited_for(desk: Desk, clock: list[float]) -> None:
    session = Session()
    session.commands = [("a", "ping", "{}", None), ("b", "ping", "{}", None)]
    clock[0] += LISTENING_LOOK_SECONDS
    desk.serve(session, WORKER)  # type: ignore[arg-type]
    assert desk.pause(60) <= GAP_SECONDS, "the loop may answer at any time"
    desk.work()
    session.failures = 1
    with pytest.raises(OperationalError):
        desk.serve(session, WORKER)  # type: ignore[arg-type]
    desk.serve(session, WORKER)  # type: ignore[arg-type]
    desk.flush()
    assert session.replies == ["b"]
    assert desk._written == desk._replied == 2
    assert desk.pause(60) > GAP_SECONDS


def test_the_loop_does_not_wait_for_what_a_command_reads(desk: Desk, clock: list[float], monkeypatch: Any) -> None:
    def read(state: WorkerState) -> str:
        return threading.current_thread().name

    monkeypatch.setitem(Panel.commands, "read", CommandInfo("read", read, "inspect", reads_database=True))
    session: Any = Session()
    session.commands = [("a", "read", "{}", None)]
    clock[0] += LISTENING_LOOK_SECONDS
    desk.serve(session, WORKER)
    assert session.replies == ["a"]


def test_the_row_follows_what_commands_change(desk: Desk) -> None:
    """Once for each change; and a row that is new is told what the former one said."""
    session: Any = Session()
    for _ in range(3):
        desk.serve(session, WORKER)
    assert session.described == []
    desk._state.dispatcher.slots = 3
    for _ in range(3):
        desk.serve(session, WORKER)
    assert session.described == [(WORKER, '["celery"]', 3)]
    for _ in range(3):
        desk.serve(session, "w@test#2")
    assert session.described[1:] == [("w@test#2", '["celery"]', 3)]


def test_who_obeys_nobody_looks_for_no_commands(clock: list[float]) -> None:
    desk, session = make_desk(obeys=False), Session()
    session.commands = [("a", "ping", "{}", None)]
    clock[0] += 60
    serve(desk, session)
    assert session.replies == []
    assert desk.pause(5) == 5, "its thread does not spin"


def test_where_nothing_is_announced_it_looks_each_second(clock: list[float]) -> None:
    assert make_desk(listens=False).pause(60) == LOOK_SECONDS


def test_a_reply_that_is_too_long_is_an_error(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MAX_REPLY_BYTES", 200)
    monkeypatch.setitem(Panel.commands, "long", CommandInfo("long", lambda state: "x" * 300, "inspect"))
    said = json.loads(carry_out(desk._state, control.Command("a", "long", "{}", None)))
    assert "200" in said["error"]


def test_a_command_whose_error_cannot_be_shown_ends_no_worker(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unshown(Exception):
        def __repr__(self) -> str:
            raise RuntimeError("nor this")

        __str__ = __repr__

    def fail(state: WorkerState) -> None:
        raise Unshown

    monkeypatch.setitem(Panel.commands, "fail", CommandInfo("fail", fail, "control"))
    said = json.loads(carry_out(desk._state, control.Command("a", "fail", "{}", None)))
    assert "Unshown" in said["error"]
