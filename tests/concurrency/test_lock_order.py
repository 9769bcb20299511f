"""Batches that share rows lock them in one order: one that waits for the first of them holds none of the others.

Were it not so, two of them could wait for each other: a deadlock, which the server ends after a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from dbqueue.jobs import Failed, NewJob, Outcome, Retried, Succeeded
from dbqueue.store import changes, revoking
from dbqueue.store.base import Store
from dbqueue.store.postgres.copying import FEWEST
from dbqueue.store.transactions.joining import enqueue_in
from dbqueue.workflows import Edge, Workflow
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, new_job, opened
from tests.waiting import wait_until

MAKE: dict[str, Callable[[str], NewJob]] = {
    "id": new_job,
    "unique key": lambda name: new_job(unique_key=name),
}
END: dict[str, Callable[[str, str], Outcome]] = {
    "ends": lambda job_id, lease: Succeeded(job_id, lease, "1", 0.0),
    "ends with bytes": lambda job_id, lease: Succeeded(job_id, lease, "1", 0.0, b"1"),
    "retries": lambda job_id, lease: Retried(job_id, lease, "{}", None, 0.0),
    "fails": lambda job_id, lease: Failed(job_id, lease, "{}", None, 0.0),
}
CALL_OFF: dict[str, Callable[[Store, list[str]], object]] = {
    "revoke": revoking.revoke,
    "cancel": changes.cancel,
    "purge": lambda store, _: changes.purge(store, queues=["off"]),
}
Connection = psycopg.Connection[Any]


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


@pytest.fixture
def worker(store: Store) -> Iterator[TestWorker]:
    worker = TestWorker(store)
    yield worker
    worker.close()


@pytest.fixture
def rival(postgres_url: str) -> Iterator[Connection]:
    """It locks the first row."""
    with psycopg.connect(libpq_url(postgres_url)) as rival:
        yield rival


@pytest.fixture
def other(postgres_url: str) -> Iterator[Connection]:
    """It finds the last one free."""
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as other:
        yield other


def lock(connection: Connection, job_id: str) -> None:
    connection.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE NOWAIT", [job_id])


@contextmanager
def waiting_for(
    rival: Connection, other: Connection, work: Callable[..., object], *arguments: object
) -> Iterator[None]:
    """The work waits for what the rival has locked, in this block, and ends after it."""
    query = b"SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    wait_until(lambda: other.execute(query).fetchone() is not None, what="the work to wait")
    yield
    rival.rollback()
    thread.join(60)
    assert not thread.is_alive()


def free_of(rival: Connection, work: Callable[..., object], *arguments: object) -> None:
    """Do the work, which waits for nothing that the rival has locked."""
    thread = threading.Thread(target=work, args=arguments)
    thread.start()
    try:
        wait_until(lambda: not thread.is_alive(), what="the work, which is not to wait for the rival")
    finally:
        rival.rollback()
        thread.join(60)


@pytest.mark.parametrize(
    ("what", "number"), [("id", 2), ("id", FEWEST), ("unique key", 2)], ids=["ids", "ids by COPY", "unique keys"]
)
def test_what_comes_last_is_free_while_the_first_is_waited_for(
    store: Store, rival: Connection, other: Connection, what: str, number: int
) -> None:
    make, names = MAKE[what], [f"{n:03}" for n in range(number)]
    enqueue_in(store, rival, [make(names[0])])
    with waiting_for(rival, other, store.enqueue, [make(name) for name in reversed(names)]):
        other.execute("SET lock_timeout = '5s'")
        enqueue_in(store, other, [make(names[-1])])
    assert count(store) == number


@pytest.mark.parametrize("kind", ["ends", "ends with bytes", "retries"])
def test_outcomes_of_jobs_that_others_have_locked(
    store: Store, worker: TestWorker, rival: Connection, other: Connection, kind: str
) -> None:
    first, last = enqueued(store, "a"), enqueued(store, "b")
    outcomes = [END[kind](job.id, job.lease) for job in reversed(worker.claim())]
    lock(rival, first)
    with waiting_for(rival, other, worker.settle, *outcomes):
        lock(other, last)
    assert count(store, "status = 'STARTED'") == 0


@pytest.mark.parametrize("kind", ["ends", "ends with bytes", "retries"])
def test_a_round_that_waits_for_what_ran_beside_a_header_does_not_hold_the_body(
    store: Store, worker: TestWorker, rival: Connection, other: Connection, kind: str
) -> None:
    store.enqueue_workflow(Workflow.of([new_job("header"), new_job("body")], [Edge("header", "body")]))
    enqueued(store, "beside")
    leases = {job.id: job.lease for job in worker.claim()}
    lock(rival, "beside")
    outcomes = END["ends"]("header", leases["header"]), END[kind]("beside", leases["beside"])
    with waiting_for(rival, other, worker.settle, *outcomes):
        lock(other, "body")
    assert count(store, "status = 'STARTED'") == 0


@pytest.mark.parametrize("kind", ["ends", "fails"])
def test_bodies_of_headers_that_end_in_one_round(
    store: Store, worker: TestWorker, rival: Connection, other: Connection, kind: str
) -> None:
    edges = [Edge(f"header-{n}", f"body-{9 - n}") for n in range(1, 9)]
    store.enqueue_workflow(Workflow.of([new_job(name) for edge in edges for name in edge[:2]], edges))
    outcomes = [END[kind](job.id, job.lease) for job in worker.claim()]
    lock(rival, "body-1")
    with waiting_for(rival, other, worker.settle, *outcomes):
        for n in range(2, 9):
            lock(other, f"body-{n}")
    assert count(store, "blocked_reason IS NOT NULL") == 0


@pytest.mark.parametrize("way", CALL_OFF)
def test_who_calls_jobs_off_locks_what_hangs_below_together_with_them(
    store: Store, worker: TestWorker, rival: Connection, other: Connection, way: str
) -> None:
    """As a round does, which moves both bodies."""
    edges = [Edge("first", "body-1"), Edge("second", "body-2")]
    off = ["first", "body-2"]
    jobs = [new_job(name, queue="off" if name in off else "celery") for edge in edges for name in edge[:2]]
    store.enqueue_workflow(Workflow.of(jobs, edges))
    lock(rival, "body-1")
    with waiting_for(rival, other, CALL_OFF[way], store, off):
        lock(other, "body-2")
    assert count(store, "status = 'REVOKED'") == (1 if way == "purge" else 3)
    assert count(store) == (2 if way == "purge" else 4)


def test_a_round_does_not_wait_for_an_errback_that_runs(store: Store, worker: TestWorker, rival: Connection) -> None:
    """It has been told of another failure, and its own transaction may last."""
    edges = [Edge("a", "errback", "error"), Edge("b", "errback", "error")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "errback")], edges))
    first, second = worker.claim()
    worker.settle(END["fails"](first.id, first.lease))
    assert worker.claim_one().id == "errback"
    lock(rival, "errback")
    free_of(rival, worker.settle, END["ends"](second.id, second.lease))
    assert count(store, "status = 'SUCCESS'") == 1


def test_a_job_that_runs_is_not_waited_for_to_be_forgotten(store: Store, worker: TestWorker, rival: Connection) -> None:
    store.enqueue_workflow(Workflow.of([new_job("a"), new_job("b")], [Edge("a", "b")]))
    worker.claim_one()
    lock(rival, "a")
    free_of(rival, store.forget, "a")
    assert count(store) == 2


def test_a_revoke_locks_what_runs_before_what_waits(
    store: Store, worker: TestWorker, rival: Connection, other: Connection
) -> None:
    """As a round does, which ends jobs and then moves those that wait for them."""
    running = enqueued(store, "b")
    worker.claim_one()
    waiting = enqueued(store, "a")
    found: list[revoking.Revoked] = []
    lock(rival, running)
    with waiting_for(rival, other, lambda: found.append(revoking.revoke(store, [waiting, running]))):
        lock(other, waiting)
    assert [(each.ended, each.running) for each in found] == [({waiting: "shop.pack"}, frozenset([running]))]


def test_to_call_off_a_workflow_locks_what_runs_before_what_waits(
    store: Store, worker: TestWorker, rival: Connection, other: Connection
) -> None:
    edges = [Edge("b", "a")]
    store.enqueue_workflow(Workflow.of([new_job("b"), new_job("a")], edges))
    worker.claim_one()
    found: list[revoking.Revoked] = []
    lock(rival, "b")
    with waiting_for(rival, other, lambda: found.append(changes.cancel_workflow(store, "b"))):
        lock(other, "a")
    assert [(each.ended, each.running) for each in found] == [({"a": "shop.pack"}, frozenset("b"))]
