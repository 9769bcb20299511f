"""What people are shown: the queues' counts, what is scheduled, who lives, and whose jobs nobody will end."""

from __future__ import annotations

from collections.abc import Callable

from dbqueue.jobs import Succeeded
from dbqueue.store import queries
from dbqueue.store.base import Store
from tests.stores import TestWorker, enqueued, held, moment, row, run_sql

NewWorker = Callable[..., TestWorker]


def test_the_counts_of_each_queue(store: Store, worker: TestWorker) -> None:
    for _ in range(2):
        enqueued(store)
    running, ended = worker.claim()
    worker.settle(Succeeded(ended.id, ended.lease, "1", 0.0))
    first = enqueued(store)
    for _ in range(2):
        enqueued(store)
    enqueued(store, delay_seconds=3600.0)
    held(store, "key")
    enqueued(store, queue="a", delay_seconds=3600.0)
    since = moment(row(store, first)["ready_at"])
    assert queries.queue_counts(store) == [
        queries.QueueCounts("a", waiting=0, scheduled=1, blocked=0, running=0, oldest_ready_at=None),
        queries.QueueCounts("celery", waiting=3, scheduled=1, blocked=1, running=1, oldest_ready_at=since),
    ]
    assert queries.statuses(store, [running.id, ended.id, first, "absent"]) == {
        running.id: "STARTED",
        ended.id: "SUCCESS",
        first: "PENDING",
    }


def test_what_is_scheduled(store: Store) -> None:
    later, sooner = (enqueued(store, delay_seconds=seconds) for seconds in (3600.0, 1800.0))
    enqueued(store)
    enqueued(store, queue="other", delay_seconds=60.0)
    assert [job.id for job in queries.scheduled_jobs(store, ["celery"])] == [sooner, later]


def test_the_newest_jobs_that_fit(store: Store, worker: TestWorker) -> None:
    ids = [enqueued(store, f"job-{number}", task=f"shop.{number % 2}") for number in range(4)]
    worker.claim(1)
    enqueued(store, queue="other")
    found = queries.find_jobs(store, queues=["celery"], statuses=["PENDING"])
    assert [job.id for job in found] == [*reversed(ids[1:])]
    assert [job.id for job in queries.find_jobs(store, tasks=["shop.1"], limit=1)] == [ids[3]]


def test_workers_and_the_jobs_of_those_that_have_stopped(store: Store, new_worker: NewWorker) -> None:
    alive, dead, stopped = (new_worker(lease_seconds=seconds) for seconds in (3600.0, 5.0, 3600.0))
    for worker in (alive, dead, stopped):
        enqueued(store, worker.id)
        worker.claim_one()
    old = "UPDATE dbqueue_workers SET heartbeat_at = '2020-01-01 00:00:00.000' WHERE id = :id"
    run_sql(store, old, id=dead.id)
    stopped.session.close_worker(stopped.id)
    assert {each.id: each.alive for each in queries.open_workers(store)} == {alive.id: True, dead.id: False}
    assert queries.orphans(store) == [stopped.id]
