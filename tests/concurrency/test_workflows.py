"""Many sessions on the same workflows: no deadlock, and what waits is released once."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from dbqueue.jobs import ClaimedJob, Failed, Outcome, Succeeded
from dbqueue.store import changes
from dbqueue.store.base import Store
from dbqueue.store.changing import changing
from dbqueue.store.revoking import _revoke, revoke
from dbqueue.store.steps import run
from dbqueue.store.transactions.joining import JoinedConnection
from dbqueue.store.workflows.changes import add_header
from dbqueue.workflows import APPEND, BODY, ERRBACK, FIRST_ARGUMENT, Edge, Workflow
from tests.concurrency.test_two_connections import at_once
from tests.servers import libpq_url
from tests.stores import TestWorker, count, new_job, opened, row
from tests.waiting import wait_until

ERROR = '{"exc_type": "ValueError", "exc_message": ["bad"], "exc_module": "builtins"}'


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with opened(database_url) as store:
        yield store


def chords(bodies: int, headers: int) -> Workflow:
    """Chords that share all of their headers."""
    edges = [Edge(f"h{n:03}", f"body{m}", place=f"[{n}]") for n in range(headers) for m in range(bodies)]
    ids = [*(f"h{n:03}" for n in range(headers)), *(f"body{m}" for m in range(bodies))]
    return Workflow.of([new_job(each) for each in ids], edges)


def added(name: str) -> Workflow:
    """One more header."""
    return Workflow((new_job(name),), (Edge(name, BODY, place=APPEND),))


def done(job: ClaimedJob) -> Succeeded:
    return Succeeded(job.id, job.lease, "1", 0.0)


def complete(worker: TestWorker, jobs: list[ClaimedJob], portion: int, outcome: Any = done) -> list[str]:
    """Complete the jobs in portions; the bodies that these rounds claimed."""
    bodies: list[str] = []
    for start in range(0, len(jobs), portion):
        outcomes: list[Outcome] = [outcome(job) for job in jobs[start : start + portion]]
        result = worker.settle_and_claim(outcomes)
        assert len(result.settled) == len(outcomes)
        bodies += [job.id for job in result.claimed]
    return bodies


@pytest.mark.parametrize("portion", [1, 7])
@pytest.mark.parametrize("bodies", [1, 3])
def test_headers_completed_at_once(store: Store, bodies: int, portion: int) -> None:
    workers = [TestWorker(store) for _ in range(4)]
    store.enqueue_workflow(chords(bodies, 120))
    shares = [worker.claim(30) for worker in workers]
    for share in shares:
        random.shuffle(share)
    found = at_once(*[partial(complete, w, s, portion) for w, s in zip(workers, shares, strict=True)])
    found.append([job.id for job in workers[0].claim()])
    assert sorted(job_id for each in found for job_id in each) == [f"body{n}" for n in range(bodies)]
    for worker in workers:
        worker.close()


def test_chords_in_opposite_orders(store: Store) -> None:
    """Two rounds that each end a header of the first and of the second chord, in every order of the outcomes."""
    first, second = TestWorker(store), TestWorker(store)
    for n in range(40):
        ids = [f"{n}-{name}" for name in ("a1", "a2", "z1", "z2")]
        edges = [Edge(job_id, f"{n}-{'y' if 'a' in job_id else 'b'}") for job_id in ids]
        bodies = [new_job(f"{n}-y"), new_job(f"{n}-b")]
        store.enqueue_workflow(Workflow.of([*(new_job(each) for each in ids), *bodies], edges))
        jobs = {job.id.partition("-")[2]: job for job in first.claim(2)} | {
            job.id.partition("-")[2]: job for job in second.claim(2)
        }
        mine, theirs = [jobs["a1"], jobs["a2"]], [jobs["z2"], jobs["z1"]]
        results = at_once(partial(first.settle, *map(done, mine)), partial(second.settle, *map(done, theirs)))
        assert [len(result.settled) for result in results] == [2, 2]
        assert {job.id for job in first.claim()} == {f"{n}-y", f"{n}-b"}
    first.close()
    second.close()


def test_a_round_waits_for_another_at_the_body(postgres_url: str) -> None:
    """The loser of two rounds counts from what the winner has left, not from what its snapshot shows."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as other:
        worker = TestWorker(store)
        store.enqueue_workflow(chords(1, 3))
        first, second, _ = worker.claim()
        other.execute("UPDATE dbqueue_jobs SET waits_for = waits_for - 1 WHERE id = 'body0'")
        thread = threading.Thread(target=lambda: worker.settle(done(first), done(second)))
        thread.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%locked%'"
        with psycopg.connect(libpq_url(postgres_url), autocommit=True) as watch:
            wait_until(lambda: watch.execute(waiting).fetchall() == [(1,)])
        other.commit()
        thread.join(30)
        after = row(store, "body0")
        assert (after["waits_for"], after["blocked_reason"]) == (0, None)
        worker.close()


