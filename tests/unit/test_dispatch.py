"""Which job goes to which child, by counting alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from dbqueue.jobs import ClaimedJob
from dbqueue.worker.supervising import dispatch
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.dispatch import AHEAD_SECONDS, BUFFER_SECONDS, MAX_AHEAD, SLOW_SECONDS, Dispatcher
from tests.clocks import set_clock
from tests.stores import claimed_job


def job(number: int, *, task: str = "quick", losses: int = 0) -> ClaimedJob:
    return claimed_job(f"job-{number}", task=task, losses=losses)


class Nest:
    """Children with real sockets, ready for work."""

    def __init__(self) -> None:
        self._ends: list[socket.socket] = []

    def child(self, slots: int = 1, *, alone: bool = False) -> Child:
        ours, theirs = socket.socketpair()
        self._ends += [ours, theirs]
        child = Child(len(self._ends), slots, ours, alone=alone)
        child.ready = True
        return child

    def close(self) -> None:
        for end in self._ends:
            end.close()


@pytest.fixture
def nest() -> Iterator[Nest]:
    nest = Nest()
    yield nest
    nest.close()


def given(dispatcher: Dispatcher, *children: Child) -> dict[Child, list[str]]:
    assigned = dict(dispatcher.assign(children))
    for child, jobs in assigned.items():
        child.send_jobs(jobs)
    return {child: [each.id for each in jobs] for child, jobs in assigned.items()}


def test_free_slots_are_filled_in_the_order_of_the_claim(nest: Nest) -> None:
    dispatcher, first, second = Dispatcher(2), nest.child(), nest.child()
    dispatcher.add(job(number) for number in range(3))
    assert given(dispatcher, first, second) == {first: ["job-0"], second: ["job-1"]}
    assert [each.id for each in dispatcher.waiting] == ["job-2"]
    assert not dispatcher.crowded, "nobody leaves"


@pytest.mark.parametrize("why", ["not ready", "stopping", "recalling", "killed", "closed"])
def test_who_cannot_run_a_job_gets_none(nest: Nest, why: str) -> None:
    """One that is to give back what it has not begun would be sent the same again; one that is ended takes it along."""
    dispatcher, child, able = Dispatcher(2), nest.child(), nest.child()
    dispatcher.measured("quick", AHEAD_SECONDS / 10)
    if why == "not ready":
        child.ready = False
    else:
        setattr(child, why, True)
    dispatcher.add(job(number) for number in range(3))
    assert given(dispatcher, child, able) == {able: ["job-0", "job-1", "job-2"]}


def test_a_long_job_is_not_sent_ahead_of_its_turn(nest: Nest) -> None:
    """However little the child has to do before: what comes after it would wait for its end."""
    dispatcher, child = Dispatcher(1), nest.child()
    dispatcher.measured("quick", AHEAD_SECONDS / 100)
    dispatcher.measured("long", 2 * AHEAD_SECONDS)
    dispatcher.add([job(0), job(1), job(2, task="long"), job(3)])
    assert given(dispatcher, child) == {child: ["job-0", "job-1"]}


def test_no_child_is_sent_more_ahead_than_it_may_run(nest: Nest) -> None:
    dispatcher, child = Dispatcher(1), nest.child()
    dispatcher.measured("quick", AHEAD_SECONDS / 10)
    dispatcher.add(job(number) for number in range(9))
    child.left = 3
    assert given(dispatcher, child) == {child: ["job-0", "job-1", "job-2"]}
    assert given(dispatcher, child) == {}


def test_what_waits_is_taken_once() -> None:
    dispatcher = Dispatcher(4, shared=True)
    jobs = [job(0), job(1, losses=1), job(2)]
    dispatcher.add(jobs, going_on={"job-0"})
    assert dispatcher.take_waiting() == jobs
    assert (dispatcher.take_waiting(), len(dispatcher)) == ([], 0)


def test_a_job_of_unknown_length_is_not_sent_ahead(nest: Nest) -> None:
    dispatcher, child = Dispatcher(1), nest.child()
    dispatcher.add([job(0, task="new"), job(1, task="new")])
    assert given(dispatcher, child) == {child: ["job-0"]}
    dispatcher, child = Dispatcher(1), nest.child()
    dispatcher.measured("quick", AHEAD_SECONDS / 10)
    dispatcher.add([job(0), job(1, task="new")])
    assert given(dispatcher, child) == {child: ["job-0"]}, "nor where the child will soon be free"


def test_short_jobs_are_sent_ahead_for_as_long_as_a_child_may_be_busy(nest: Nest) -> None:
    dispatcher, child = Dispatcher(1), nest.child()
    dispatcher.measured("quick", AHEAD_SECONDS / 10)
    dispatcher.add(job(number) for number in range(50))
    assert len(given(dispatcher, child)[child]) in (9, 10)  # sums of floats


def test_a_job_that_was_lost_is_not_sent_ahead(nest: Nest) -> None:
    dispatcher, child = Dispatcher(1), nest.child()
    dispatcher.measured("quick", 0.0001)
    dispatcher.add([job(0), job(1, losses=1), job(2)])
    assert given(dispatcher, child) == {child: ["job-0"]}


def test_where_a_process_is_shared_a_lost_job_waits_for_one_of_its_own(nest: Nest) -> None:
    dispatcher, shared = Dispatcher(4, shared=True), nest.child(slots=4)
    dispatcher.add([job(0, losses=1), job(1)])
    assert given(dispatcher, shared) == {shared: ["job-1"]}
    alone = nest.child(alone=True)
    assert given(dispatcher, shared, alone) == {alone: ["job-0"]}
    assert len(dispatcher) == 0


def test_a_process_of_one_job_that_leaves_takes_no_slot_from_the_others(nest: Nest) -> None:
    dispatcher, shared, alone = Dispatcher(2, shared=True), nest.child(slots=2), nest.child(alone=True)
    dispatcher.add([job(0, losses=1)])
    assert given(dispatcher, shared, alone) == {alone: ["job-0"]}
    alone.stop()
    dispatcher.add([job(1), job(2)])
    assert given(dispatcher, shared, alone) == {shared: ["job-1", "job-2"]}


def test_who_has_least_to_do_is_served_first(nest: Nest) -> None:
    dispatcher, first, second = Dispatcher(4), nest.child(slots=2), nest.child(slots=2)
    first.send_jobs([job(0)])
    dispatcher.add([job(1)])
    assert given(dispatcher, first, second) == {second: ["job-1"]}


def test_what_goes_to_a_free_slot_is_progress(nest: Nest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long jobs answer seldom: what waits behind them is not for others as long as some of it begins."""
    clock = set_clock(monkeypatch, dispatch)
    dispatcher, child = Dispatcher(1), nest.child()
    clock[0] += 60.0
    given(dispatcher, child)
    assert dispatcher.progress_at == clock[0] - 60.0
    dispatcher.add([job(0)])
    given(dispatcher, child)
    assert dispatcher.progress_at == clock[0]


