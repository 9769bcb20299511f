"""Claiming: which jobs, in what order, and under which right."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

import pytest

from dbqueue.jobs import Failed, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.records import Claim
from tests.stores import TestWorker, count, enqueued, held, moment, new_job, opened, row, run_sql

NewWorker = Callable[..., TestWorker]


def in_future(**delta: float) -> datetime:
    return datetime.now(UTC) + timedelta(**delta)


def test_nothing_to_claim(worker: TestWorker) -> None:
    assert worker.claim() == []


def test_a_claim_starts_the_job_under_its_lease(store: Store, worker: TestWorker) -> None:
    job_id = enqueued(store, args='["ü"]', kwargs='{"b":1,"a":2}', headers='{"h":1}', options='{"shadow":"s"}')
    job = worker.claim_one()
    assert (job.id, job.args, job.kwargs, job.headers, job.options) == (
        job_id,
        '["ü"]',
        '{"b":1,"a":2}',
        '{"h":1}',
        '{"shadow":"s"}',
    )
    assert (job.retries, job.losses, job.redeliver, job.expired) == (0, 0, True, False)
    stored = row(store, job_id)
    assert (stored["status"], stored["worker"], str(stored["lease"])) == ("STARTED", worker.id, job.lease)
    assert stored["ready_at"] is None
    assert stored["started_at"] is not None
    assert worker.claim() == []


@pytest.mark.parametrize("limit", [1, 2, 7, 10, 11])
def test_a_claim_takes_no_more_than_its_limit(store: Store, worker: TestWorker, limit: int) -> None:
    store.enqueue([new_job(priority=n % 4, queue=f"q{n % 2}") for n in range(10)])
    claimed = worker.claim(limit, queues=["q0", "q1"])
    assert len(claimed) == min(limit, 10)
    assert count(store, "status = 'STARTED'") == min(limit, 10)


def test_order_is_priority_then_ready_at_then_id(store: Store, worker: TestWorker) -> None:
    base = datetime(2020, 1, 1, tzinfo=UTC)
    for job_id, priority, minute in [("d", 0, 2), ("e", 0, 1), ("b", 9, 5), ("a", 9, 5), ("c", 5, 9), ("f", -3, 0)]:
        enqueued(store, job_id, priority=priority)
        ready = base + timedelta(minutes=minute)
        run_sql(
            store,
            "UPDATE dbqueue_jobs SET ready_at = :at WHERE id = :id",
            at=ready.strftime("%Y-%m-%d %H:%M:%S.000") + ("" if store.dialect == "sqlite" else "+00"),
            id=job_id,
        )
    one_by_one = [job.id for _ in range(3) for job in worker.claim(1)]
    assert one_by_one == ["a", "b", "c"]
    assert [job.id for job in worker.claim()] == ["e", "d", "f"]


def test_earlier_queues_of_the_list_come_first(store: Store, worker: TestWorker) -> None:
    for queue in ("x", "y", "z"):
        enqueued(store, f"{queue}1", queue=queue, priority={"x": 0, "y": 5, "z": 9}[queue])
        enqueued(store, f"{queue}2", queue=queue, priority=-1)
    assert [job.id for job in worker.claim(3, queues=["y", "x"])] == ["y1", "y2", "x1"]
    assert [job.id for job in worker.claim(9, queues=["x", "z"])] == ["x2", "z1", "z2"]


def test_other_queues_are_left_alone(store: Store, worker: TestWorker) -> None:
    enqueued(store, queue="Celery")
    enqueued(store, queue="celery ")
    assert worker.claim(queues=["celery", "absent"]) == []


def test_a_future_job_is_not_claimed_and_told_of(store: Store, worker: TestWorker) -> None:
    job_id = enqueued(store, delay_seconds=3600)
    assert worker.claim() == []
    seconds = worker.session.seconds_until_ready(["celery"])
    assert seconds is not None
    assert 3500 < seconds <= 3600.1
    eta = moment(row(store, job_id)["eta"])
    assert eta is not None
    assert worker.claim(now=eta - timedelta(milliseconds=1)) == []
    assert worker.session.seconds_until_ready(["celery"], now=eta - timedelta(seconds=2)) == pytest.approx(2, abs=0.01)
    assert [job.id for job in worker.claim(now=eta)] == [job_id]


def test_seconds_until_ready_is_of_the_first_of_all_queues_and_priorities(store: Store, worker: TestWorker) -> None:
    assert worker.session.seconds_until_ready(["celery", "b"]) is None
    enqueued(store, priority=9, delay_seconds=3000)
    enqueued(store, priority=0, delay_seconds=2000)
    enqueued(store, queue="b", priority=5, delay_seconds=1000)
    enqueued(store, queue="c", delay_seconds=10)
    ask = worker.session.seconds_until_ready
    assert ask(["celery"]) == pytest.approx(2000, abs=30)
    assert ask(["celery", "b"]) == pytest.approx(1000, abs=30)
    assert ask(["absent"]) is None


def test_seconds_until_ready_of_a_due_job_is_not_positive(store: Store, worker: TestWorker) -> None:
    enqueued(store)
    seconds = worker.session.seconds_until_ready(["celery"], now=in_future(seconds=1))
    assert seconds is not None
    assert seconds <= 0


def test_a_future_job_of_high_priority_does_not_hide_due_ones(store: Store, worker: TestWorker) -> None:
    store.enqueue([new_job(priority=9, delay_seconds=3600) for _ in range(5)])
    due = enqueued(store, priority=0)
    assert [job.id for job in worker.claim(1)] == [due]


def test_expired_jobs_are_claimed_as_such(store: Store, worker: TestWorker) -> None:
    enqueued(store, "fresh", expires_seconds=3600)
    enqueued(store, "stale", expires_at=datetime(2001, 1, 1, tzinfo=UTC))
    enqueued(store, "plain")
    assert {job.id: job.expired for job in worker.claim()} == {"fresh": False, "stale": True, "plain": False}


def test_expiry_follows_the_clock_that_is_given(store: Store, worker: TestWorker) -> None:
    enqueued(store, expires_seconds=60)
    assert worker.claim_one(now=in_future(seconds=61)).expired


def test_times_come_back_with_their_zone(store: Store, worker: TestWorker) -> None:
    eta, expires = datetime(2020, 5, 1, 12, 30, tzinfo=UTC), datetime(2060, 1, 1, tzinfo=UTC)
    enqueued(store, eta=eta, expires_at=expires)
    job = worker.claim_one()
    assert datetime.fromisoformat(job.eta or "") == eta
    assert datetime.fromisoformat(job.expires_at or "") == expires


def test_once_is_written_on_the_row(store: Store, worker: TestWorker) -> None:
    enqueued(store, "a", task="shop.charge")
    enqueued(store, "b", task="shop.pack")
    claimed = {job.id: job.redeliver for job in worker.claim(once=["shop.charge", "shop.unknown"])}
    assert claimed == {"a": False, "b": True}
    assert not row(store, "a")["redeliver"]
    assert row(store, "b")["redeliver"]


def test_a_closed_worker_claims_nothing(store: Store, worker: TestWorker, new_worker: NewWorker) -> None:
    enqueued(store)
    other = new_worker()
    other.session.close_worker(worker.id)
    assert worker.claim() == []
    assert len(other.claim()) == 1


def test_an_unregistered_worker_claims_nothing(store: Store, worker: TestWorker) -> None:
    enqueued(store)
    worker.id = "nobody"
    assert worker.claim() == []


def test_a_blocked_job_is_not_claimed(store: Store, worker: TestWorker) -> None:
    job_id = enqueued(store)
    run_sql(store, "UPDATE dbqueue_jobs SET ready_at = NULL, blocked_reason = 'predecessors' WHERE id = :id", id=job_id)
    assert worker.claim() == []
    assert worker.session.seconds_until_ready(["celery"]) is None


def test_a_round_completes_and_claims(store: Store, worker: TestWorker) -> None:
    enqueued(store, "one")
    enqueued(store, "two")
    first = worker.claim_one(limit=1)
    claim = Claim(worker.id, str(uuid4()), worker.queues, 5)
    result = worker.session.round([Succeeded(first.id, first.lease, "3", 0.5)], claim)
    assert result.settled == {first.id}
    assert [job.lease for job in result.claimed] == [claim.lease]


def test_a_round_calls_back_once(store: Store, worker: TestWorker) -> None:
    enqueued(store, "one")
    second_id = enqueued(store, "two")
    first = worker.claim_one(limit=1)
    called: list[None] = []
    claim = Claim(worker.id, str(uuid4()), worker.queues, 5)
    outcomes = [Succeeded(first.id, first.lease, "3", 0.5)]
    result = worker.session.round(outcomes, claim, meanwhile=lambda: called.append(None))
    assert [job.id for job in result.claimed] == [second_id]
    assert result.settled == {first.id}
    assert len(called) == 1


def test_each_claim_round_may_hold_many_and_finish_them_in_any_order(store: Store, worker: TestWorker) -> None:
    store.enqueue([new_job() for _ in range(300)])
    jobs = worker.claim(300)
    halves = [Succeeded(job.id, job.lease, "null", 0.0) for job in reversed(jobs[:150])]
    rest = [Failed(job.id, job.lease, "{}", None, 0.0) for job in jobs[150:]]
    assert worker.settle(*halves, *rest).settled == {job.id for job in jobs}
    assert (count(store, "status = 'SUCCESS'"), count(store, "status = 'FAILURE'")) == (150, 150)


@pytest.mark.parametrize("eta", ["infinity", "294276-12-31"])
def test_a_time_that_never_comes_is_far_away(postgres_url: str, eta: str) -> None:
    """Its distance to now is an error of PostgreSQL's before 17, and no number that a clock could wait for."""
    with opened(postgres_url) as store, closing(TestWorker(store)) as worker:
        job_id = enqueued(store)
        run_sql(store, "UPDATE dbqueue_jobs SET ready_at = CAST(:eta AS timestamptz)", eta=eta)
        assert worker.claim() == []
        seconds, anything_held = worker.session.outlook(["celery"])
        assert 7000 * 365 * 86400 < (seconds or 0.0) < math.inf
        assert anything_held is False
        run_sql(store, "UPDATE dbqueue_jobs SET ready_at = '-infinity'")
        seconds, _ = worker.session.outlook(["celery"])
        assert -math.inf < (seconds or 0.0) < 0
        assert [job.id for job in worker.claim()] == [job_id]


