"""What monitors make of events that are late, or that say what nobody expects: any program may send some."""

from __future__ import annotations

import time
from typing import Any

import pytest

from dbqueue.events import Event
from dbqueue.events.state import State


def heard(state: State, kind: str, **fields: Any) -> None:
    state.event(Event(kind, uuid="u", hostname="h", **fields))


def test_of_a_late_event_only_what_describes_the_call_is_taken() -> None:
    """A task that has succeeded has no exception, though a run before that one had."""
    state = State()
    heard(state, "task-succeeded", timestamp=3.0, result="3")
    heard(state, "task-retried", timestamp=2.0, exception="ValueError()", traceback="...", retries=1)
    task = state.tasks["u"]
    assert (task.state, task.result, task.exception, task.traceback) == ("SUCCESS", "3", None, None)
    assert (task.retries, task.retried) == (1, 2.0)


def test_what_comes_after_an_event_of_a_task_s_own_and_was_before_it() -> None:
    """That one is written at once; those of the worker, and of a caller who has committed, come later."""
    state = State()
    for kind, moment in (("loaf", 4.0), ("sent", 1.0), ("received", 2.0), ("started", 3.0)):
        heard(state, f"task-{kind}", timestamp=moment)
    assert (state.tasks["u"].state, state.tasks["u"].timestamp, state.tasks["u"].started) == ("LOAF", 4.0, 3.0)
    heard(state, "task-retried", timestamp=5.0)
    assert state.tasks["u"].state == "RETRY"


@pytest.mark.parametrize("name", ["_children", "_cluster", "_other", "event", "info", "ready", "children", "__class__"])
def test_no_field_of_an_event_takes_the_place_of_what_a_task_is_made_of(name: str) -> None:
    state = State()
    heard(state, "task-received", name="add", **{name: "text"})
    heard(state, "task-started", step=1, **{name: "text"})
    state.event(Event("task-sent", uuid="child", parent_id="u", hostname="client"))
    heard(state, "task-succeeded")
    task = state.tasks["u"]
    assert (task.ready, task.step, [each.uuid for each in task.children]) == (True, 1, ["child"])
    assert task.info(["name"]) == {"name": "add"}


def test_what_an_event_does_not_tell_stays_as_it_was() -> None:
    state = State()
    state.event(Event("worker-online", hostname="h", pid=7, freq=2.0, processed=3))
    state.event(Event("worker-heartbeat", hostname="h", processed=4))
    worker = state.workers["h"]
    assert (worker.pid, worker.freq, worker.processed) == (7, 2.0, 4)


def test_a_worker_may_miss_one_heartbeat() -> None:
    state = State()
    state.event(Event("worker-heartbeat", hostname="h", freq=600.0, local_received=time.time() - 900))
    assert state.workers["h"].alive
    state.event(Event("worker-heartbeat", hostname="late", freq=600.0, local_received=time.time() - 1201))
    assert not state.workers["late"].alive


@pytest.mark.parametrize("pace", [0, -1.0, 1e12, "often", None])
def test_a_pace_that_is_none_is_not_believed(pace: Any) -> None:
    state = State()
    state.event(Event("worker-online", hostname="h", freq=pace, local_received=time.time()))
    assert (state.workers["h"].freq, state.workers["h"].alive) == (60.0, True)
