"""Two and more connections at once: claims never overlap, and one of two rivals loses."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from dbqueue.errors import DuplicateTaskId, OperationalError
from dbqueue.jobs import Progress, Released, Retried, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.records import Claim
from dbqueue.store.values import sqlite_time
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, new_job, opened, row, run_sql
from tests.waiting import wait_until

THREADS = 6


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with opened(database_url) as store:
        yield store


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Call all in threads that begin together; their values, or the exceptions they raised."""
    barrier = threading.Barrier(len(calls))
    values: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        barrier.wait()
        try:
            values[index] = calls[index]()
        except BaseException as error:  # noqa: BLE001
            values[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    return values


def drain(store: Store, limit: int, finish: bool = True) -> list[tuple[str, str]]:
    """Claim until there is nothing, completing each batch with the next claim."""
    worker = TestWorker(store)
    seen: list[tuple[str, str]] = []
    outcomes: list[Any] = []
    try:
        empty = 0
        while empty < 2 or outcomes:
            claim = Claim(worker.id, str(uuid4()), worker.queues, limit)
            try:
                result = worker.session.round(outcomes, claim)
            except OperationalError:
                if store.dialect != "sqlite":
                    raise
                continue  # its one lock went to others all the time: nothing was written, and a worker tries again too
            assert len(result.settled) == len(outcomes)
            empty = 0 if result.claimed else empty + 1
            seen += [(job.id, job.lease) for job in result.claimed]
            outcomes = [Succeeded(job.id, job.lease, "1", 0.0) for job in result.claimed] if finish else []
    finally:
        worker.close()
    return seen


@pytest.mark.parametrize("limit", [1, 7, 100])
def test_claims_never_overlap(store: Store, limit: int) -> None:
    jobs = 200 if limit == 1 else 900
    store.enqueue([new_job(priority=n % 3) for n in range(jobs)])
    results = at_once(*[lambda: drain(store, limit)] * THREADS)
    seen = [job for result in results for job in result]
    assert len(seen) == len({job_id for job_id, _ in seen}) == jobs
    assert count(store, "status = 'SUCCESS'") == jobs


def test_claims_beside_enqueues(store: Store) -> None:
    def produce() -> None:
        for _ in range(40):
            store.enqueue([new_job() for _ in range(5)])

    results = at_once(produce, produce, *[lambda: drain(store, 10)] * 3)
    assert results[:2] == [None, None]
    rest = drain(store, 50)
    seen = [job_id for result in [*results[2:], rest] for job_id, _ in result]
    assert len(seen) == len(set(seen)) == 400


def test_two_enqueues_of_one_id_write_one_row(store: Store) -> None:
    for n in range(10):
        job = new_job(f"same-{n}", args="[1]")
        assert at_once(*[lambda job=job: store.enqueue([job])] * THREADS) == [{}] * THREADS
    assert count(store) == 10


def test_of_two_enqueues_of_other_content_one_is_refused(store: Store) -> None:
    for n in range(10):
        results = at_once(
            partial(store.enqueue, [new_job(f"rival-{n}", args="[1]")]),
            partial(store.enqueue, [new_job(f"rival-{n}", args="[2]")]),
        )
        assert sorted(type(result).__name__ for result in results) == ["DuplicateTaskId", "dict"]
        assert isinstance(next(each for each in results if each), DuplicateTaskId)


def test_batches_that_share_ids_do_not_deadlock(store: Store) -> None:
    jobs = [new_job(f"id-{n:03}") for n in range(100)]
    assert at_once(*[lambda: store.enqueue(jobs), lambda: store.enqueue(list(reversed(jobs)))] * 3) == [{}] * 6
    assert count(store) == 100


def test_outcomes_of_one_lease_are_written_once(store: Store) -> None:
    workers = [TestWorker(store) for _ in range(4)]
    store.enqueue([new_job() for _ in range(50)])
    jobs = workers[0].claim(50)

    def finish(worker: TestWorker, reverse: bool) -> frozenset[str]:
        order = reversed(jobs) if reverse else jobs
        return worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in order)).settled

    results = at_once(*[lambda w=w, r=n % 2: finish(w, bool(r)) for n, w in enumerate(workers)])
    assert Counter(job_id for result in results for job_id in result) == dict.fromkeys((job.id for job in jobs), 1)
    for worker in workers:
        worker.close()


