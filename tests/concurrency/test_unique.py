"""Two callers of one unique call: the second waits for the first's transaction, and then gets what it came to."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.jobs import Failed
from dbqueue.store import changes
from dbqueue.store.base import Store
from dbqueue.store.postgres.pruning import PRUNE_KEYS
from dbqueue.store.transactions.joining import enqueue_in
from dbqueue.workflows import Edge, Workflow
from tests.servers import libpq_url
from tests.stores import TestWorker, count, new_job, opened
from tests.waiting import wait_until


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with opened(database_url) as store:
        yield store


def caller(url: str) -> Any:
    if url.startswith("sqlite"):
        return sqlite3.connect(str(sa.make_url(url).database), timeout=30)
    return psycopg.connect(libpq_url(url))


def waits(url: str) -> bool:
    """Whether a session waits for another's lock; on SQLite nothing shows it."""
    if url.startswith("sqlite"):
        return True
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        row = connection.execute(query).fetchone()
        return row is not None and row[0] > 0


def in_thread(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    values: list[Any] = []
    thread = threading.Thread(target=lambda: values.append(call()))
    thread.start()
    return thread, values


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("held_before", [False, True])
def test_the_second_waits_for_the_first(store: Store, database_url: str, ending: str, held_before: bool) -> None:
    if held_before:  # by a job that has ended: the key is there, and free
        store.enqueue([new_job("old", unique_key="k")])
        worker = TestWorker(store)
        job = worker.claim_one()
        worker.close()
        with store.connect() as connection:
            connection.execute(
                sa.text("UPDATE dbqueue_jobs SET status = 'SUCCESS', finished_at = created_at WHERE id = :id"),
                {"id": job.id},
            )
    connection = caller(database_url)
    assert enqueue_in(store, connection, [new_job("first", unique_key="k")]) == {}
    thread, values = in_thread(lambda: store.enqueue([new_job("second", unique_key="k")]))
    wait_until(lambda: waits(database_url), what="the second caller's wait")
    assert thread.is_alive()
    getattr(connection, ending)()
    connection.close()
    thread.join(60)
    assert values == [{"second": "first"} if ending == "commit" else {}]
    assert count(store, "id IN ('first', 'second')") == 1


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_an_operators_retry_waits_for_a_key_before_it_locks_any_job(postgres_url: str, ending: str) -> None:
    """Who has the key may be a running job's own transaction, whose end needs the row of that job."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as rival:
        jobs = [new_job("header"), new_job("running"), new_job("body")]
        edges = [Edge("header", "body"), Edge("running", "body")]
        store.enqueue([new_job("old", unique_key="k")])
        store.enqueue_workflow(Workflow.of(jobs, edges))
        worker = TestWorker(store)
        claimed = {job.id: job for job in worker.claim()}
        worker.settle(*(Failed(name, claimed[name].lease, "{}", None, 0.0) for name in ("old", "header")))
        enqueue_in(store, rival, [new_job("new", unique_key="k")])
        thread, values = in_thread(lambda: changes.retry(store, ["old", "header"]))
        wait_until(lambda: waits(postgres_url), what="the retry's wait")
        assert len(rival.execute("SELECT id FROM dbqueue_jobs WHERE id <> 'new' FOR UPDATE NOWAIT").fetchall()) == 4
        getattr(rival, ending)()
        thread.join(30)
        assert values == [{"header", "body"} | ({"old"} if ending == "rollback" else set())]
        worker.close()


def test_many_callers_come_to_one_job(store: Store) -> None:
    barrier = threading.Barrier(8)
    standing: list[str] = []

    def call(number: int) -> None:
        barrier.wait()
        for turn in range(20):
            # In another order each: the keys are taken in one.
            jobs = [new_job(f"{number}-{turn}-{key}", unique_key=f"{key}-{turn}") for key in "abc"]
            jobs = jobs[number % 3 :] + jobs[: number % 3]
            taken = store.enqueue(jobs)
            standing.extend(taken.get(job.id, job.id) for job in jobs)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(standing) == 8 * 20 * 3
    assert len(set(standing)) == count(store) == 60


def test_a_key_that_was_taken_after_the_look_is_not_deleted(postgres_url: str) -> None:
    """The look for spent keys locks one by what its snapshot shows, in which the job that has it now may be missing."""
    with opened(postgres_url) as store, store.connect() as connection:
        store.enqueue([new_job("new", unique_key="k")])
        deleted = connection.exec_driver_sql(store.text(PRUNE_KEYS), {"keys": ["k"]}).rowcount
        assert deleted == 0


def test_a_key_that_is_being_taken_is_left_alone(postgres_url: str) -> None:
    """Whoever prunes would wait for the caller's transaction, and then delete the key of a job that it cannot see."""
    with opened(postgres_url) as store, caller(postgres_url) as connection:
        store.enqueue([new_job("old", unique_key="k")])
        worker = TestWorker(store)
        job = worker.claim_one()
        worker.settle(Failed(job.id, job.lease, "{}", None, 0.0))
        assert enqueue_in(store, connection, [new_job("new", unique_key="k")]) == {}
        assert worker.session.prune_keys(limit=100) == 0
        connection.commit()
        assert worker.session.prune_keys(limit=100) == 0
        worker.close()
        assert store.enqueue([new_job("another", unique_key="k")]) == {"another": "new"}
