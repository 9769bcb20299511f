"""One turn of the worker's loop after the other: what becomes of each claim and each message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dbqueue.jobs import ClaimedJob
from dbqueue.pools import wire
from dbqueue.worker.claiming.doorbell import Doorbell
from dbqueue.worker.supervising.shutdown import State
from dbqueue.worker.supervising.supervisor import (
    IDLE_TICK_SECONDS,
    QUIET_TICK_SECONDS,
    TICK_SECONDS,
    WATCHFUL_TICK_SECONDS,
)
from tests.unit.turns import A, B, C, Worker, done, longest_wait, released, starting


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, killed: list[int]) -> Iterator[Any]:
    with starting(monkeypatch) as start:
        yield start


def claimed_beside_its_own_run(worker: Worker) -> ClaimedJob:
    """A, claimed again while a run of it goes on that was terminated and took no notice: it was retried by hand."""
    first = next(iter(worker.crew))
    first.send_jobs([A])
    first.write_off(A)
    again = A._replace(lease="another")
    worker.claims(again)
    return again


def test_it_is_ready_once_and_when_all_children_are(start: Any) -> None:
    worker = start(concurrency=2, ready=False)
    worker.says(wire.READY, child=1)
    assert worker.readied == 0
    worker.says(wire.READY, child=2)
    worker.says(wire.READY, child=2)
    assert worker.readied == 1


def test_one_that_ends_before_it_was_ready_never_says_so(start: Any) -> None:
    worker = start(ready=False)
    worker.ending.state = State.DRAINING
    worker.says(wire.READY)
    assert worker.readied == 0


HAS_A_CLOCK: dict[str, Callable[[Worker], object]] = {
    "it is fenced": lambda worker: setattr(worker.ending, "state", State.FENCED),
    "it drains": lambda worker: setattr(worker.ending, "state", State.DRAINING),
    "it is declared dead": lambda worker: setattr(worker.supervisor._watch, "_dead_id", "w@test#1"),
    "it scales": lambda worker: setattr(worker.supervisor._control, "autoscaler", object()),
    "it tells monitors": lambda worker: setattr(worker.supervisor._events, "enabled", True),
    "a job waits": lambda worker: worker.dispatcher.add([A]),
    "a process starts": lambda worker: setattr(worker.child, "ready", False),
    "a process ends": lambda worker: setattr(worker.child, "stopping", True),
    "a process is to be started": lambda worker: worker.crew._missing.update({2: 0.0}),
}


@pytest.mark.parametrize("has_a_clock", HAS_A_CLOCK.values(), ids=HAS_A_CLOCK.keys())
def test_an_idle_worker_looks_seldom_where_nothing_has_a_clock_and_only_there(
    start: Any, has_a_clock: Callable[[Worker], object]
) -> None:
    worker = start()
    assert longest_wait(worker.supervisor) == QUIET_TICK_SECONDS
    has_a_clock(worker)
    assert longest_wait(worker.supervisor) == IDLE_TICK_SECONDS


def test_a_worker_with_jobs_looks_often(start: Any) -> None:
    worker = start()
    worker.child.send_jobs([A])
    assert longest_wait(worker.supervisor) == TICK_SECONDS
    worker.child.send_jobs([B])  # which waits behind it
    assert longest_wait(worker.supervisor) == WATCHFUL_TICK_SECONDS


def test_a_job_is_run_and_its_outcome_written(start: Any) -> None:
    worker = start()
    worker.claims(A)
    assert worker.sent() == [wire.RUN]
    worker.answers(done(A))
    assert worker.written() == [done(A)]
    assert (len(worker.child.held), worker.child.answered) == (0, 1)
    assert worker.supervisor._control.total == {"pack": 1}


def test_what_cannot_be_told_to_monitors_is_written_all_the_same(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = start()

    def stumble(*_: Any) -> None:
        raise RecursionError("whatever it is")

    worker.claims(A)
    monkeypatch.setattr(worker.supervisor._events, "ended", stumble)
    worker.answers(done(A))
    assert worker.written() == [done(A)]


@pytest.mark.parametrize("state", [State.FENCED, State.REGISTERING, State.DRAINING])
def test_what_is_claimed_while_it_may_run_nothing_goes_back(
    start: Any, monkeypatch: pytest.MonkeyPatch, state: State
) -> None:
    """A claim that was under way when the state changed. What waited here goes back with it."""
    worker = start()
    monkeypatch.setattr(worker.supervisor._fence, "keep", lambda: None)
    worker.dispatcher.add([A])
    worker.ending.state = state
    worker.claims(B)
    assert worker.sent() == []
    assert sorted(worker.written()) == [released(A), released(B)]
    assert len(worker.dispatcher) == 0


def test_a_claim_that_is_void_is_dropped_in_the_turn_that_brings_it(start: Any) -> None:
    """Before a child could get it: another worker may run the job already."""
    worker = start()
    worker.rounds.lost_leases.append((A.id, A.lease))
    worker.claims(A)
    assert (worker.sent(), worker.written()) == ([], [])


def test_a_worker_that_is_late_gives_out_nothing_in_that_turn(start: Any, killed: list[int]) -> None:
    worker = start()
    worker.claims(A)
    worker.sent()
    worker.supervisor._watch._lease_began_at -= 1000.0
    worker.claims(B)
    assert killed == [worker.child.pid]
    assert worker.sent() == []
    assert worker.written() == [released(B)]
    worker.nursery.dies(worker.child)
    worker.turn()
    assert worker.written() == [released(A, ended=True)], "it is no loss: this worker has ended the run"


def test_a_run_whose_end_is_known_already_is_not_ended_twice(start: Any) -> None:
    worker = start()
    worker.claims(A)
    worker.child.write_off(A)
    worker.answers(done(A))
    assert worker.written() == []
    worker.claims(B)
    assert list(worker.child.held) == ["b"], "its slot is free"


def test_a_message_about_a_job_that_is_not_there_is_no_error(start: Any) -> None:
    worker = start()
    worker.says(wire.WAITING, "gone")
    worker.says(wire.RECALLED, ["gone"])
    assert worker.written() == []


def test_in_each_look_all_that_has_a_clock_is_seen_to(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = start()
    seen: list[str] = []
    loop = worker.supervisor
    parts = {
        "shutdown": (worker.ending, "keep"),
        "commands": (loop._desk, "work"),
        "time limits": (loop._limits, "enforce"),
        "the doomed": (worker.crew, "end_doomed"),
        "revokes": (loop._revoker, "keep"),
        "monitors": (loop._events, "keep"),
        "stalled": (loop, "_relieve_stalled"),
    }
    for name, (part, method) in parts.items():
        monkeypatch.setattr(part, method, lambda *_, name=name: seen.append(name))
    worker.turn()
    assert sorted(seen) == sorted(parts)


def test_what_waits_here_counts_as_held(start: Any) -> None:
    """No more is claimed than can be run."""
    worker = start(concurrency=2)
    assert worker.rounds.handover.room == 2
    worker.claims(A)
    assert worker.rounds.handover.room == 1
    worker.claims(B, C)
    assert worker.rounds.handover.room == 0
    for child in list(worker.crew):
        worker.answers(done(next(iter(child.held.values()))), child.number)
    assert worker.rounds.handover.room == 1


def test_a_loop_that_has_nothing_to_do_leaves_the_rounds_asleep(start: Any) -> None:
    """What it wants is what it wanted before, or less by what it has taken; they are to hear of more."""
    worker, bell = start(concurrency=2), Doorbell()
    worker.rounds._bell = bell
    worker.turn()
    bell.answer()
    worker.turn()
    assert (bell.rung, worker.rounds.handover.room > 0) == (False, True)
    worker.claims(A)
    assert not bell.rung
    worker.rounds.handover.want(0)
    worker.turn()
    assert (bell.rung, worker.rounds.handover.room) == (True, 1)


def test_what_waits_for_children_that_are_not_ready_counts_as_held(start: Any) -> None:
    worker = start(concurrency=2, ready=False)
    worker.claims(A, B)
    assert (worker.sent(), worker.rounds.handover.room) == ([], 0)


def test_what_cannot_be_told_of_is_not_given_out(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = start(concurrency=2)

    def stumble(jobs: list[ClaimedJob]) -> None:
        if A in jobs:
            raise RecursionError("whatever it is")

    monkeypatch.setattr(worker.supervisor._events, "received", stumble)
    worker.claims(A, B)
    assert [job.id for child in worker.crew for job in child.held.values()] == ["b"]
    assert [outcome.job_id for outcome in worker.written()] == ["a"]


def test_an_answer_is_progress_and_is_learned_from(start: Any) -> None:
    worker = start()
    worker.claims(A)
    child = worker.child
    child.silence.began_at = worker.dispatcher.progress_at = 0.0
    worker.answers(done(A))
    assert child.silence.began_at == worker.dispatcher.progress_at > 0.0
    assert worker.dispatcher.expected_seconds(A.task) == 9.0
    assert child.backlog_seconds == 0.0


def test_a_run_that_was_interrupted_and_goes_on_has_no_second_one_beside_it(start: Any) -> None:
    worker = start(pool="threads", concurrency=2)
    worker.claims(A)
    worker.supervisor._revoker.revoke([A.id], 15)
    worker.turn()
    again = A._replace(lease="another")
    worker.claims(again)
    assert list(worker.child.held.values()) == [A]
    assert list(worker.dispatcher.behind) == [again]


def test_a_run_that_goes_on_though_its_end_is_known_takes_its_slot(start: Any) -> None:
    worker = start()
    worker.claims(A)
    worker.child.write_off(A)
    worker.turn()
    assert worker.rounds.handover.room == 0
    worker.answers(done(A))
    assert worker.rounds.handover.room == 1


def test_a_second_claim_waits_for_the_run_that_was_to_end(start: Any) -> None:
    worker = start(concurrency=2)
    again = claimed_beside_its_own_run(worker)
    assert [job.id for job in worker.dispatcher.behind] == ["a"]
    worker.answers(done(A))
    assert worker.written() == []
    assert [job for child in worker.crew for job in child.held.values()] == [again]


def test_a_claim_that_has_waited_too_long_for_such_a_run_goes_back(start: Any) -> None:
    worker = start(concurrency=2)
    again = claimed_beside_its_own_run(worker)
    worker.dispatcher.behind[again] -= 60.0
    worker.turn()
    assert worker.written() == [released(again)]


def test_what_waits_behind_a_long_run_is_called_back_and_what_waits_here_goes_back(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start()
    worker.claims(A)
    worker.child.send_jobs([B])
    worker.sent()
    worker.dispatcher.add([C])
    stalls: list[float] = []
    monkeypatch.setattr(worker.dispatcher, "stalled", lambda: stalls.append(worker.dispatcher.progress_at))
    for since in (0.2, 0.9):
        worker.dispatcher.progress_at -= since
        worker.child.silence.began_at -= since
        worker.turn()
        if since == 0.2:
            worker.turn()  # a child that was not watched yet is, from the turn before
            worker.child.silence.began_at -= 1.0
            worker.turn()
    assert worker.sent() == [wire.RECALL]
    assert worker.written() == [released(C)]
    assert len(stalls) == 2, "fewer are to be held for each, and once"


def test_what_waits_here_stays_while_a_child_gets_no_processor(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere it would wait for the same one."""
    worker = start()
    worker.claims(A)
    worker.dispatcher.add([C])
    worker.dispatcher.progress_at -= 1.0
    monkeypatch.setattr(worker.child.silence, "seconds", lambda now, pid: 0.0)
    worker.turn()
    assert worker.written() == []