def test_rescue_against_complete(store: Store) -> None:
    """Each job either was completed or waits again, and the loser of the two knows."""
    rescuer = TestWorker(store, lease_seconds=3600)
    for _ in range(8):
        dead = TestWorker(store, lease_seconds=5)
        store.enqueue([new_job() for _ in range(40)])
        jobs = dead.claim(40)
        later = datetime.now(UTC) + timedelta(seconds=60)
        settled, rescued = at_once(
            lambda: dead.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in jobs)).settled,  # noqa: B023
            lambda: rescuer.session.rescue(max_losses=5, now=later),  # noqa: B023
        )
        won = {job.id for job in jobs if row(store, job.id)["status"] == "SUCCESS"}
        assert settled == won
        assert count(store, "status = 'PENDING'") == 40 - len(won)
        # Where all were being completed there is no news of the worker: the next rescue looks for what is left of it.
        assert sum(each.requeued for each in rescued) == 40 - len(won)
        rescuer.session.rescue(max_losses=5, now=later)  # the row of one that was just completing was left open
        assert dead.claim() == []
        drained = rescuer.claim(100)
        rescuer.settle(*(Succeeded(job.id, job.lease, "2", 0.0) for job in drained))
        dead.close()
    rescuer.close()


def test_rescue_against_claim_leaves_nothing_started_for_the_dead(store: Store) -> None:
    rescuer = TestWorker(store, lease_seconds=3600)
    for _ in range(15):
        dead = TestWorker(store, lease_seconds=5)
        store.enqueue([new_job() for _ in range(20)])
        later = datetime.now(UTC) + timedelta(seconds=60)
        claimed, _ = at_once(lambda: dead.claim(20), lambda: rescuer.session.rescue(max_losses=50, now=later))  # noqa: B023
        assert isinstance(claimed, list)
        # The claim came first, and was rescued; or it came too late; or the rescue passed it by: the next one will not.
        rescuer.session.rescue(max_losses=50, now=later)
        assert count(store, "status = 'STARTED'") == 0
        assert dead.claim() == []
        jobs = rescuer.claim(100)
        assert len(jobs) == 20
        rescuer.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in jobs))
        dead.close()
    rescuer.close()


def test_only_one_of_many_rescues_takes_each_job(store: Store) -> None:
    dead = TestWorker(store, lease_seconds=5)
    store.enqueue([new_job() for _ in range(60)])
    dead.claim(60)
    later = datetime.now(UTC) + timedelta(seconds=60)
    rescuers = [TestWorker(store, lease_seconds=3600) for _ in range(4)]
    results = at_once(*[lambda r=r: r.session.rescue(max_losses=5, now=later) for r in rescuers])
    assert sum(each.requeued for result in results for each in result) == 60
    assert count(store, "losses = 1 AND status = 'PENDING'") == 60
    for worker in (dead, *rescuers):
        worker.close()


def test_heartbeats_pass_a_claim_in_flight(postgres_url: str) -> None:
    """The claim locks its worker's row; a heartbeat that waited for it would be late under a slow COMMIT."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as held:
        worker = TestWorker(store)
        watch = store.watch_session("test")
        held.execute("SELECT id FROM dbqueue_workers WHERE id = %s FOR KEY SHARE", [worker.id])
        assert watch.heartbeat(worker.id)
        held.rollback()
        watch.close()
        worker.close()


def test_a_claim_passes_by_what_another_has_locked(postgres_url: str) -> None:
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as other:
        worker = TestWorker(store)
        locked, free = enqueued(store), enqueued(store)
        other.execute("SELECT id FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [locked])
        assert [job.id for job in worker.claim()] == [free]
        other.rollback()
        assert [job.id for job in worker.claim()] == [locked]
        worker.close()


def test_a_rescue_waits_for_no_claim_in_flight(postgres_url: str) -> None:
    """A worker with a claim in flight is alive enough: it is passed by, and found by the next rescue."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as other:
        dead, rescuer = TestWorker(store, lease_seconds=5), TestWorker(store, lease_seconds=3600)
        enqueued(store)
        dead.claim_one()
        later = datetime.now(UTC) + timedelta(seconds=60)
        other.execute("SELECT id FROM dbqueue_workers WHERE id = %s FOR KEY SHARE", [dead.id])
        assert rescuer.session.rescue(max_losses=5, now=later) == []
        other.rollback()
        assert [each.requeued for each in rescuer.session.rescue(max_losses=5, now=later)] == [1]
        dead.close()
        rescuer.close()


