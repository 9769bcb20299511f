"""The worker's loop and its children: what becomes of each that leaves, dies, hangs up, or is gone for another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dbqueue import signals
from dbqueue.jobs import Failed
from dbqueue.pools import wire
from dbqueue.pools.nursery import Died
from dbqueue.worker.supervising.shutdown import State
from tests.stores import claimed_job
from tests.unit.turns import PID, A, B, C, done, released, starting


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, killed: list[int]) -> Iterator[Any]:
    with starting(monkeypatch) as start:
        yield start


def test_what_a_child_gives_back_is_first_in_line_again(start: Any) -> None:
    worker = start(max_tasks_per_child=5)
    worker.child.send_jobs([A, B, C])
    worker.child.recalling = True
    worker.dispatcher.add([claimed_job("later")])
    worker.sent()
    worker.says(wire.RECALLED, [B.id, C.id, "of another time"])
    assert not worker.child.recalling
    assert [job.id for job in worker.dispatcher.waiting] == ["b", "c", "later"]
    assert worker.child.left == 4, "what it has not run does not count"


def test_a_child_is_asked_once_for_what_waits_in_it(start: Any) -> None:
    """A second answer would take back what it was sent after the first."""
    worker = start()
    for _ in range(2):
        worker.crew.recall(worker.child)
    assert worker.sent() == [wire.RECALL]
    worker.says(wire.RECALLED, [])
    worker.crew.recall(worker.child)
    assert worker.sent() == [wire.RECALL]


def test_a_child_leaves_with_its_last_job_and_not_before(start: Any) -> None:
    worker = start(max_tasks_per_child=2)
    worker.claims(A)
    worker.answers(done(A))
    assert worker.sent() == [wire.RUN]
    worker.claims(B)
    worker.answers(done(B))
    assert worker.sent() == [wire.RUN, wire.RECALL, wire.STOP]


@pytest.mark.parametrize("state", [State.RUNNING, State.DRAINING])
def test_a_child_that_has_grown_too_large_is_replaced_while_the_worker_runs(start: Any, state: State) -> None:
    worker = start()
    worker.ending.state = state
    worker.says(wire.RETIRE, "has grown")
    assert worker.child.stopping == (state is State.RUNNING)


def test_what_a_dead_child_has_said_is_heard_before_its_jobs_are_seen_to(start: Any) -> None:
    """An outcome that was written the moment that it was known is not run again."""
    worker = start()
    worker.claims(A)
    child = worker.child
    child.send_jobs([B, C])
    worker.nursery.ends[1].send(wire.done_frame(done(A)))
    worker.nursery.dies(child)
    worker.supervisor._bury(worker.crew.nursery_events())  # which may come before the socket's turn
    assert worker.written() == [done(A), released(B, lost=True)]
    assert [job.id for job in worker.dispatcher.waiting] == ["c"], "that one has not begun"


def test_a_failure_is_told_here_where_no_process_is_left_that_could(start: Any) -> None:
    """The process that ran the job has sent the signal of any other."""
    told: list[str] = []

    def tell(sender: Any, task_id: str, **_: Any) -> None:
        told.append(task_id)

    worker = start(concurrency=2)
    worker.claims(A, claimed_job("dies", redeliver=False))
    signals.task_failure.connect(tell)
    try:
        worker.answers(Failed(A.id, A.lease, "{}", None, 0.0))
        worker.nursery.dies(next(child for child in worker.crew if child.held))
        worker.turn()
    finally:
        signals.task_failure.disconnect(tell)
    assert sorted(outcome.job_id for outcome in worker.written()) == ["a", "dies"]
    assert told == ["dies"]


@pytest.mark.parametrize("state", [State.RUNNING, State.FENCED, State.REGISTERING, State.DRAINING, State.SOFT])
def test_a_dead_child_is_replaced_unless_the_worker_ends(start: Any, state: State) -> None:
    worker = start()
    child = worker.child
    child.answered = 1
    worker.ending.state = state
    worker.nursery.dies(child)
    worker.supervisor._bury(worker.crew.nursery_events())
    assert list(worker.crew) == []
    worker.crew.bear_missing()
    assert bool(list(worker.crew)) == worker.ending.claims


def test_the_death_of_an_unknown_process_hides_no_other(start: Any) -> None:
    worker = start()
    worker.supervisor._bury([Died(PID + 1000, 9)])
    assert len(list(worker.crew)) == 1
    worker.supervisor._bury([Died(PID + 1000, 9), Died(worker.child.pid, 9)])
    assert len(list(worker.crew)) == 0


def test_a_child_whose_death_is_heard_of_before_its_socket_is_read_there_no_more(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are ready in one turn, in whatever order."""
    worker = start()
    worker.claims(A)
    keys = [(worker.crew.selector.get_key(each), 1) for each in (worker.nursery.socket, worker.child.socket)]
    worker.nursery.ends[1].send(wire.done_frame(done(A)))
    worker.nursery.dies(worker.child)
    monkeypatch.setattr(worker.crew.selector, "select", lambda _: keys)
    worker.turn()
    assert worker.written() == [done(A)]


def test_another_child_is_there_for_the_next_job(start: Any) -> None:
    worker = start()
    worker.child.answered = 1
    worker.nursery.dies(worker.child)
    worker.turn()
    worker.child.ready = True
    worker.claims(A)
    assert list(worker.child.held) == ["a"]


def test_a_job_that_was_lost_runs_alone_where_others_would_be_lost_with_it(start: Any) -> None:
    worker = start(pool="threads", concurrency=4)
    worker.claims(A._replace(losses=1), B)
    worker.turn()
    shared, alone = worker.crew
    assert (shared.alone, alone.alone) == (False, True)
    assert list(shared.held) == ["b"]
    alone.ready = True
    worker.turn()
    assert list(alone.held) == ["a"]


def test_what_a_socket_does_not_take_is_sent_when_it_does(start: Any) -> None:
    """A large job must not wait for the child's next word."""
    worker = start()
    large = claimed_job("large", args=f'["{"x" * 3_000_000}"]')
    worker.claims(large)
    taken: list[Any] = []
    for _ in range(1000):
        taken += worker.sent()
        worker.turn()
        if taken:
            break
    assert taken == [wire.RUN]
    assert not worker.child.wants_to_write


def test_a_child_that_others_share_is_replaced_when_a_slot_of_it_is_free_and_no_job_left(start: Any) -> None:
    worker = start(pool="threads", concurrency=2, max_tasks_per_child=2)
    worker.claims(A, B)
    worker.turn()
    first = next(iter(worker.crew))
    assert not first.stopping
    worker.answers(done(A))
    assert first.stopping, "its other run may be a long one"
    one = start(max_tasks_per_child=2)
    one.child.send_jobs([A, B])
    one.answers(done(A))
    assert not one.child.stopping, "its last job would be called back"


def test_a_child_that_hangs_up_is_not_listened_to_any_more(start: Any) -> None:
    """Its death follows; until then its jobs are its own."""
    worker = start()
    worker.claims(A)
    worker.nursery.ends[1].close()
    worker.turn()
    worker.turn()
    assert worker.child.closed
    assert worker.written() == []
    worker.nursery.dies(worker.child)
    worker.turn()
    assert worker.written() == [released(A, lost=True)]
