"""How long a job may run: which limit holds, and from when it counts."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.jobs import ClaimedJob, Failed, Outcome
from dbqueue.pools import wire
from dbqueue.services.workers import Worker
from dbqueue.worker.supervising import limits as watching
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.limits import Limits, TimeLimits
from tests.clocks import set_clock
from tests.stores import claimed_job

Told = list[tuple[str, str, float]]


def job(id: str, *, task: str = "pack", lease: str = "lease", **options: float) -> ClaimedJob:
    return claimed_job(id, task=task, lease=lease, options=json.dumps(options) if options else None)


@pytest.mark.parametrize(
    ("worker", "task", "call", "limits"),
    [
        ({}, {}, {}, Limits()),
        ({"soft": 1, "hard": 2}, {}, {}, Limits(1, 2)),
        ({"soft": 1, "hard": 2}, {"soft": 3, "hard": 4}, {}, Limits(3, 4)),
        ({"soft": 1, "hard": 2}, {"hard": 4}, {}, Limits(1, 4)),
        ({"soft": 1, "hard": 2}, {"soft": 3, "hard": 4}, {"soft": 5, "hard": 6}, Limits(5, 6)),
        ({"soft": 1, "hard": 2}, {"hard": 4}, {"soft": 3}, Limits(3, 4)),
    ],
)
@pytest.mark.parametrize("given", ["with the worker", "in the settings"])
def test_the_call_goes_before_the_task_and_that_before_the_worker(
    tmp_path: Path, given: str, worker: dict[str, float], task: dict[str, float], call: dict[str, float], limits: Limits
) -> None:
    def named(values: dict[str, float], prefix: str = "") -> dict[str, Any]:
        names = {"soft": "soft_time_limit", "hard": "time_limit"}
        return {prefix + names[kind]: seconds for kind, seconds in values.items()}

    settings, options = ({}, named(worker)) if given == "with the worker" else (named(worker, "task_"), {})
    with DBQueue("shop", broker=f"sqlite:///{tmp_path / 'unused.db'}", set_as_current=False, **settings) as app:
        app.task(name="pack", **named(task))(lambda: None)
        assert Worker(app, pool="solo", **options)._limits.of(job("a", **named(call))) == limits


@pytest.mark.parametrize(
    "options",
    ["[" * 100_000, '["time_limit"]', "7", "{", '{"time_limit": "x"}', '{"time_limit": [[]]}', '{"time_limit": 0}'],
)
def test_options_that_are_none_limit_nothing(options: str) -> None:
    limits = TimeLimits({}, Limits(1, 2))
    assert limits.of(claimed_job(options=options + ' "time_limit"')) == Limits(1, 2)
    assert limits.of(claimed_job(options=options)) == Limits(1, 2)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return set_clock(monkeypatch, watching)


@pytest.fixture
def child() -> Iterator[Child]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Child(1, 1, ours)


def told(limits: TimeLimits, child: Child) -> Told:
    return [(job.id, kind, seconds) for _, job, kind, seconds in limits.exceeded(iter([child]))]


def test_each_limit_is_told_once(clock: list[float], child: Child) -> None:
    limits = TimeLimits({"pack": Limits(soft=2, hard=5)}, Limits())
    child.send_jobs([job("a")])
    seen = []
    for _ in range(8):
        seen.append(told(limits, child))
        clock[0] += 1.0
    assert seen == [[], [], [("a", "soft", 2)], [], [], [("a", "hard", 5)], [], []]


def test_the_hard_limit_goes_before_the_soft_one_where_both_have_passed(clock: list[float], child: Child) -> None:
    limits = TimeLimits({"pack": Limits(soft=2, hard=5)}, Limits())
    child.send_jobs([job("a")])
    assert told(limits, child) == []
    clock[0] += 10.0
    assert told(limits, child) == [("a", "hard", 5)]


class Crew(list[Child]):
    """Of children that are looked after by nobody."""

    place: socket.socket | None = None

    def watch(self, child: Child) -> None:
        self.watched = child


def test_what_is_done_about_a_limit(clock: list[float]) -> None:
    """The soft one is told to the run, and its end by the hard one to all who wait for it; its process is to end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = Child(1, 1, ours)
        crew: Any = Crew([child])
        ends: list[tuple[Outcome, ClaimedJob]] = []
        limits = TimeLimits({"pack": Limits(soft=2, hard=5)}, Limits())
        child.send_jobs([job("a")])
        for _ in range(3):
            limits.enforce(crew, lambda outcome, job: ends.append((outcome, job)))
            clock[0] += 1.0
        messages = wire.Reader(theirs).receive()
        assert messages is not None
        assert [message for message in messages if message[0] == wire.INTERRUPT] == [(wire.INTERRUPT, "a", True)]
        assert crew.watched is child, "what its socket does not take now is sent when it does"
        assert (ends, child.doomed_at) == ([], None)
        clock[0] += 3.0
        limits.enforce(crew, lambda outcome, job: ends.append((outcome, job)))
        ((outcome, of),) = ends
        assert isinstance(outcome, Failed)
        assert (outcome.job_id, outcome.lease, outcome.status, of) == ("a", "lease", "FAILURE", job("a"))
        assert "TimeLimitExceeded" in outcome.error
        assert child.doomed_at is not None
        assert (child.held, child.drop_answer("a")) == ({}, True)