def test_mixed_rounds_of_many_workers(store: Store) -> None:
    """Complete, retry, release and claim at once, over shared rows: every job ends once."""
    jobs = 300
    store.enqueue([new_job(f"job-{n:04}") for n in range(jobs)])

    def work() -> Counter[str]:
        worker = TestWorker(store)
        done: Counter[str] = Counter()
        outcomes: list[Any] = []
        turn = 0

        def step() -> bool:
            nonlocal outcomes, turn
            claim = Claim(worker.id, str(uuid4()), worker.queues, 9)
            later = datetime.now(UTC) + timedelta(seconds=1)
            result = worker.session.round(outcomes, claim, now=later)
            assert len(result.settled) == len(outcomes)
            done.update(each.job_id for each in outcomes if isinstance(each, Succeeded))
            outcomes = []
            for job in result.claimed:
                turn += 1
                if turn % 7 == 0:
                    outcomes.append(Retried(job.id, job.lease, "{}", None, 0.0))
                elif turn % 5 == 0:
                    outcomes.append(Released(job.id, job.lease, job.ready_at))
                else:
                    outcomes.append(Succeeded(job.id, job.lease, "1", 0.0))
            return not outcomes and count(store, "status <> 'SUCCESS'") == 0

        try:
            wait_until(step, timeout=90)
        finally:
            worker.close()
        return done

    results = at_once(*[work] * 4)
    total: Counter[str] = Counter()
    for result in results:
        assert isinstance(result, Counter), result
        total += result
    assert total == {f"job-{n:04}": 1 for n in range(jobs)}


def test_who_has_beaten_since_the_look_for_the_dead_is_alive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A heartbeat that was late comes between the look and the locks of those that it has found dead."""
    late, rescuer = TestWorker(store, lease_seconds=5), TestWorker(store, lease_seconds=3600)
    job_id, now = enqueued(store), datetime.now(UTC) + timedelta(seconds=60)
    late.claim_one()
    session: Any = rescuer.session
    look, looks, locked = session._dead, list[list[str]](), True

    def looked(at: Any) -> Any:
        nonlocal locked
        found = look(at)
        locked = store.dialect != "sqlite" or session._driver.in_transaction
        looks.append(list(found))
        if len(looks) == 1:  # on SQLite there is another, with the lock
            beaten_at = sqlite_time(now) if store.dialect == "sqlite" else now
            run_sql(store, "UPDATE dbqueue_workers SET heartbeat_at = :at WHERE id = :id", at=beaten_at, id=late.id)
        return found

    monkeypatch.setattr(session, "_dead", looked)
    assert session.rescue(max_losses=3, now=now) == []
    assert looks[0] == [late.id]
    assert locked, "after the last look another may come"
    assert row(store, job_id)["status"] == "STARTED"
    for each in (late, rescuer):
        each.close()


def test_a_rescue_waits_for_no_job_that_is_locked(postgres_url: str) -> None:
    """By a task that was stopped before its COMMIT, say: it takes the others, and that one when it can."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as stopped:
        held, free = enqueued(store), enqueued(store)
        dead, rescuer = TestWorker(store, lease_seconds=5), TestWorker(store, lease_seconds=3600)
        assert len(dead.claim()) == 2
        stopped.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [held])
        later = datetime.now(UTC) + timedelta(seconds=60)

        def rescued() -> list[tuple[str, int]]:
            found = rescuer.session.rescue(max_losses=3, now=later)
            return [(each.worker_id, each.requeued) for each in found]

        assert rescued() == [(dead.id, 1)]
        assert rescued() == []
        assert [job.id for job in rescuer.claim()] == [free]
        stopped.rollback()
        assert rescued() == [(dead.id, 1)]
        assert [job.id for job in rescuer.claim()] == [held]
        assert rescued() == []
        dead.close()
        rescuer.close()


def test_a_report_of_progress_waits_for_no_job_that_is_locked(postgres_url: str) -> None:
    """By its own task, which has called `dbqueue.complete` and goes on before it commits: reports may be dropped."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as completing:
        held, free = enqueued(store), enqueued(store)
        worker = TestWorker(store)
        jobs = worker.claim()
        completing.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [held])
        worker.session.report([Progress(job.id, job.lease, "HALF", "1") for job in jobs])
        assert [row(store, job_id)["state"] for job_id in (held, free)] == [None, "HALF"]
        worker.close()


def test_threads_take_turns_at_a_database_in_memory() -> None:
    """They share its one connection: what one has enqueued is not rolled back with another's transaction."""
    with opened("sqlite://") as store, ThreadPoolExecutor(1) as thread:
        store.ensure_schema()
        with store.connect() as connection:
            connection.exec_driver_sql("SELECT 1")
            theirs = thread.submit(enqueued, store)
            with pytest.raises(TimeoutError):
                theirs.result(timeout=0.2)
        assert store.fetch([theirs.result()])
