"""The dead: what becomes of the jobs that they held."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from dbqueue.jobs import Progress, Released, Retried, Succeeded
from dbqueue.store.base import Store
from tests.contract.heartbeats import later
from tests.contract.workflows import chain
from tests.stores import TestWorker, count, enqueued, held, moment, opened, row, run_sql

NewWorker = Callable[..., TestWorker]


def test_nobody_is_dead(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    enqueued(store)
    dead.claim_one()
    assert rescuer.session.rescue(max_losses=3) == []
    assert count(store, "status = 'STARTED'") == 1


def test_the_jobs_of_the_dead_wait_again_and_a_loss_is_counted(
    store: Store, dead: TestWorker, rescuer: TestWorker
) -> None:
    job_id = enqueued(store)
    before = row(store, job_id)
    job = dead.claim_one()
    dead.session.report([Progress(job_id, job.lease, "PACKING", "1")])
    (rescued,) = rescuer.session.rescue(max_losses=3, now=later())
    assert (rescued.worker_id, rescued.requeued, rescued.failed) == (dead.id, 1, 0)
    stored = row(store, job_id)
    assert (stored["status"], stored["losses"], stored["retries"], stored["lease"]) == ("PENDING", 1, 0, None)
    assert stored["started_at"] is stored["state"] is stored["meta"] is None
    assert moment(stored["ready_at"]) == moment(before["created_at"])  # its old place
    assert rescuer.session.rescue(max_losses=3, now=later()) == []
    assert rescuer.claim_one().losses == 1


def test_a_job_that_waits_again_keeps_the_error_of_its_last_retry(
    store: Store, dead: TestWorker, rescuer: TestWorker
) -> None:
    """It has not failed with its worker."""
    job_id = enqueued(store)
    job = dead.claim_one()
    dead.settle(Retried(job_id, job.lease, '{"exc_type": "KeyError"}', None, 0.0))
    dead.claim_one(now=later(1))
    rescuer.session.rescue(max_losses=3, now=later())
    record = store.fetch([job_id])[job_id]
    assert (record.status, record.retries, record.result) == ("PENDING", 1, '{"exc_type": "KeyError"}')


def test_what_fails_with_its_worker_has_ended_when_the_rescue_says(
    store: Store, dead: TestWorker, rescuer: TestWorker
) -> None:
    """And so has what can never run after it."""
    store.enqueue_workflow(chain("a", "b"))
    now = later().replace(microsecond=0)
    dead.claim_one(once=["shop.pack"])
    rescuer.session.rescue(max_losses=3, now=now)
    assert [moment(row(store, job_id)["finished_at"]) for job_id in ("a", "b")] == [now, now]


def test_only_its_own_and_only_what_is_started(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    for job_id in ("mine", "done", "waiting", "back"):
        enqueued(store, job_id, queue="q" if job_id == "waiting" else "celery")
    jobs = {job.id: job for job in dead.claim()}
    enqueued(store, "theirs")
    rescuer.claim_one()
    dead.settle(Succeeded("done", jobs["done"].lease, "1", 0.0))
    dead.settle(Released("back", jobs["back"].lease, jobs["back"].ready_at))
    (rescued,) = rescuer.session.rescue(max_losses=3, now=later())
    assert rescued.requeued == 1
    statuses = {job_id: row(store, job_id)["status"] for job_id in ("mine", "done", "waiting", "back", "theirs")}
    assert statuses == {
        "mine": "PENDING",
        "done": "SUCCESS",
        "waiting": "PENDING",
        "back": "PENDING",
        "theirs": "STARTED",
    }


def test_a_job_that_may_not_run_again_fails(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    job_id = enqueued(store, task="shop.charge")
    job = dead.claim_one(once=["shop.charge"])
    (rescued,) = rescuer.session.rescue(max_losses=3, now=later())
    assert (rescued.requeued, rescued.failed) == (0, 1)
    record = store.finished([job_id])[job_id]
    assert record.status == "FAILURE"
    assert json.loads(record.result or "")["exc_type"] == "WorkerLostError"
    assert record.finished_at is not None
    stored = row(store, job_id)
    assert (stored["started_at"] is not None, str(stored["lease"])) == (True, job.lease), "it tells of its last run"


@pytest.mark.parametrize("max_losses", [0, 1, 3])
def test_the_cap_of_losses(store: Store, new_worker: NewWorker, rescuer: TestWorker, max_losses: int) -> None:
    job_id = enqueued(store)
    for loss in range(max_losses + 1):
        assert row(store, job_id)["status"] == "PENDING"
        assert row(store, job_id)["losses"] == loss
        dead = new_worker(lease_seconds=5)
        dead.claim_one()
        rescuer.session.rescue(max_losses=max_losses, now=later())
    assert row(store, job_id)["status"] == "FAILURE"
    assert row(store, job_id)["losses"] == max_losses + 1


def test_an_eta_is_kept(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    eta = datetime(2040, 1, 1, tzinfo=UTC)
    job_id = enqueued(store, eta=eta)
    dead.claim_one(now=eta)
    assert sum(each.requeued for each in rescuer.session.rescue(max_losses=3, now=eta + timedelta(seconds=60))) == 1
    assert moment(row(store, job_id)["ready_at"]) == eta


def test_an_eta_of_a_job_with_a_limit_is_kept(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    eta = datetime(2040, 1, 1, tzinfo=UTC)
    job_id = held(store, "k", eta=eta)
    dead.claim_held(now=eta)
    assert sum(each.requeued for each in rescuer.session.rescue(max_losses=3, now=eta + timedelta(seconds=60))) == 1
    assert moment(row(store, job_id)["held_at"]) == eta


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("way", ["rescued", "handed back"])
def test_a_job_of_before_the_clock_was_put_back_does_not_wait_for_that_time(
    store: Store, dead: TestWorker, rescuer: TestWorker, limited: bool, way: str
) -> None:
    job_id = held(store, "k") if limited else enqueued(store)
    assert (dead.claim_held().claimed if limited else dead.claim())[0].id == job_id
    run_sql(store, "UPDATE dbqueue_jobs SET created_at = '2040-01-01 00:00:00.000'")
    if way == "rescued":
        rescuer.session.rescue(max_losses=3, now=later())
    else:
        dead.session.hand_back(dead.id, {})
    jobs = rescuer.claim_held(now=later(61)).claimed if limited else rescuer.claim(now=later(61))
    assert [job.id for job in jobs] == [job_id]


def test_the_dead_worker_finds_out(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    watch = store.watch_session("test")
    assert watch.heartbeat(dead.id)
    rescuer.session.rescue(max_losses=3, now=later())
    assert not watch.heartbeat(dead.id)
    assert not watch.heartbeat("nobody")
    enqueued(store)
    assert dead.claim() == []
    assert len(rescuer.claim()) == 1
    watch.close()
    watch.close()


def test_losses_that_cannot_be_counted_any_more(store: Store, new_worker: NewWorker, rescuer: TestWorker) -> None:
    job_id, dead = enqueued(store), new_worker()
    run_sql(store, f"UPDATE dbqueue_jobs SET losses = {2**31 - 1}")
    dead.claim()
    run_sql(store, "UPDATE dbqueue_workers SET lease_seconds = 1 WHERE id = :id", id=dead.id)
    assert rescuer.session.rescue(max_losses=3, now=later())
    assert row(store, job_id)["status"] == "FAILURE"


def test_a_job_whose_id_is_bytes(sqlite_url: str) -> None:
    """SQLite keeps these in any column. Nothing can wait for such a job, and those beside it are taken back."""
    with (
        opened(sqlite_url) as store,
        contextlib.closing(TestWorker(store, lease_seconds=5)) as dead,
        contextlib.closing(TestWorker(store, lease_seconds=3600)) as rescuer,
    ):
        store.enqueue_workflow(chain("a", "b"))
        dead.claim_one(once=["shop.pack"])
        columns = "id, task, status, worker, lease, ready_at, redeliver, successors"
        values = "x'00ff', 't', 'STARTED', :worker, 'lease', NULL, false, true"
        run_sql(store, f"INSERT INTO dbqueue_jobs ({columns}) VALUES ({values})", worker=dead.id)
        (rescued,) = rescuer.session.rescue(max_losses=3, now=later())
        assert (rescued.requeued, rescued.failed) == (0, 2)
        assert count(store, "status = 'FAILURE'") == count(store) == 3
