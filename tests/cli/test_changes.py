"""Operators' changes beside workers: only jobs in the state that a change starts from are touched."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from dbqueue.jobs import NewJob, Retried, Succeeded
from dbqueue.store import changes, open_store, queries
from dbqueue.store.base import Store
from dbqueue.store.reading import database_time
from dbqueue.store.records import Claim, WorkerInfo
from dbqueue.store.sessions import WorkSession

LEASE = "5a1d9e3c-7a44-4c6e-9d7d-2a0f5b1c8e11"


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = open_store(database_url, shown_url=database_url)
    yield store
    store.close()


@pytest.fixture
def session(store: Store) -> Iterator[WorkSession]:
    """A live worker's session."""
    session = store.work_session("test")
    session.register(WorkerInfo("w#1", "w", "host", 1, "prefork", 1, ("celery",), "0", 30.0))
    yield session
    session.close()


def claim(session: WorkSession) -> list[str]:
    return [job.id for job in session.round([], Claim("w#1", LEASE, ["celery"], 10)).claimed]


def test_a_running_job_is_left_alone(store: Store, session: WorkSession) -> None:
    store.enqueue([NewJob("a", "t", "celery"), NewJob("b", "t", "other")])
    assert claim(session) == ["a"]
    assert changes.cancel(store, ["a"]) == set()
    assert changes.retry(store, ["a"]) == set()
    assert changes.delete(store, ["a", "b"]) == set()
    assert changes.purge(store) == 1
    assert queries.statuses(store, ["a", "b"]) == {"a": "STARTED"}
    assert session.round([Succeeded("a", LEASE, "1", 0.1)], None).settled == {"a"}


def test_retry_makes_an_ended_job_new(store: Store, session: WorkSession) -> None:
    store.enqueue([NewJob("a", "t", "celery", options='{"shadow": "é"}')])
    claim(session)
    session.round([Retried("a", LEASE, '{"exc_type": "E"}', "Traceback", 0.1)], None)
    claim(session)
    session.round([Succeeded("a", LEASE, "1", 0.1)], None)
    assert changes.retry(store, ["a"]) == {"a"}
    row = queries.find_job(store, "a")
    assert row is not None
    assert (row.status, row.retries, row.losses) == ("PENDING", 0, 0)
    assert (row.result, row.traceback, row.started_at, row.finished_at, row.worker) == (None,) * 5
    assert row.options == '{"shadow": "é", "retried_by_operator": 1}'
    assert claim(session) == ["a"]
    session.round([Succeeded("a", LEASE, "2", 0.1)], None)
    changes.retry(store, ["a"])
    row = queries.find_job(store, "a")
    assert row is not None
    assert row.options == '{"shadow": "é", "retried_by_operator": 2}'


def test_retry_keeps_a_future_eta_and_drops_a_past_expiry(store: Store, session: WorkSession) -> None:
    eta = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    store.enqueue([NewJob("later", "t", "celery", eta=eta), NewJob("late", "t", "celery", expires_seconds=-5)])
    assert changes.cancel(store, ["later", "late"]) == {"later", "late"}
    assert changes.retry(store, ["later", "late"]) == {"later", "late"}
    later, late = queries.find_job(store, "later"), queries.find_job(store, "late")
    assert later is not None
    assert late is not None
    assert later.ready_at == eta
    assert late.expires_at is None
    assert claim(session) == ["late"]


def test_jobs_of_a_worker_that_stopped_are_orphans_and_may_be_retried(store: Store, session: WorkSession) -> None:
    store.enqueue([NewJob("a", "t", "celery")])
    claim(session)
    assert queries.orphans(store) == []
    session.close_worker("w#1")
    assert queries.orphans(store) == ["a"]
    assert changes.retry(store, ["a"]) == {"a"}
    assert queries.orphans(store) == []
    assert session.round([Succeeded("a", LEASE, "1", 0.1)], None).settled == frozenset()


def test_counts_and_workers(store: Store, session: WorkSession) -> None:
    store.enqueue([NewJob("a", "t", "celery"), NewJob("b", "t", "celery", delay_seconds=60), NewJob("c", "t", "x")])
    celery, other = queries.queue_counts(store)
    assert (celery.queue, celery.waiting, celery.scheduled, celery.running) == ("celery", 1, 1, 0)
    assert (other.queue, other.waiting) == ("x", 1)
    assert celery.oldest_ready_at is not None
    assert celery.oldest_ready_at <= database_time(store)
    (worker,) = queries.open_workers(store)
    assert (worker.name, worker.queues, worker.alive) == ("w", ("celery",), True)
    assert queries.missing_indexes(store) == []
