"""Jobs that wait for permits, and calls that are called off, beside transactions of others that are still open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dbqueue.limits import Limit, Policies
from dbqueue.store import limits, revoking
from dbqueue.store.base import Store
from dbqueue.store.held import BUSY_SECONDS
from dbqueue.store.transactions.joining import enqueue_in
from dbqueue.workflows import Edge, Workflow
from tests.concurrency.test_open_transactions import CLAIMS, KEY, Waiting
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, held, new_job, opened, row, run_sql


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


@pytest.fixture
def worker(store: Store) -> Iterator[TestWorker]:
    worker = TestWorker(store)
    yield worker
    worker.close()


@pytest.fixture
def other(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(libpq_url(postgres_url)) as other:
        yield other


@pytest.mark.parametrize("how", ["held", "of freed permits"])
def test_a_claim_passes_by_what_another_has_locked(
    store: Store, worker: TestWorker, other: psycopg.Connection[Any], how: str
) -> None:
    limits.set_limit(store, KEY, Limit(running=2))
    locked, free = held(store, KEY), held(store, KEY)
    other.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [locked])
    assert [job.id for job in CLAIMS[how](worker)] == [free]
    other.rollback()
    assert [job.id for job in CLAIMS[how](worker)] == [locked]


def test_a_key_that_another_worker_admits_jobs_of_is_tried_again_soon(
    store: Store, worker: TestWorker, other: psycopg.Connection[Any]
) -> None:
    """Nobody tells when the other has done so: there may be permits left."""
    limits.set_limit(store, KEY, Limit(running=1))
    job_id = held(store, KEY)
    other.execute("SELECT FROM dbqueue_limits WHERE key = %s FOR UPDATE", [KEY])
    found = worker.claim_held()
    assert (found.claimed, found.again_seconds) == ([], BUSY_SECONDS)
    other.rollback()
    assert [job.id for job in worker.claim_held().claimed] == [job_id]


def test_a_claim_of_freed_permits_waits_for_another_of_the_key(
    store: Store, worker: TestWorker, other: psycopg.Connection[Any]
) -> None:
    """It counts what is in use when it has the key: nobody else admits meanwhile."""
    limits.set_limit(store, KEY, Limit(running=1))
    first, _ = held(store, KEY), held(store, KEY)
    other.execute("SELECT FROM dbqueue_limits WHERE key = %s FOR UPDATE", [KEY])
    claim = Waiting(store, lambda: [job.id for job in CLAIMS["of freed permits"](worker)])
    other.rollback()
    assert claim.result() == [first]


def test_a_limit_that_is_in_use_again_is_not_deleted_for_having_been_idle(
    store: Store, worker: TestWorker, other: psycopg.Connection[Any]
) -> None:
    """A claim has locked it, and is about to note what it spends: the upkeep neither waits for it nor forgets that."""
    held(store, KEY)
    worker.claim_held(policies=Policies({"shop.pack": Limit(rate="1/h", key="{id}")}))
    run_sql(store, "DELETE FROM dbqueue_jobs")
    run_sql(store, "UPDATE dbqueue_limits SET updated_at = now() - interval '2 days'")
    other.execute("UPDATE dbqueue_limits SET updated_at = now() WHERE key = %s", [KEY])
    assert worker.session.prune_limits() == 0
    other.commit()
    assert worker.session.prune_limits() == 0
    assert [each.key for each in limits.rows(store)] == [KEY]


def test_an_operators_limit_is_not_overwritten_by_that_of_the_code(
    store: Store, worker: TestWorker, other: psycopg.Connection[Any]
) -> None:
    """Which a worker is about to write that has found none."""
    held(store, KEY)
    other.execute("INSERT INTO dbqueue_limits (key, max_running, source) VALUES (%s, 0, 'user')", [KEY])
    claim = Waiting(store, lambda: worker.claim_held(policies=Policies({"shop.pack": Limit(running=5, key="{id}")})))
    other.commit()
    assert claim.result().claimed == []
    assert [(each.max_running, each.source) for each in limits.rows(store)] == [(0, "user")]


def test_a_revoke_waits_for_the_enqueue_of_its_id(store: Store, other: psycopg.Connection[Any]) -> None:
    """It is about to write down that the id is not to run: the job that comes instead is ended."""
    before = enqueued(store)
    enqueue_in(store, other, [new_job("id")])
    revoke = Waiting(store, lambda: revoking.revoke(store, [before, "id"]))
    other.commit()
    assert revoke.result().ended == {before: "shop.pack", "id": "shop.pack"}
    assert row(store, "id")["status"] == "REVOKED"


def test_workers_hear_of_what_a_revoke_let_run_before_it_met_an_enqueue(
    store: Store, other: psycopg.Connection[Any], postgres_url: str
) -> None:
    """It looks at all of its ids again, and finds nothing more to let run."""
    store.enqueue_workflow(Workflow.of([new_job("a"), new_job("errback")], [Edge("a", "errback", "error")]))
    enqueue_in(store, other, [new_job("id")])
    revoke = Waiting(store, lambda: revoking.revoke(store, ["a", "id"]))
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as sleeper:
        sleeper.execute("LISTEN dbqueue")
        other.commit()
        assert sorted(revoke.result().ended) == ["a", "id"]
        told = list(sleeper.notifies(timeout=20, stop_after=2))
    assert len(told) == 2, "of the enqueue, and of the errback"