def test_what_is_called_off_beside_the_success_that_drops_it_is_told_of(postgres_url: str) -> None:
    """What waits for an errback goes with it: but not what a revoke has ended meanwhile, nor that one's own errback."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url), autocommit=True) as watch:
        worker = TestWorker(store)
        links = [
            Edge("a", "e", "error", ERRBACK),
            Edge("e", "after", place=FIRST_ARGUMENT),
            Edge("after", "told", "error", ERRBACK),
        ]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "e", "after", "told")], links))
        thread = threading.Thread(target=worker.settle, args=(done(worker.claim_one()),))
        with changing(store) as connection:
            _revoke(store, connection, JoinedConnection(connection).reply, ["after"])
            thread.start()
            waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            wait_until(lambda: watch.execute(waiting).fetchall(), what="the round to wait for the revoke")
        thread.join(60)
        assert sorted(store.fetch(["a", "e", "after", "told"])) == ["a", "after", "told"]
        told = worker.claim_one().inputs
        assert isinstance(told, tuple)
        assert [predecessor for predecessor, *_ in told] == ["after"]
        worker.close()


def test_success_and_failure_of_headers_at_once(store: Store) -> None:
    workers = [TestWorker(store) for _ in range(3)]
    for turn in range(6):
        workflow = chords(2, 30)
        jobs = [new_job(f"{turn}{job.id}") for job in workflow.jobs]
        edges = [Edge(f"{turn}{e.predecessor}", f"{turn}{e.successor}", place=e.place) for e in workflow.edges]
        store.enqueue_workflow(Workflow.of(jobs, edges))
        shares = [worker.claim(10) for worker in workers]

        def outcome(job: ClaimedJob) -> Outcome:
            return Failed(job.id, job.lease, ERROR, None, 0.0) if job.id.endswith("5") else done(job)

        at_once(*[partial(complete, w, s, 4, outcome) for w, s in zip(workers, shares, strict=True)])
        assert count(store, f"id LIKE '{turn}body%' AND status = 'FAILURE'") == 2
        assert count(store, "finished_at IS NULL") == 0
    for worker in workers:
        worker.close()


def test_a_job_that_adds_a_header_is_not_taken_back_meanwhile(postgres_url: str) -> None:
    """Else its next run would add another."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url), autocommit=True) as other:
        worker = TestWorker(store)
        store.enqueue_workflow(chords(1, 2))
        job, _ = worker.claim()
        with changing(store) as connection:
            assert run(add_header(store, added("new"), job.id, job.lease), JoinedConnection(connection).reply)
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE NOWAIT", [job.id])
        worker.close()


def test_headers_that_are_added_at_once_have_places_of_their_own(postgres_url: str) -> None:
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url), autocommit=True) as watch:
        worker = TestWorker(store)
        store.enqueue_workflow(chords(1, 2))
        first, second = worker.claim()
        thread = threading.Thread(target=store.add_header, args=(added("y"), second.id, second.lease))
        with changing(store) as connection:
            assert run(add_header(store, added("x"), first.id, first.lease), JoinedConnection(connection).reply)
            thread.start()
            waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            wait_until(lambda: watch.execute(waiting).fetchall(), what="the second to wait for the first")
        thread.join(60)
        places = watch.execute("SELECT place FROM dbqueue_edges WHERE successor = 'body0' ORDER BY place")
        assert places.fetchall() == [(f"[{n}]",) for n in range(4)]
        worker.close()


def test_revokes_beside_completions(store: Store) -> None:
    worker = TestWorker(store)
    for turn in range(8):
        ids = [f"{turn}-{name}" for name in "dcba"]  # predecessors have the greater ids
        edges = [Edge(before, after) for n, before in enumerate(ids) for after in ids[n + 1 :]]
        store.enqueue_workflow(Workflow.of([new_job(each) for each in ids], edges))
        head = worker.claim_one()
        results = at_once(
            partial(worker.settle, done(head)),
            partial(revoke, store, ids[1:3]),
            partial(changes.cancel, store, [ids[2]]),
        )
        assert not [result for result in results if isinstance(result, BaseException)]
        assert [row(store, each)["status"] for each in ids[1:3]] == ["REVOKED", "REVOKED"]
        assert row(store, ids[3])["status"] in ("REVOKED", "FAILURE")
    worker.close()


def test_one_enqueue_of_two_writes_it(store: Store) -> None:
    for turn in range(10):
        ids = [f"{turn}-{n}" for n in range(5)]
        workflow = Workflow.of([new_job(each) for each in ids], [Edge(ids[0], each) for each in ids[1:]])
        assert at_once(*[partial(store.enqueue_workflow, workflow)] * 4) == [None] * 4
    assert count(store) == 50
    with store.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM dbqueue_edges").scalar_one() == 40