def test_a_process_for_lost_jobs_gets_no_others(nest: Nest) -> None:
    dispatcher, alone = Dispatcher(4, shared=True), nest.child(alone=True)
    dispatcher.measured("quick", 0.0001)
    dispatcher.add([job(0)])
    assert given(dispatcher, alone) == {}


def test_beside_a_process_that_leaves_no_more_run_than_the_pool_has_slots(nest: Nest) -> None:
    dispatcher, leaving, another = Dispatcher(3, shared=True), nest.child(slots=3), nest.child(slots=3)
    dispatcher.measured("quick", 0.0001)
    dispatcher.add([job(0), job(1)])
    given(dispatcher, leaving)
    leaving.write_off(job(1))
    leaving.stop()
    dispatcher.add([job(2), job(3)])
    assert given(dispatcher, leaving, another) == {another: ["job-2"]}
    crowded = [dispatcher.crowded]
    assert given(dispatcher, leaving, another) == {}
    crowded.append(dispatcher.crowded)  # what waits may be better off elsewhere
    leaving.drop_answer("job-1")
    assert given(dispatcher, leaving, another) == {another: ["job-3"]}
    assert [*crowded, dispatcher.crowded] == [False, True, False]


def test_nor_fewer_where_another_runs_one_job_alone(nest: Nest) -> None:
    dispatcher, leaving, another = Dispatcher(2, shared=True), nest.child(slots=2), nest.child(slots=2)
    alone = nest.child(alone=True)
    leaving.send_jobs([job(0)])
    alone.send_jobs([job(1, losses=1)])
    leaving.stop()
    dispatcher.add([job(2)])
    assert given(dispatcher, leaving, another, alone) == {another: ["job-2"]}


def test_a_job_whose_earlier_run_goes_on_waits_for_its_end(nest: Nest) -> None:
    dispatcher, child = Dispatcher(2), nest.child(slots=2)
    dispatcher.add([job(0), job(1)], going_on={"job-0"})
    assert len(dispatcher) == 1, "it takes no slot"
    assert given(dispatcher, child) == {child: ["job-1"]}
    assert dispatcher.let_behind({"job-0"}) == []
    assert given(dispatcher, child) == {}
    assert dispatcher.let_behind(set()) == []
    assert given(dispatcher, child) == {child: ["job-0"]}


