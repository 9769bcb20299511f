"""Rows by plain SQL: the defaults make a job of two columns, and the constraints refuse what cannot be."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dbqueue.errors import DBQueueError
from dbqueue.store.base import Store
from tests.stores import TestWorker, count, enqueued, run_sql


def test_two_columns_make_a_job(store: Store, worker: TestWorker) -> None:
    with store.connect() as connection:
        sql = "INSERT INTO dbqueue_jobs (task, args) VALUES ('shop.pack', '[1, 2]') RETURNING id, status, queue"
        job_id, status, queue = connection.execute(sa.text(sql)).one()
    assert (status, queue, len(job_id) >= 32) == ("PENDING", "celery", True)
    job = worker.claim_one()
    assert (job.id, job.task, job.args, job.kwargs, job.priority) == (job_id, "shop.pack", "[1, 2]", "{}", 0)
    assert (job.retries, job.losses, job.redeliver, job.expired) == (0, 0, True, False)


def test_many_rows_have_ids_of_their_own(store: Store) -> None:
    run_sql(store, "INSERT INTO dbqueue_jobs (task) VALUES ('a'), ('b'), ('c')")
    assert count(store) == 3


@pytest.mark.parametrize(
    "columns",
    [
        "status = 'ODD'",
        "status = 'pending'",
        "status = 'SUCCESS'",  # still claimable, and without an end
        "status = 'SUCCESS', ready_at = NULL",
        "status = 'FAILURE', finished_at = created_at",
        "status = 'STARTED', ready_at = NULL",
        "status = 'STARTED', ready_at = NULL, worker = 'w'",
        "ready_at = NULL",
        "blocked_reason = 'limit'",
        "finished_at = created_at",
        "lease = '00000000-0000-0000-0000-000000000000'",
        "eta = '2999-01-01 00:00:00.000'",  # would run at once
        "task = NULL",
        "queue = NULL",
        "args = NULL",
        "status = NULL",
    ],
)
def test_impossible_rows_are_refused(store: Store, columns: str) -> None:
    job_id = enqueued(store)
    with pytest.raises((DBQueueError, sa.exc.DBAPIError, Exception), match=r"constraint|CHECK|check|null|NULL"):
        run_sql(store, f"UPDATE dbqueue_jobs SET {columns} WHERE id = :id", id=job_id)
    assert count(store, "status = 'PENDING' AND ready_at IS NOT NULL") == 1


@pytest.mark.parametrize(
    "columns",
    [
        "ready_at = NULL, blocked_reason = 'predecessors'",
        "ready_at = NULL, blocked_reason = 'limit', limit_key = 'k', held_at = created_at",
        "status = 'RETRY'",
        "status = 'REVOKED', ready_at = NULL, finished_at = created_at",
        "eta = '2999-01-01 00:00:00.000', ready_at = '2999-01-01 00:00:00.000'",
    ],
)
def test_possible_rows_are_not(store: Store, columns: str) -> None:
    job_id = enqueued(store)
    assert run_sql(store, f"UPDATE dbqueue_jobs SET {columns} WHERE id = :id", id=job_id) == 1


def test_json_is_read_by_sql(store: Store, worker: TestWorker) -> None:
    from dbqueue.jobs import Succeeded

    enqueued(store, "a", kwargs='{"city": "Bodø", "n": 3}')
    worker.settle(Succeeded("a", worker.claim_one().lease, '{"total": {"net": 5}}', 0.0))
    where = "kwargs->>'city' = 'Bodø' AND result->'total'->>'net' = "
    assert count(store, where + ("5" if store.dialect == "sqlite" else "'5'")) == 1
