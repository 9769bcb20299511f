"""A worker's row is deleted while it claims: who is first, and what is left."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import uuid4

import psycopg
import pytest

from dbqueue import failpoints
from dbqueue.jobs import Succeeded
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.records import Claim, WorkerInfo
from dbqueue.store.trouble import LOCK_SECONDS, ROUND_LOCK_SECONDS
from tests.contract.workflows import chain
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, opened, row, run_sql
from tests.waiting import wait_until

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


def test_a_row_that_is_deleted_while_its_worker_claims(postgres_url: str) -> None:
    """The deletion waits for the claim; then the worker has a job and no row, and is given one again."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        worker, eldest = TestWorker(store), TestWorker(store)
        enqueued(store)
        session = cast(PostgresWorkSession, worker.session)
        delete = "DELETE FROM dbqueue_workers WHERE id = :id"
        thread = threading.Thread(target=lambda: run_sql(store, delete, id=worker.id))
        with session._driver.transaction():
            (job,) = session.round([], Claim(worker.id, str(uuid4()), worker.queues, 1)).claimed
            thread.start()
            wait_until(lambda: admin.execute(WAITING.encode()).fetchone() == (1,), what="the deletion to wait")
            assert eldest.session.lost_workers() == ([], False)
        thread.join(60)
        assert eldest.session.lost_workers() == ([worker.id], False)
        assert worker.claim() == []
        eldest.session.reopen(WorkerInfo(worker.id, "worker", "", 0, "", 0, (), "0", 30.0))
        assert eldest.session.rescue(max_losses=3) == []
        assert worker.settle(Succeeded(job.id, job.lease, "1", 0.0)).settled == {job.id}
        for each in (worker, eldest):
            each.close()


def test_a_worker_that_has_ended_since_it_was_found_silent_is_not_dead(postgres_url: str) -> None:
    """It has handed back its jobs, or another rescue has seen to them and told of it."""
    with opened(postgres_url) as store:
        worker, rescuer = TestWorker(store), TestWorker(store)
        session = cast(PostgresWorkSession, rescuer.session)
        silent = {worker.id: session._dead(datetime.now(UTC) + timedelta(hours=1))[worker.id]}
        worker.session.close_worker(worker.id)
        session._dead = lambda now: silent  # type: ignore[method-assign]
        assert session.rescue(max_losses=3) == []
        for each in (worker, rescuer):
            each.close()


def test_a_worker_that_has_sent_a_heartbeat_since_it_was_found_silent_is_not_dead(postgres_url: str) -> None:
    """It runs its jobs: nobody else may."""
    with opened(postgres_url) as store:
        worker, rescuer = TestWorker(store), TestWorker(store)
        job_id = enqueued(store)
        worker.claim_one()
        session = cast(PostgresWorkSession, rescuer.session)
        silent = {worker.id: session._dead(datetime.now(UTC) + timedelta(hours=1))[worker.id]}
        watch = store.watch_session("test")
        assert watch.heartbeat(worker.id)
        watch.close()
        session._dead = lambda now: silent  # type: ignore[method-assign]
        assert session.rescue(max_losses=3) == []
        assert row(store, job_id)["status"] == "STARTED"
        for each in (worker, rescuer):
            each.close()


def test_a_rescue_waits_briefly_for_rows_that_nobody_has_looked_for(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where others wait for what it ends. For the table itself it waits longer, and would read it again in vain."""
    waits: list[Any] = []

    def note(name: str, driver: Any = None, **_: Any) -> None:
        if name == "rescue.between":
            waits.append(driver.execute("SHOW lock_timeout").fetchone()[0])

    with opened(postgres_url) as store:
        store.enqueue_workflow(chain("a", "b"))
        dead, rescuer = TestWorker(store, lease_seconds=5), TestWorker(store, lease_seconds=3600)
        dead.claim_one(once=["shop.pack"])
        monkeypatch.setattr(failpoints, "hit", note)
        (found,) = rescuer.session.rescue(max_losses=3, now=datetime.now(UTC) + timedelta(seconds=60))
        assert (found.failed, waits) == (1, [f"{LOCK_SECONDS}s", f"{ROUND_LOCK_SECONDS}s"])
        for each in (dead, rescuer):
            each.close()


def test_a_rescue_asks_nobody_who_has_locked_what_waits_for_a_job_that_runs_again(postgres_url: str) -> None:
    """Others end with a job that may not: only then may somebody's lock on one of these be in the way."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as somebody:
        store.enqueue_workflow(chain("a", "b"))
        dead, rescuer = TestWorker(store, lease_seconds=5), TestWorker(store, lease_seconds=3600)
        dead.claim_one()
        somebody.execute("SELECT FROM dbqueue_jobs WHERE id = 'b' FOR UPDATE")
        (found,) = rescuer.session.rescue(max_losses=3, now=datetime.now(UTC) + timedelta(seconds=60))
        assert (found.requeued, found.left, found.locked) == (1, False, False)
        for each in (dead, rescuer):
            each.close()


def test_a_rescue_takes_back_what_runs_again_though_the_edges_of_the_rest_are_locked(postgres_url: str) -> None:
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as somebody:
        store.enqueue_workflow(chain("a", "b"))
        again = enqueued(store, task="shop.send")
        dead, rescuer = TestWorker(store, lease_seconds=5), TestWorker(store, lease_seconds=3600)
        assert {job.id for job in dead.claim(once=["shop.pack"])} == {"a", again}
        later = datetime.now(UTC) + timedelta(seconds=60)
        somebody.execute("LOCK TABLE dbqueue_edges")
        (found,) = rescuer.session.rescue(max_losses=3, now=later)
        assert (found.requeued, found.failed, found.locked) == (1, 0, True)
        somebody.rollback()
        (found,) = rescuer.session.rescue(max_losses=3, now=later)
        assert (found.requeued, found.failed, found.locked) == (0, 1, False)
        for each in (dead, rescuer):
            each.close()


def test_what_a_worker_hands_back_waits_for_its_claim_under_way(postgres_url: str) -> None:
    """On a connection that it has lost: what that one claims would be nobody's."""
    found: list[int] = []
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url), autocommit=True) as watch:
        worker, lost = TestWorker(store), cast(PostgresWorkSession, store.work_session("lost"))
        session = cast(PostgresWorkSession, worker.session)
        session._driver.execute("SET lock_timeout = '60s'")
        job_id = enqueued(store)
        thread = threading.Thread(target=lambda: found.append(session.hand_back(worker.id, [])))
        with lost._driver.transaction():
            assert len(lost.round([], Claim(worker.id, str(uuid4()), worker.queues, 1)).claimed) == 1
            thread.start()
            wait_until(lambda: found or watch.execute(WAITING).fetchall() == [(1,)], what="it to wait")
        thread.join(60)
        assert (found, row(store, job_id)["status"]) == ([1], "PENDING")
        for each in (lost, worker):
            each.close()
