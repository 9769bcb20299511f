"""What becomes of the jobs of a child that is dead: of the one that it ran, and of those that waited in it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import signals
from dbqueue.jobs import ClaimedJob, Failed, Outcome, Released
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.dispatch import Dispatcher
from dbqueue.worker.supervising.losses import Losses, tell_failure
from tests.stores import claimed_job

MAX_LOSSES = 2
Hold = Callable[..., Child]


class Worker:
    """What has a child that dies, and what is written of its jobs."""

    def __init__(self) -> None:
        self.dispatcher = Dispatcher(1, shared=False)
        self.ended: list[tuple[Outcome, ClaimedJob]] = []
        config = WorkerConfig("w@test", ("celery",), "prefork", 1, max_losses=MAX_LOSSES)
        self.losses = Losses(config, self.dispatcher, lambda outcome, job: self.ended.append((outcome, job)))


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Makes a child that holds these jobs, of which it runs as many as it has slots: the first ones."""
    ends: list[socket.socket] = []

    def hold(*jobs: ClaimedJob, slots: int = 1) -> Child:
        ends.extend(socket.socketpair())
        child = Child(1, slots, ends[-1])
        child.held = {job.id: job for job in jobs}
        return child

    yield hold
    for end in ends:
        end.close()


@pytest.mark.parametrize("losses", [0, MAX_LOSSES - 1])
def test_a_lost_run_counts_and_the_job_runs_again(worker: Worker, hold: Hold, losses: int) -> None:
    job = claimed_job(losses=losses)
    worker.losses.settle(hold(job), "was killed", own=False)
    assert worker.ended == [(Released(job.id, job.lease, job.ready_at, lost=True), job)]


@pytest.mark.parametrize("fields", [{"losses": MAX_LOSSES}, {"redeliver": False}])
def test_what_may_not_run_again_ends_and_says_why(worker: Worker, hold: Hold, fields: dict[str, Any]) -> None:
    job = claimed_job(**fields)
    worker.losses.settle(hold(job), "was killed", own=False)
    ((outcome, told),) = worker.ended
    assert isinstance(outcome, Failed)
    assert (outcome.job_id, outcome.lease, told) == (job.id, job.lease, job)
    assert json.loads(outcome.error)["exc_message"] == ["Worker was killed while it ran task pack[job]"]


def test_a_run_that_its_worker_has_ended_does_not_count(worker: Worker, hold: Hold) -> None:
    again, no_more = claimed_job(losses=MAX_LOSSES), claimed_job(redeliver=False)
    worker.losses.settle(hold(again), "was killed", own=True)
    assert worker.ended.pop() == (Released(again.id, again.lease, again.ready_at, ended=True), again)
    worker.losses.settle(hold(no_more), "was killed", own=True)
    assert isinstance(worker.ended[0][0], Failed)


@pytest.mark.parametrize("own", [True, False])
def test_of_several_that_it_ran_each_has_an_outcome_of_its_own(worker: Worker, hold: Hold, own: bool) -> None:
    first, second, waiting = (claimed_job(each) for each in ("first", "second", "waiting"))
    worker.losses.settle(hold(first, second, waiting, slots=2), "was killed", own=own)
    assert [(outcome.job_id, job) for outcome, job in worker.ended] == [("first", first), ("second", second)]
    assert list(worker.dispatcher.waiting) == [waiting]


@pytest.mark.parametrize("own", [True, False])
def test_what_had_not_begun_is_first_in_line_again(worker: Worker, hold: Hold, own: bool) -> None:
    runs, *waiting, last = (claimed_job(each) for each in ("runs", "a", "b", "c"))
    worker.dispatcher.add([last], ())
    child = hold(runs, *waiting)
    worker.losses.settle(child, "was killed", own=own)
    assert [outcome.job_id for outcome, _ in worker.ended] == ["runs"]
    assert list(worker.dispatcher.waiting) == [*waiting, last]
    assert not child.held


@pytest.mark.parametrize("known", [True, False])
def test_the_sender_of_a_failure_is_its_task_where_there_is_one(worker: Worker, hold: Hold, known: bool) -> None:
    task, told = SimpleNamespace(name="pack"), list[Any]()

    def tell(sender: Any, **told_with: Any) -> None:
        told.append((sender, told_with["task_id"], str(told_with["exception"])))

    worker.losses.settle(hold(claimed_job(redeliver=False)), "was killed", own=False)
    ((outcome, job),) = worker.ended
    assert isinstance(outcome, Failed)
    signals.task_failure.connect(tell)
    try:
        tell_failure(SimpleNamespace(tasks={"pack": task} if known else {}), job, outcome)
    finally:
        signals.task_failure.disconnect(tell)
    assert told == [(task if known else "pack", "job", "Worker was killed while it ran task pack[job]")]
