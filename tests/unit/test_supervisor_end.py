"""The end of the worker's loop: asked for, or by a fault; what ran goes back, and what is known is written."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.jobs import Failed
from dbqueue.pools import wire
from dbqueue.worker.supervising import supervisor as module
from dbqueue.worker.supervising.opening import Opened
from dbqueue.worker.supervising.shutdown import State
from dbqueue.worker.watch import boot_clock
from tests.clocks import set_clock
from tests.stores import claimed_job
from tests.unit.turns import A, B, done, released, starting


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, killed: list[int]) -> Iterator[Any]:
    with starting(monkeypatch) as start:
        yield start


def test_solo_that_gives_up_waits_for_what_it_may_hand_back(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its task runs in this process: what becomes of its jobs is seen to with the end of that."""
    worker = start()
    worker.claims(A)
    worker.crew.place = worker.nursery.socket
    worker.supervisor._give_up("whatever it is")
    assert list(worker.child.held) == ["a"]
    assert worker.written() == []


@pytest.mark.parametrize("fault", ["rounds", "watch", "nursery"])
def test_a_part_that_is_gone_ends_the_worker_and_its_jobs_go_back(start: Any, killed: list[int], fault: str) -> None:
    worker = start()
    worker.claims(A)
    child = worker.child
    if fault == "rounds":
        worker.rounds.failed = ZeroDivisionError("whatever it is")
    elif fault == "watch":
        worker.supervisor._watch.thread = SimpleNamespace(ident=1, is_alive=lambda: False)
    else:
        worker.nursery.is_gone()
    worker.turn()
    worker.turn()
    assert worker.ending.state is State.ENDING
    assert (worker.ending.exit_code, worker.ending.finished) == (1, True)
    assert set(killed) == {child.pid}
    lost = fault == "nursery"  # which the task itself may have ended: it must not do so to worker after worker
    assert worker.written() == [released(A, lost=lost, ended=not lost)]


def test_what_pool_processes_have_said_before_they_all_ended_counts(start: Any) -> None:
    worker = start()
    worker.claims(A)
    worker.nursery.ends[1].send(wire.done_frame(done(A)))
    worker.supervisor._bury(None)  # which may come before the socket's turn
    assert worker.written() == [done(A)]


def test_a_job_with_which_all_pool_processes_end_may_do_so_so_often(start: Any) -> None:
    worker = start(concurrency=2, max_losses=2)
    once_more, last = A._replace(losses=1), B._replace(losses=2)
    worker.claims(once_more, last)
    worker.nursery.is_gone()
    worker.turn()
    outcomes = {outcome.job_id: outcome for outcome in worker.written()}
    assert outcomes["a"] == released(once_more, lost=True)
    assert isinstance(outcomes["b"], Failed)


def test_a_cold_shutdown_does_not_wait_for_deaths_that_nobody_tells_of(start: Any, killed: list[int]) -> None:
    """The process that bears children, and that they are children of, is gone before all of them are."""
    worker = start()
    worker.claims(A)
    worker.supervisor.request_stop("cold")
    worker.turn()
    assert (worker.ending.state, worker.ending.finished) == (State.ENDING, False)
    worker.nursery.is_gone()
    worker.turn()
    assert worker.ending.finished
    assert worker.written() == [released(A, ended=True)]


def test_a_command_to_stop_is_a_warm_request_however_often_it_comes(start: Any) -> None:
    worker = start()
    worker.claims(A)
    for _ in range(2):
        worker.supervisor._stop_by_command()
        worker.supervisor._stop_by_command()
        worker.turn()
    states = [worker.ending.state]
    worker.supervisor.request_stop()
    worker.turn()
    assert [*states, worker.ending.state] == [State.DRAINING, State.ENDING]


@pytest.mark.parametrize("what", ["a request to stop", "a registration"])
def test_a_loop_that_sleeps_hears_at_once_of(start: Any, what: str) -> None:
    worker = start()
    worker.turn()
    assert worker.crew.selector.select(0) == []
    if what == "a registration":
        worker.supervisor._registered("w@test#2", boot_clock())
    else:
        worker.supervisor.request_stop()
    ((key, _),) = worker.crew.selector.select(0)
    assert key.data is worker.supervisor._wakeup


