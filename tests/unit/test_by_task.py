"""What is remembered by the names of tasks: rows may hold any number of names, and as long ones as they like."""

from __future__ import annotations

import pytest

from dbqueue.cli import events
from dbqueue.worker.supervising import by_task
from dbqueue.worker.supervising.dispatch import Dispatcher

LONG = "x" * 256


def test_the_times_of_the_latest_tasks_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_task, "MOST_TASKS", 3)
    dispatcher = Dispatcher(1)
    for task in ("a", "b", "c", "a", LONG, "d"):
        dispatcher.measured(task, 1.0)
    assert {task: dispatcher.expected_seconds(task) for task in ("a", "b", "c", "d", LONG)} == {
        "a": None, "b": 1.0, "c": 1.0, "d": 1.0, LONG: None,
    }  # fmt: skip


def test_the_jobs_of_the_first_tasks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_task, "MOST_TASKS", 2)
    totals = by_task.Totals()
    for task in (LONG, "a", "b", "c", "a"):
        totals.add(task)
    assert totals == {"a": 2, "b": 1}


def test_a_dump_of_events_forgets_calls_of_which_it_hears_no_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(events, "MOST_CALLS", 2)
    dumper = events.Dumper()
    for uuid in ("1", "2", "3"):
        dumper.show({"type": "task-received", "uuid": uuid, "name": f"task{uuid}"})
    for uuid in ("1", "3"):
        dumper.show({"type": "task-started", "uuid": uuid})
    first, last = capsys.readouterr().out.splitlines()[-2:]
    assert "task1(1)" not in first
    assert "task3(3)" in last
