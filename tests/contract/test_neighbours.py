"""Which workers were on the same host, for the same queues, before another."""

from __future__ import annotations

from collections.abc import Callable

from dbqueue.store.base import Store
from dbqueue.store.records import MOST_PIDS, WorkersBefore
from tests.stores import TestWorker, run_sql

NewWorker = Callable[..., TestWorker]


def test_the_slots_of_those_that_registered_before(store: Store, new_worker: NewWorker) -> None:
    """On SQLite, where nobody is woken by the database, none are told."""
    workers = [new_worker() for _ in range(3)]
    for number, worker in enumerate(workers):
        change(store, worker, f"concurrency = {10**number}, started_at = '2020-01-0{number + 1} 00:00:00.000'")
    told = [worker.session.workers_before(worker.id).slots for worker in workers]
    assert told == ([0, 1, 11] if store.dialect == "postgresql" else [0, 0, 0])


def test_of_two_that_registered_in_the_same_moment_one_was_the_first(store: Store, new_worker: NewWorker) -> None:
    workers = [new_worker() for _ in range(2)]
    for worker in workers:
        change(store, worker, "started_at = '2020-01-01 00:00:00.000'")
    told = sorted(worker.session.workers_before(worker.id).slots for worker in workers)
    assert told == ([0, 1] if store.dialect == "postgresql" else [0, 0])


def test_the_processes_of_the_first_ones_are_told(store: Store, new_worker: NewWorker) -> None:
    workers = [new_worker() for _ in range(MOST_PIDS + 2)]
    for number, worker in enumerate(reversed(workers)):
        change(store, worker, f"pid = {number}, started_at = '2020-01-01 00:00:{number:02}.000'")
    told = workers[0].session.workers_before(workers[0].id).pids
    assert told == (tuple(range(MOST_PIDS)) if store.dialect == "postgresql" else ())


def test_others_do_not_count(store: Store, new_worker: NewWorker) -> None:
    """Those of another host or for other queues, who have stopped, and who are dead."""
    other_host, stopped, dead, silent = (new_worker() for _ in range(4))
    new_worker(queues=("mail",))
    new_worker(queues=("celery", "mail"))
    change(store, other_host, "hostname = 'elsewhere'")
    stopped.session.close_worker(stopped.id)
    change(store, dead, "heartbeat_at = '2020-01-01 00:00:00.000'")
    change(store, silent, "heartbeat_at = '2020-01-01 00:00:00.000', lease_seconds = 1e20")  # lives, by its row
    last = new_worker()
    assert last.session.workers_before(last.id).slots == (1 if store.dialect == "postgresql" else 0)


def test_one_that_is_not_registered_has_no_neighbours(store: Store, new_worker: NewWorker) -> None:
    new_worker()
    assert new_worker().session.workers_before("nobody") == WorkersBefore()


def change(store: Store, worker: TestWorker, columns: str) -> None:
    run_sql(store, f"UPDATE dbqueue_workers SET {columns} WHERE id = :id", id=worker.id)
