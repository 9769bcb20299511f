"""Batches that share rows lock them in one order: one that waits for the first of them holds none of the others.

Were it not so, two of them could wait for each other: a deadlock, which the server ends after a second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import psycopg
import pytest

from dbqueue.jobs import Failed, NewJob, Outcome, Retried, Succeeded
from dbqueue.store import revoking
from dbqueue.store.postgres.copying import FEWEST
from dbqueue.store.transactions.joining import enqueue_in
from dbqueue.workflows import Edge, Workflow
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
    "fails": lambda job_id, lease: Failed(job_id, lease, "{}", None, 0.0),
}


@pytest.mark.parametrize("kind", ["ends", "retries"])
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


@pytest.mark.parametrize("kind", ["ends", "fails"])
def test_bodies_of_headers_that_end_in_one_round(postgres_url: str, kind: str) -> None:
    with (
        opened(postgres_url) as store,
        psycopg.connect(libpq_url(postgres_url)) as rival,
        psycopg.connect(libpq_url(postgres_url), autocommit=True) as other,
    ):
        worker = TestWorker(store)
        edges = [Edge(header, body) for header, body in (("header-1", "body-2"), ("header-2", "body-1"))]
        store.enqueue_workflow(Workflow.of([new_job(name) for edge in edges for name in edge[:2]], edges))
        outcomes = [END[kind](job.id, job.lease) for job in worker.claim()]
        rival.execute("SELECT FROM dbqueue_jobs WHERE id = 'body-1' FOR UPDATE")
        batch = threading.Thread(target=worker.settle, args=outcomes)
        batch.start()
        wait_until(lambda: other.execute(WAITING).fetchone() is not None, what="the round to wait")
        other.execute("SELECT FROM dbqueue_jobs WHERE id = 'body-2' FOR UPDATE NOWAIT")
        rival.rollback()
        batch.join(60)
        assert not batch.is_alive()
        assert count(store, "blocked_reason IS NOT NULL") == 0
        worker.close()


def test_a_revoke_locks_what_runs_before_what_waits(postgres_url: str) -> None:
    """As a round does, which ends jobs and then moves those that wait for them."""
    with (
        opened(postgres_url) as store,
        psycopg.connect(libpq_url(postgres_url)) as rival,
        psycopg.connect(libpq_url(postgres_url), autocommit=True) as other,
    ):
        worker = TestWorker(store)
        running = enqueued(store, "b")
        worker.claim_one()
        waiting = enqueued(store, "a")
        rival.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [running])
        found: list[revoking.Revoked] = []
        revoke = threading.Thread(target=lambda: found.append(revoking.revoke(store, [waiting, running])))
        revoke.start()
        wait_until(lambda: other.execute(WAITING).fetchone() is not None, what="the revoke to wait")
        other.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE NOWAIT", [waiting])
        rival.rollback()
        revoke.join(60)
        assert [(each.ended, each.running) for each in found] == [({waiting: "shop.pack"}, frozenset([running]))]
        worker.close()