def test_nor_does_it_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    dispatcher = Dispatcher(2)
    dispatcher.add([job(0)], going_on={"job-0"})
    monkeypatch.setattr("dbqueue.worker.supervising.dispatch.BEHIND_SECONDS", -1.0)
    assert dispatcher.let_behind({"job-0"}) == [job(0)]
    assert dispatcher.take_waiting() == []


def test_what_is_put_back_is_first_in_line_again() -> None:
    dispatcher = Dispatcher(1, shared=True)
    dispatcher.add([job(0)])
    dispatcher.put_back([job(1), job(2), job(3, losses=1)])
    assert [each.id for each in dispatcher.take_waiting()] == ["job-3", "job-1", "job-2", "job-0"]
    assert len(dispatcher) == 0


def test_jobs_are_taken_out_wherever_they_wait() -> None:
    dispatcher = Dispatcher(1, shared=True)
    dispatcher.add([job(0), job(1, losses=1), job(2), job(3), job(4), job(5)], going_on={"job-3", "job-4", "job-5"})
    taken = dispatcher.take(["job-0", "job-1", "job-3", "elsewhere"])
    assert {each.id for each in taken} == {"job-0", "job-1", "job-3"}
    dispatcher.drop({("job-2", "another"), ("job-2", "lease"), ("job-4", "lease"), ("job-5", "another")})
    assert dispatcher.take_waiting() == [job(5)]
    assert len(dispatcher) == 0


def test_the_buffer_is_a_span_of_work_and_none_for_slow_or_unknown_jobs() -> None:
    dispatcher = Dispatcher(2)
    now = dispatcher.progress_at
    assert dispatcher.wanted(0, now) == 2
    dispatcher.measured("quick", BUFFER_SECONDS / 10)
    assert dispatcher.wanted(2, now) == 20
    assert dispatcher.wanted(2, now + 1.0) == 0, "nothing has ended for long"
    assert dispatcher.wanted(0, now + 1.0) == 22, "nothing was there to end"
    dispatcher = Dispatcher(2)
    dispatcher.measured("slow", 1.0)
    assert dispatcher.wanted(0, now) == 2
    dispatcher = Dispatcher(100)
    dispatcher.measured("slow", 1.5 * SLOW_SECONDS)
    assert dispatcher.wanted(0, now) == 100, "nor for many slots together"
    for seconds in (1e-9, 0.0):
        dispatcher = Dispatcher(2)
        dispatcher.measured("tiny", seconds)
        assert dispatcher.wanted(0, now) == 2 + 2 * 2 * MAX_AHEAD


def test_the_buffer_shrinks_where_jobs_had_to_be_taken_back_and_grows_again_with_those_that_end() -> None:
    dispatcher = Dispatcher(1)
    dispatcher.measured("tiny", 1e-9)
    now = dispatcher.progress_at
    whole = dispatcher.wanted(0, now)
    dispatcher.stalled()
    assert dispatcher.wanted(0, now) == pytest.approx(whole / 2, abs=2)
    for _ in range(20):
        dispatcher.stalled()
    assert 1 < dispatcher.wanted(0, now) < whole / 5, "never none: it could not grow again"
    for _ in range(10_000):
        dispatcher.measured("tiny", 1e-9)
    assert dispatcher.wanted(0, now) == whole


def test_a_child_gets_fewer_jobs_ahead_where_jobs_had_to_be_taken_back(nest: Nest) -> None:
    dispatcher, child = Dispatcher(1), nest.child()
    dispatcher.measured("quick", 1e-9)
    dispatcher.stalled()
    dispatcher.add(job(number) for number in range(MAX_AHEAD))
    assert len(given(dispatcher, child)[child]) == 1 + MAX_AHEAD // 2


def test_no_jobs_are_no_message() -> None:
    """Of a batch none may be left, where none can be announced."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        Child(1, 1, ours).send_jobs([])
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


def test_what_is_void_is_dropped_under_its_lease_alone() -> None:
    """Also among those that are to run alone. A job may have been claimed anew meanwhile."""
    dispatcher = Dispatcher(2, shared=True)
    again = job(1)._replace(lease="another")
    dispatcher.add([job(0), again, job(2, losses=1), job(3, losses=1)])
    dispatcher.drop({(f"job-{number}", "lease") for number in range(3)})
    assert (list(dispatcher.waiting), list(dispatcher.suspects)) == ([again], [job(3, losses=1)])
