"""What operators change: jobs that are to run again begin anew, and a purge takes what waits and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue.errors import OperationalError
from dbqueue.jobs import Progress, Released, Retried, Succeeded
from dbqueue.limits import Limit
from dbqueue.store import changes, limits, revoking
from dbqueue.store.base import Store
from dbqueue.workflows import ERRBACK, Edge, Workflow
from tests.stores import TestWorker, count, enqueued, held, moment, new_job, row, run_sql

LATER = datetime(2050, 1, 1, tzinfo=UTC)


def test_a_job_that_is_to_run_again_begins_anew(store: Store, worker: TestWorker) -> None:
    """One of a worker that has stopped: what it had used up, and what it showed, is forgotten; its expiry holds."""
    enqueued(store, expires_at=LATER)
    job = worker.claim_one()
    worker.settle(Released(job.id, job.lease, job.ready_at, lost=True))
    job = worker.claim_one()
    worker.settle(Retried(job.id, job.lease, "{}", "Traceback", 0.0))
    job = worker.claim_one()
    worker.session.report([Progress(job.id, job.lease, "PACKING", "1")])
    assert changes.retry(store, [job.id]) == set()  # it runs
    worker.session.close_worker(worker.id)
    assert changes.retry(store, [job.id]) == {job.id}
    after = row(store, job.id)
    assert (after["status"], after["losses"], after["retries"]) == ("PENDING", 0, 0)
    emptied = ("state", "meta", "worker", "lease", "started_at", "result", "traceback")
    assert {after[name] for name in emptied} == {None}
    assert moment(after["expires_at"]) == LATER


def test_an_expiry_that_has_passed_goes_too(store: Store, worker: TestWorker) -> None:
    job_id = enqueued(store)
    worker.settle(Succeeded(job_id, worker.claim_one().lease, "1", 0.0))
    run_sql(store, "UPDATE dbqueue_jobs SET expires_at = '2020-01-01 00:00:00.000'")
    assert changes.retry(store, [job_id]) == {job_id}
    assert row(store, job_id)["expires_at"] is None


def test_many_jobs_run_again_by_as_many_statements_as_one(store: Store) -> None:
    """Each keeps its own options. One statement for each job took a minute for seventy thousand."""
    odd = {"lone surrogate": r'{"x":"\ud800"}', "nul": r'{"x":"\u0000 \\ \" é"}', "no object": "[1]", "none": None}
    options = {f"job {number}": f'{{"group_index":{number}}}' for number in range(100)} | odd
    for job_id, text in options.items():
        enqueued(store, id=job_id, options=text)
    run_sql(store, "UPDATE dbqueue_jobs SET status = 'FAILURE', ready_at = NULL, finished_at = created_at")

    def statements(job_ids: list[str]) -> int:
        number = 0

        def count_it(*_: object) -> None:
            nonlocal number
            number += 1

        sa.event.listen(store.engine, "before_cursor_execute", count_it)
        try:
            assert changes.retry(store, job_ids) == set(job_ids)
        finally:
            sa.event.remove(store.engine, "before_cursor_execute", count_it)
        return number

    first, *others = options
    assert statements([first]) == statements(others)
    for job_id, text in options.items():
        before = json.loads(text or "{}")
        before = before if isinstance(before, dict) else {}
        after = row(store, job_id)
        kept = after["options"] if isinstance(after["options"], dict) else json.loads(after["options"])
        assert kept == before | {"retried_by_operator": 1}
        assert (after["status"], after["finished_at"]) == ("PENDING", None)


def test_an_eager_call_stores_nothing_in_the_place_of_a_job_that_waits(store: Store) -> None:
    job = new_job("job")
    store.enqueue([job])
    with pytest.raises(OperationalError):
        changes.record(store, job, status="SUCCESS", result="1", traceback=None, retries=0, worker="eager")
    assert row(store, "job")["status"] == "PENDING"


def test_more_jobs_than_one_statement_takes_run_again(store: Store) -> None:
    ids = {f"job {number:04}" for number in range(1001)}
    store.enqueue([new_job(job_id) for job_id in ids])
    run_sql(store, "UPDATE dbqueue_jobs SET status = 'FAILURE', ready_at = NULL, finished_at = created_at")
    assert changes.retry(store, ids) == ids
    assert count(store, "status = 'PENDING'") == len(ids)


def test_a_job_that_was_called_off_before_its_time_waits_for_it_again(store: Store) -> None:
    job_id = enqueued(store, eta=LATER)
    changes.cancel(store, [job_id])
    assert changes.retry(store, [job_id]) == {job_id}
    assert moment(row(store, job_id)["ready_at"]) == LATER


def test_a_result_in_another_serializer_goes_too(store: Store, worker: TestWorker) -> None:
    job_id = enqueued(store)
    worker.settle(Succeeded(job_id, worker.claim_one().lease, '{"content_type": "x"}', 0.0, b"\x80"))
    assert changes.retry(store, [job_id]) == {job_id}
    assert (row(store, job_id)["result"], row(store, job_id)["result_content"]) == (None, None)


def test_a_limited_job_that_is_to_run_again_waits_for_a_permit(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "key", Limit(running=1))
    job_id = held(store, "key")
    (job,) = worker.claim_held().claimed
    worker.settle(Succeeded(job_id, job.lease, "1", 0.0))
    assert changes.retry(store, [job_id]) == {job_id}
    assert worker.claim() == []
    assert [job.id for job in worker.claim_held().claimed] == [job_id]


def test_a_limited_job_of_a_worker_that_has_stopped_gives_its_permit_back(store: Store, worker: TestWorker) -> None:
    """It would hold the permit that it waits for."""
    limits.set_limit(store, "key", Limit(running=1))
    job_id = held(store, "key")
    worker.claim_held()
    worker.session.close_worker(worker.id)
    assert changes.retry(store, [job_id]) == {job_id}
    assert row(store, job_id)["permit"] is None
    assert [(each.running, each.held) for each in limits.rows(store)] == [(0, 1)]


def test_only_what_has_ended_is_deleted(store: Store, worker: TestWorker) -> None:
    running = enqueued(store)
    worker.claim_one()
    waiting = enqueued(store)
    assert changes.delete(store, [running, waiting]) == set()
    assert not store.forget(running)
    assert count(store) == 2


@pytest.mark.parametrize("call_off", [changes.cancel, revoking.revoke])
def test_a_job_that_is_called_off_waits_for_no_permit(
    store: Store, call_off: Callable[[Store, list[str]], Any]
) -> None:
    job_id = held(store, "key")
    call_off(store, [job_id])
    assert [each.held for each in limits.rows(store) if each.key == "key"] in ([], [0])
    assert (row(store, job_id)["held_at"], row(store, job_id)["blocked_reason"]) == (None, None)


@pytest.mark.parametrize("call_off", [changes.cancel, revoking.revoke])
def test_more_jobs_are_called_off_than_a_statement_takes_parameters(
    store: Store, call_off: Callable[[Store, list[str]], Any]
) -> None:
    ids = [enqueued(store), *("x" * 300 + str(number) for number in range(70_000))]  # too long for an id: nobody's
    call_off(store, ids)
    assert (count(store), row(store, ids[0])["status"]) == (1, "REVOKED")


@pytest.mark.parametrize("call_off", [changes.cancel, revoking.revoke])
def test_what_waits_to_be_tried_again_is_called_off(
    store: Store, worker: TestWorker, call_off: Callable[[Store, list[str]], Any]
) -> None:
    job_id = enqueued(store)
    worker.settle(Retried(job_id, worker.claim_one().lease, "{}", "Traceback", 0.0, 3600.0))
    call_off(store, [job_id])
    assert (row(store, job_id)["status"], row(store, job_id)["traceback"]) == ("REVOKED", None)


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"queues": ["mail"]}, 4),
        ({"excluded": ["mail"]}, 2),
        ({"queues": ["celery", "mail"], "excluded": ["mail"]}, 2),
        ({}, 1),
    ],
)
def test_a_purge_is_of_what_waits_in_these_queues(
    store: Store, worker: TestWorker, options: dict[str, list[str]], left: int
) -> None:
    tried = enqueued(store)
    worker.settle(Retried(tried, worker.claim_one().lease, "{}", "Traceback", 0.0, 3600.0))
    enqueued(store)
    worker.claim_one()
    enqueued(store)
    enqueued(store, delay_seconds=3600.0)
    enqueued(store, queue="mail")
    assert changes.purge(store, **options) == 5 - left
    assert (count(store), count(store, "status = 'STARTED'")) == (left, 1)


def test_nobody_is_told_of_a_job_that_was_purged(store: Store) -> None:
    """Its errback cannot run, for what it would be told of is gone; nor is an edge left."""
    jobs = [new_job("a"), new_job("b"), new_job("e", queue="errors")]
    store.enqueue_workflow(Workflow.of(jobs, [Edge("a", "b"), Edge("a", "e", "error", ERRBACK)]))
    assert changes.purge(store, queues=["celery"]) == 2
    with store.connect() as connection:
        edges = connection.exec_driver_sql("SELECT count(*) FROM dbqueue_edges").scalar_one()
    assert (count(store), edges) == (0, 0)


def test_nobody_is_told_of_a_chord_whose_header_was_purged(store: Store, worker: TestWorker) -> None:
    """In a queue that is not purged: its body ends, and what the purge has ended is no failure to see to."""
    jobs = [new_job("a"), *(new_job(name, queue="other") for name in ("b", "body", "e"))]
    edges = [Edge("a", "body", place="[0]"), Edge("b", "body", place="[1]"), Edge("body", "e", "error", ERRBACK)]
    store.enqueue_workflow(Workflow.of(jobs, edges))
    assert changes.purge(store, queues=["celery"]) == 1
    assert [job.id for job in worker.claim(queues=["other"])] == ["b"]
    assert sorted(store.fetch(["a", "b", "body", "e"])) == ["b", "body"]


def test_a_state_is_shown_on_a_job_that_runs(store: Store, worker: TestWorker) -> None:
    job_id = enqueued(store)
    assert not changes.set_state(store, job_id, state="PACKING", meta="1")
    job = worker.claim_one()
    assert changes.set_state(store, job_id, state="PACKING", meta="1")
    assert (row(store, job_id)["state"], store.fetch([job_id])[job_id].meta) == ("PACKING", "1")
    worker.settle(Succeeded(job_id, job.lease, "1", 0.0))
    assert not changes.set_state(store, job_id, state="LATE", meta=None)
    assert row(store, job_id)["state"] is None