def test_the_hard_limit_of_a_run_that_cannot_be_ended_is_only_told(
    clock: list[float], child: Child, caplog: pytest.LogCaptureFixture
) -> None:
    """solo: the job has its outcome when the task has ended by itself."""
    crew: Any = Crew([child])
    crew.place = child.socket
    ends: list[Outcome] = []
    limits = TimeLimits({}, Limits(hard=5))
    child.send_jobs([job("a")])
    for _ in range(3):
        limits.enforce(crew, lambda outcome, job: ends.append(outcome))
        clock[0] += 5.0
    assert (ends, list(child.held), child.doomed_at) == ([], ["a"], None)
    assert [record.getMessage().endswith("it goes on") for record in caplog.records] == [True]


def test_what_waits_in_a_process_behind_another_does_not_run(clock: list[float], child: Child) -> None:
    limits = TimeLimits({}, Limits(hard=5))
    child.send_jobs([job("a", time_limit=100), job("b")])
    for _ in range(3):
        assert told(limits, child) == []
        clock[0] += 4.0
    del child.held["a"]
    assert told(limits, child) == []
    clock[0] += 4.0
    assert told(limits, child) == []
    clock[0] += 1.0
    assert told(limits, child) == [("b", "hard", 5)]


def test_what_has_not_begun_though_its_process_had_room_for_it(clock: list[float], child: Child) -> None:
    """A run beside it held the event loop: none of its time is over."""
    limits = TimeLimits({}, Limits(soft=2, hard=5))
    child.send_jobs([job("a")])
    assert told(limits, child) == []
    for _ in range(3):
        clock[0] += 2.0
        assert told(limits, child) == [("a", "soft", 2)]
        limits.has_waited(child, child.held["a"])
        assert told(limits, child) == []
    clock[0] += 2.0
    assert told(limits, child) == [("a", "soft", 2)]
    clock[0] += 3.0
    assert told(limits, child) == [("a", "hard", 5)]


def test_the_next_run_of_a_job_has_its_own_time(clock: list[float], child: Child) -> None:
    limits = TimeLimits({}, Limits(hard=5))
    child.send_jobs([job("a", lease="first")])
    assert told(limits, child) == []
    clock[0] += 4.0
    del child.held["a"]
    child.send_jobs([job("a", lease="second")])  # before anybody has looked
    assert told(limits, child) == []
    clock[0] += 4.0
    assert told(limits, child) == []
    clock[0] += 1.0
    assert told(limits, child) == [("a", "hard", 5)]


def test_of_a_run_that_has_ended_nothing_is_kept(clock: list[float], child: Child) -> None:
    limits = TimeLimits({}, Limits(soft=2, hard=5))
    child.send_jobs([job("a")])
    for _ in range(3):
        told(limits, child)
        clock[0] += 4.0
    assert limits._started
    del child.held["a"]
    told(limits, child)
    assert (limits._started, limits._warned, limits._over) == ({}, set(), set())