UNSOUND = {
    "bytes for an id": ("id", "CAST('x' AS blob)"),
    "an id that is no text": ("id", "CAST(x'61ff' AS text)"),
    "a word for a priority": ("priority", "'high'"),
    "bytes for a priority": ("priority", "x'ff'"),
}


@pytest.mark.parametrize("what", UNSOUND)
@pytest.mark.parametrize("limited", [False, True])
def test_a_row_that_cannot_be_named_ends_when_it_is_met(sqlite_url: str, what: str, limited: bool) -> None:
    """SQLite keeps anything in any column. An outcome could not be written for it, and it would be STARTED for ever."""
    with opened(sqlite_url) as store, closing(TestWorker(store)) as worker:
        column, value = UNSOUND[what]
        enqueue = partial(held, store, "k") if limited else partial(enqueued, store)
        enqueue(task="hostile")
        run_sql(store, f"UPDATE dbqueue_jobs SET {column} = {value}")
        innocent = enqueue()
        claimed = worker.claim_held().claimed if limited else worker.claim()
        assert [job.id for job in claimed] == [innocent]
        assert count(store, "task = 'hostile' AND status = 'FAILURE' AND result LIKE '%InvalidTaskError%'") == 1
        assert worker.settle(Succeeded(innocent, claimed[0].lease, "1", 0.0)).settled == {innocent}


def test_what_a_claim_reads_has_the_types_of_its_columns(sqlite_url: str) -> None:
    with opened(sqlite_url) as store, closing(TestWorker(store)) as worker:
        job_id = enqueued(store)
        run_sql(store, "UPDATE dbqueue_jobs SET retries = 'abc', losses = x'00', task = CAST(x'61ff' AS text)")
        job = worker.claim_one()
        assert (job.id, job.retries, job.losses, job.task) == (job_id, 0, 0, "a\ufffd")


def test_an_id_may_hold_the_mark_of_what_is_no_text(sqlite_url: str) -> None:
    with opened(sqlite_url) as store, closing(TestWorker(store)) as worker:
        job_id = enqueued(store, "a\ufffd")
        assert [job.id for job in worker.claim()] == [job_id]


def test_words_in_the_place_of_a_content_are_bytes(sqlite_url: str) -> None:
    with opened(sqlite_url) as store, closing(TestWorker(store)) as worker:
        enqueued(store)
        run_sql(store, "UPDATE dbqueue_jobs SET content_type = 'x', content = 'words'")
        assert worker.claim_one().content == b"words"
