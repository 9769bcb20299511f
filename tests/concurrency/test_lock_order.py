"""Batches that share rows lock them in one order: one that waits for the first of them holds none of the others.

Were it not so, two of them could wait for each other: a deadlock, which the server ends after a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from dbqueue.jobs import NewJob, Outcome, Retried, Succeeded
from dbqueue.store.postgres.copying import FEWEST
from dbqueue.store.transactions.joining import enqueue_in
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, new_job, opened
from tests.waiting import wait_until

WAITING = b"SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

MAKE: dict[str, Callable[[str], NewJob]] = {
    "id": new_job,
    "unique key": lambda name: new_job(unique_key=name),
}


@pytest.mark.parametrize(
    ("what", "number"), [("id", 2), ("id", FEWEST), ("unique key", 2)], ids=["ids", "ids by COPY", "unique keys"]
)
def test_what_comes_last_is_free_while_the_first_is_waited_for(postgres_url: str, what: str, number: int) -> None:
    make, names = MAKE[what], [f"{n:03}" for n in range(number)]
    with (
        opened(postgres_url) as store,
        psycopg.connect(libpq_url(postgres_url)) as rival,
        psycopg.connect(libpq_url(postgres_url), autocommit=True) as other,
    ):
        enqueue_in(store, rival, [make(names[0])])
        backwards = [make(name) for name in reversed(names)]
        batch = threading.Thread(target=store.enqueue, args=(backwards,))
        batch.start()
        wait_until(lambda: other.execute(WAITING).fetchone() is not None, what="the batch to wait")
        other.execute("SET lock_timeout = '5s'")
        enqueue_in(store, other, [make(names[-1])])
        rival.rollback()
        batch.join(60)
        assert not batch.is_alive()
        assert count(store) == number


END: dict[str, Callable[[str, str], Outcome]] = {
    "ends": lambda job_id, lease: Succeeded(job_id, lease, "1", 0.0),
    "retries": lambda job_id, lease: Retried(job_id, lease, "{}", None, 0.0),
}


@pytest.mark.parametrize("kind", END)
def test_outcomes_of_jobs_that_others_have_locked(postgres_url: str, kind: str) -> None:
    with (
        opened(postgres_url) as store,
        psycopg.connect(libpq_url(postgres_url)) as rival,
        psycopg.connect(libpq_url(postgres_url), autocommit=True) as other,
    ):
        worker = TestWorker(store)
        first, last = enqueued(store, "a"), enqueued(store, "b")
        outcomes = [END[kind](job.id, job.lease) for job in reversed(worker.claim())]
        rival.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [first])
        batch = threading.Thread(target=worker.settle, args=outcomes)
        batch.start()
        wait_until(lambda: other.execute(WAITING).fetchone() is not None, what="the batch to wait")
        other.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE NOWAIT", [last])
        rival.rollback()
        batch.join(60)
        assert not batch.is_alive()
        assert count(store, "status = 'STARTED'") == 0
        worker.close()