def test_an_error_of_the_loop_hands_back_what_ran(start: Any, killed: list[int]) -> None:
    worker = start(concurrency=2)
    once = claimed_job("once", redeliver=False)
    worker.claims(once, A)
    worker.claims(B)
    worker.supervisor._abandon()
    assert killed == [child.pid for child in worker.crew]
    outcomes = {outcome.job_id: outcome for outcome in worker.written()}
    assert isinstance(outcomes.pop("once"), Failed)
    assert outcomes == {"a": released(A, ended=True)}, "it is no loss"
    assert [job.id for job in worker.dispatcher.waiting] == ["b"]


def test_a_worker_that_cannot_start_leaves_no_connection(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = start()
    closed: list[str] = []

    def session(name: str) -> Any:
        return SimpleNamespace(close=lambda: closed.append(name))

    def fails() -> None:
        raise ZeroDivisionError

    opened = Opened(session("watch"), session("work"), "w@test#1", boot_clock())
    monkeypatch.setattr(module, "open_worker", lambda *_, **__: opened)
    monkeypatch.setattr(worker.crew, "start", fails)
    worker.crew.selector.unregister(worker.supervisor._wakeup.reader)
    with pytest.raises(ZeroDivisionError):
        worker.supervisor.run()
    assert sorted(closed) == ["watch", "work"]
    assert worker.ending.exit_code == 1


@pytest.mark.parametrize("why", ["cold", "a second signal", "overdue"])
def test_the_last_outcomes_are_waited_for_but_not_for_ever(
    start: Any, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    worker = start()
    clock = set_clock(monkeypatch, module)
    began = clock[0]
    waited: list[float] = []

    def stop(seconds: float) -> bool:
        waited.append(clock[0] - began)
        clock[0] += 1.0
        if clock[0] == began + 100.0:  # a hundred seconds of patience, until then
            if why == "cold":
                worker.ending.exit_code = 1
            elif why == "overdue":
                worker.ending._until = 0.0
            else:
                worker.supervisor.request_stop()
        return clock[0] > began + 1000.0

    monkeypatch.setattr(worker.rounds, "stop", stop)
    assert not worker.supervisor._say_goodbye()
    assert 100.0 < waited[-1] < 130.0


def test_at_its_end_it_gives_back_what_has_not_run_and_beats_until_all_is_written(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start()
    worker.dispatcher.add([A])
    worker.rounds.handover.add([B])
    worker.rounds.handover.give()
    did: list[str] = []

    def stop(seconds: float) -> bool:
        did.append("rounds")
        return True

    worker.rounds.thread = SimpleNamespace(ident=1)
    monkeypatch.setattr(worker.rounds, "stop", stop)
    monkeypatch.setattr(worker.supervisor._desk, "flush", lambda: did.append("replies"))
    monkeypatch.setattr(worker.supervisor._events, "offline", lambda: did.append("offline"))
    monkeypatch.setattr(worker.supervisor._watch, "stop", lambda: did.append("watch"))
    worker.supervisor._end()
    assert sorted(worker.written()) == [released(A), released(B)]
    assert did == ["rounds", "replies", "offline", "watch"]
    assert all(child.closed for child in worker.crew), "solo's task is waited for, and sees the end by that"
    assert worker.ending.exit_code == 0


@pytest.mark.parametrize("fault", ["not written", "failed"])
def test_outcomes_that_were_not_written_are_no_success(start: Any, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    worker = start()
    worker.rounds.thread = SimpleNamespace(ident=1)
    monkeypatch.setattr(worker.supervisor, "_say_goodbye", lambda: fault != "not written")
    worker.rounds.failed = ZeroDivisionError("whatever it is") if fault == "failed" else None
    worker.supervisor._end()
    assert worker.ending.exit_code == 1
