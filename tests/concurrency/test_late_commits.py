"""A claim that commits when its worker has lost the connection, and knows nothing of it: the job is handed back."""

from __future__ import annotations

import threading
from typing import cast
from uuid import uuid4

import psycopg

from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.records import Claim
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, opened, row
from tests.waiting import wait_until
from tests.worker.rounds import backend, running_rounds


def test_a_hand_back_waits_for_a_claim_that_is_under_way(postgres_url: str) -> None:
    """The server goes on with a statement whose client has gone, and commits when the worker is back already."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        job_id, worker = enqueued(store), TestWorker(store)
        cut = cast(PostgresWorkSession, store.work_session("cut"))
        handed_back: list[int] = []
        again = threading.Thread(target=lambda: handed_back.append(worker.session.hand_back(worker.id, ())))

        def waits() -> bool:
            waiting = "datname = current_database() AND wait_event_type = 'Lock'"
            return admin.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {waiting}".encode()).fetchone() == (1,)

        with cut._driver.transaction():
            (job,) = cut.round([], Claim(worker.id, str(uuid4()), worker.queues, 1)).claimed
            again.start()
            wait_until(lambda: waits() or not again.is_alive(), what="the hand-back to wait for the claim")
        again.join(60)
        assert (job.id, handed_back) == (job_id, [1])
        assert (row(store, job_id)["status"], row(store, job_id)["lease"]) == ("PENDING", None)
        cut.close()
        worker.close()


def test_a_heartbeat_does_not_wait_for_a_hand_back(postgres_url: str) -> None:
    """The look at a large table takes longer than a heartbeat may."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as other:
        job_id, worker = enqueued(store), TestWorker(store)
        worker.claim_one()
        watch = store.watch_session("test")
        other.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [job_id])
        hand_back = threading.Thread(target=worker.session.hand_back, args=(worker.id, ()))
        hand_back.start()
        query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        wait_until(lambda: watch.run(query, {}), what="the hand-back to wait for the job's row")
        assert watch.heartbeat(worker.id) is True
        other.rollback()
        hand_back.join(60)
        assert row(store, job_id)["status"] == "PENDING"
        watch.close()
        worker.close()


def test_a_claim_that_commits_after_the_reconnect(postgres_url: str) -> None:
    """It had not begun when the worker handed back: the worker looks for such jobs for a while."""
    with (
        opened(postgres_url) as store,
        psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin,
        running_rounds(store, heartbeat_seconds=0.2) as rounds,
    ):
        before = wait_until(lambda: backend(admin))
        assert before is not None
        admin.execute("SELECT pg_terminate_backend(%s)", [before[0]])
        wait_until(lambda: rounds.reconnected, what="the hand-back at the reconnect")
        # In a queue of its own, so that nobody else's claim comes in between.
        job_id, late = enqueued(store, queue="late"), store.work_session("late")
        (job,) = late.round([], Claim(rounds.worker_id, str(uuid4()), ["late"], 1)).claimed
        assert job.id == job_id
        wait_until(lambda: row(store, job_id)["status"] == "PENDING", timeout=30, what="the hand-back")
        late.close()
