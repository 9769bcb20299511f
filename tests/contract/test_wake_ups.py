"""Whatever lets a job run tells the workers that sleep: on PostgreSQL, where they listen."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.jobs import Failed, Outcome, Released, Retried, Succeeded
from dbqueue.limits import Limit, Policies
from dbqueue.store import changes, limits, queues, revoking, schedules
from dbqueue.store.base import Store
from dbqueue.store.postgres.copying import FEWEST
from dbqueue.store.schedules import NewSchedule, Step
from dbqueue.store.transactions.joining import enqueue_in
from dbqueue.store.transactions.tasks import TaskTransaction
from dbqueue.workflows import APPEND, BODY, ERRBACK, Edge, Event, Workflow
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, held, new_job

Call = Callable[[], Any]
Write = Callable[[TestWorker, Outcome], Any]
FOR_LONG = 60.0
"""The NOTIFY comes at once, or never."""


def after(event: Event) -> Workflow:
    """Two jobs, of which the second waits for an event of the first."""
    place = ERRBACK if event == "error" else None
    return Workflow.of([new_job("first"), new_job("second")], [Edge("first", "second", event, place)])


def beside_locks(worker: TestWorker, outcome: Outcome) -> Any:
    """The outcome is written as it is where somebody has locked rows of others."""
    return worker.session.settle_free([outcome], linked=worker.linked)


def an_end(event: Event, write: Write = TestWorker.settle) -> Callable[[Store, TestWorker], Call]:
    def prepare(store: Store, worker: TestWorker) -> Call:
        store.enqueue_workflow(after(event))
        job = worker.claim_one()
        if event == "success":
            return lambda: write(worker, Succeeded(job.id, job.lease, "1", 0.0))
        return lambda: write(worker, Failed(job.id, job.lease, "{}", None, 0.0))

    return prepare


def a_purge(store: Store, worker: TestWorker) -> Call:
    jobs = [new_job("first"), new_job("second", queue="reports")]
    store.enqueue_workflow(Workflow.of(jobs, [Edge("first", "second", "end")]))
    return lambda: changes.purge(store, queues=["celery"])


def called_off(call_off: Callable[[Store, list[str]], Any]) -> Callable[[Store, TestWorker], Call]:
    def prepare(store: Store, worker: TestWorker) -> Call:
        store.enqueue_workflow(after("error"))
        return lambda: call_off(store, ["first"])

    return prepare


def a_retry(store: Store, worker: TestWorker) -> Call:
    enqueued(store)
    job = worker.claim_one()
    return lambda: worker.settle(Retried(job.id, job.lease, "{}", None, 0.0))


def a_retry_beside_locks(store: Store, worker: TestWorker) -> Call:
    enqueued(store)
    job = worker.claim_one()
    return lambda: beside_locks(worker, Retried(job.id, job.lease, "{}", None, 0.0))


def a_release(store: Store, worker: TestWorker) -> Call:
    enqueued(store)
    job = worker.claim_one()
    return lambda: worker.settle(Released(job.id, job.lease, job.ready_at))


def a_rescue(store: Store, worker: TestWorker) -> Call:
    dead = TestWorker(store, lease_seconds=5)
    enqueued(store)
    dead.claim_one()
    dead.close()
    return lambda: worker.session.rescue(max_losses=3, now=datetime.now(UTC) + timedelta(seconds=10))


def parked(store: Store, worker: TestWorker) -> Call:
    enqueued(store)
    return lambda: worker.session.park(["shop.pack"], ["celery"], most=1)


def an_operators_retry(store: Store, worker: TestWorker) -> Call:
    job_id = enqueued(store)
    changes.cancel(store, [job_id])
    return lambda: changes.retry(store, [job_id])


def a_resumption(store: Store, worker: TestWorker) -> Call:
    queues.pause(store, ["celery"])
    return lambda: queues.resume(store, ["celery"])


def a_cleared_limit(store: Store, worker: TestWorker) -> Call:
    limits.set_limit(store, "key", Limit(running=0))
    return lambda: limits.clear_limit(store, "key")


def declared_anew(key: str | None) -> Callable[[Store, TestWorker], Call]:
    def prepare(store: Store, worker: TestWorker) -> Call:
        # One limit is another, and those after it are as they were.
        slow, fast = (
            Policies({"shop.pack": Limit(rate=rate, key=key), "shop.mail": Limit(running=1)})
            for rate in ("1/h", "100/s")
        )
        held(store, "shop.pack")
        limits.declare(store, slow)
        worker.claim_held(policies=slow)  # which makes the limit of a call
        return lambda: limits.declare(store, fast)

    return prepare


def a_schedule(store: Store, worker: TestWorker) -> Call:
    schedules.put(store, NewSchedule("tick", "shop.tick", "every 60 seconds", "UTC"), enabled=True)
    return lambda: schedules.advance(store, "tick", lambda _, now: Step(now, "", jobs=[new_job()], last_due_at=now))


def a_further_header(store: Store, worker: TestWorker) -> Call:
    headers = [Edge("header", "body", place="[0]")]
    store.enqueue_workflow(Workflow.of([new_job("header"), new_job("body")], headers))
    job = worker.claim_one()
    more = Workflow((new_job("more"),), (Edge("more", BODY, place=APPEND),))
    return lambda: store.add_header(more, job.id, job.lease)


def a_transactional_success(store: Store, worker: TestWorker) -> Call:
    store.enqueue_workflow(after("success"))
    job = worker.claim_one()

    def run() -> None:
        transaction = TaskTransaction(store, job, idle_seconds=None)
        transaction.connection.execute(sa.text("SELECT 1"))
        transaction.commit(Succeeded(job.id, job.lease, "1", 0.0))

    return run


def a_job_of_a_tasks_own_transaction(store: Store, worker: TestWorker) -> Call:
    enqueued(store)
    job = worker.claim_one()

    def run() -> None:
        transaction = TaskTransaction(store, job, idle_seconds=None)
        enqueue_in(store, transaction.connection, [new_job()])
        transaction.commit(Succeeded(job.id, job.lease, "1", 0.0))

    return run


def a_further_header_of_a_tasks_own_transaction(store: Store, worker: TestWorker) -> Call:
    headers = [Edge("header", "body", place="[0]")]
    store.enqueue_workflow(Workflow.of([new_job("header"), new_job("body")], headers))
    job = worker.claim_one()
    more = Workflow((new_job("more"),), (Edge("more", BODY, place=APPEND),))

    def run() -> None:
        transaction = TaskTransaction(store, job, idle_seconds=None)
        assert transaction.add_header(more)
        transaction.commit(Succeeded(job.id, job.lease, "1", 0.0))

    return run


WAYS: dict[str, Callable[[Store, TestWorker], Call]] = {
    "a job": lambda store, _: lambda: store.enqueue([new_job()]),
    "a unique job": lambda store, _: lambda: store.enqueue([new_job(unique_key="key")]),
    "some jobs": lambda store, _: lambda: store.enqueue([new_job(), new_job()]),
    "many jobs": lambda store, _: lambda: store.enqueue([new_job() for _ in range(FEWEST)]),
    "a workflow": lambda store, _: lambda: store.enqueue_workflow(after("success")),
    "a further header": a_further_header,
    "a predecessor's success": an_end("success"),
    "a predecessor's failure": an_end("error"),
    "a predecessor's end": an_end("end"),
    "a predecessor's success beside locks": an_end("success", beside_locks),
    "a predecessor's failure beside locks": an_end("error", beside_locks),
    "a transactional predecessor's success": a_transactional_success,
    "a job of a task's own transaction": a_job_of_a_tasks_own_transaction,
    "a further header of a task's own transaction": a_further_header_of_a_tasks_own_transaction,
    "a predecessor that is revoked": called_off(revoking.revoke),
    "a predecessor that is cancelled": called_off(changes.cancel),
    "a retry": a_retry,
    "a retry beside locks": a_retry_beside_locks,
    "a release": a_release,
    "a rescue": a_rescue,
    "parked jobs": parked,
    "a purge of another queue": a_purge,
    "an operator's retry": an_operators_retry,
    "the end of a pause": a_resumption,
    "another limit": lambda store, _: lambda: limits.set_limit(store, "key", Limit(running=1)),
    "a cleared limit": a_cleared_limit,
    "another limit of the code": declared_anew(None),
    "another limit of the code for calls": declared_anew("{id}"),
    "a schedule": a_schedule,
}


@pytest.fixture
def database_url(postgres_url: str) -> str:
    return postgres_url


@pytest.mark.parametrize("way", WAYS)
def test_workers_hear_of(store: Store, worker: TestWorker, postgres_url: str, way: str) -> None:
    call = WAYS[way](store, worker)
    count(store)  # by now the wake-up of the last enqueue is over: no connection is given away before
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as sleeper:
        sleeper.execute("LISTEN dbqueue")
        call()
        assert list(sleeper.notifies(timeout=FOR_LONG, stop_after=1)), "nobody was told"
