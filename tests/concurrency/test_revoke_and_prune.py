"""Revoke, rescue, complete and prune in a given order: each waits for a lock of the test's, and comes in its turn."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.jobs import Failed, Succeeded
from dbqueue.store import changes, revoking
from dbqueue.store.base import Store
from dbqueue.workflows import Edge, Workflow
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, new_job, opened, row
from tests.waiting import wait_until

ERROR = '{"exc_type": "ValueError", "exc_message": ["bad"], "exc_module": "builtins"}'
LATER = timedelta(seconds=60)
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


class Gate:
    """Holds a job's row on PostgreSQL, which goes to those who wait in their order; on SQLite the one write lock."""

    def __init__(self, store: Store, url: str, job: str) -> None:
        self._store = store
        self._threads: list[threading.Thread] = []
        self.found: dict[str, Any] = {}
        self._held: Any
        if store.dialect == "postgresql":
            self._held = psycopg.connect(libpq_url(url))
            self._held.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [job])
        else:
            self._held = sqlite3.connect(str(sa.make_url(url).database), isolation_level=None)
            self._held.execute("BEGIN IMMEDIATE")

    def queue(self, name: str, call: Callable[[], Any]) -> None:
        """Start the call in a thread, and return when it waits."""
        begun = threading.Event()

        def run() -> None:
            begun.set()
            try:
                self.found[name] = call()
            except BaseException as error:  # noqa: BLE001
                self.found[name] = error

        thread = threading.Thread(target=run)
        self._threads.append(thread)
        thread.start()
        begun.wait()
        if self._store.dialect == "postgresql":
            wait_until(lambda: self._waiting() == len(self._threads), what=f"{name} to wait")

    def open(self) -> None:
        """Let them go; all had to wait until now, and have ended when this returns."""
        assert self.found == {}
        self._held.rollback()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def close(self) -> None:
        self._held.rollback()
        self._held.close()

    def _waiting(self) -> int:
        with self._store.connect() as connection:
            return int(connection.execute(sa.text(WAITING)).scalar_one())


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with opened(database_url) as store:
        yield store


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


@pytest.mark.parametrize("order", list(permutations(["revoke", "rescue", "complete"])), ids="-".join)
def test_three_ends_of_a_run(store: Store, database_url: str, order: tuple[str, ...]) -> None:
    """A completion before the rescue stands; after it the lease is gone. What was revoked is marked, or has ended."""
    dead, rescuer = TestWorker(store, lease_seconds=5), TestWorker(store, lease_seconds=3600)
    job = enqueued(store)
    run = dead.claim_one()
    later = datetime.now(UTC) + LATER
    calls: dict[str, Callable[[], Any]] = {
        "revoke": lambda: revoking.revoke(store, [job]),
        "rescue": lambda: rescuer.session.rescue(max_losses=5, now=later),
        "complete": lambda: dead.settle(Succeeded(job, run.lease, "1", 0.0)).settled,
    }
    gate = Gate(store, database_url, job)
    try:
        passed: Any = None
        for name in order:
            if name == "rescue" and store.dialect == "postgresql":
                passed = calls[name]()  # it does not wait for a row that another holds: it comes again
            else:
                gate.queue(name, calls[name])
        gate.open()
    finally:
        gate.close()
    found, end = gate.found, row(store, job)
    if passed is not None:
        found["rescue"] = passed
    completed = job in found["complete"]
    rescued = [each.requeued for each in found["rescue"]] == [1]
    running, ended = job in found["revoke"].running, job in found["revoke"].ended
    assert completed != rescued, "a lease ends once: by its completion or by the rescue"
    assert not (running and ended)
    if completed:
        assert (end["status"], str(end["lease"]), ended) == ("SUCCESS", run.lease, False)
    elif ended:
        assert end["status"] == "REVOKED"
    else:  # it was running then: its mark is there for whoever claims it, who ends it
        assert (running, end["status"]) == (True, "PENDING")
        assert end["revoked_at"] is not None
    if store.dialect == "postgresql":  # the first in the queue is the first; of the others, who follows it may overtake
        assert running or order[0] != "revoke"
        assert completed or order[0] != "complete"
        assert not rescued
    assert dead.claim() == []
    for worker in (dead, rescuer):
        worker.close()


def test_a_claim_and_a_heartbeat_pass_a_revoke_that_waits(postgres: Store, postgres_url: str) -> None:
    worker, watch = TestWorker(postgres), postgres.watch_session("test")
    job, other = enqueued(postgres), enqueued(postgres)
    gate = Gate(postgres, postgres_url, job)
    try:
        gate.queue("revoke", lambda: revoking.revoke(postgres, [job]))
        assert watch.heartbeat(worker.id)
        assert [each.id for each in worker.claim()] == [other]
        gate.open()
    finally:
        gate.close()
    assert gate.found["revoke"].ended == {job: "shop.pack"}
    assert worker.claim() == []
    watch.close()
    worker.close()


def test_a_completion_is_there_for_the_prune_that_follows(store: Store, database_url: str) -> None:
    """A prune deletes what has ended, and neither what runs nor what another is about to end."""
    worker, pruner = TestWorker(store), TestWorker(store)
    job = enqueued(store)
    run = worker.claim_one()
    gate = Gate(store, database_url, job)
    try:
        gate.queue("complete", lambda: worker.settle(Succeeded(job, run.lease, "1", 0.0)).settled)
        if store.dialect == "postgresql":  # which sees the row as it was, and does not wait for it
            assert pruned(pruner) == 0
        gate.open()
    finally:
        gate.close()
    assert gate.found == {"complete": frozenset([job])}
    assert pruned(pruner) == 1
    assert count(store) == 0
    assert worker.settle(Succeeded(job, run.lease, "2", 0.0)).settled == frozenset()
    for each in (worker, pruner):
        each.close()


def test_a_workflow_that_an_operator_lets_run_again_is_not_deleted(store: Store, database_url: str) -> None:
    """The prune has found it ripe, and waits for the rows that the operator puts back."""
    worker, pruner = TestWorker(store), TestWorker(store)
    store.enqueue_workflow(Workflow.of([new_job("a"), new_job("b")], [Edge("a", "b")]))
    run = worker.claim_one()
    worker.settle(Failed("a", run.lease, ERROR, None, 0.0))
    gate = Gate(store, database_url, "a")
    try:
        gate.queue("retry", lambda: changes.retry(store, ["a"]))
        gate.queue("prune", lambda: pruned(pruner))
        gate.open()
    finally:
        gate.close()
    put_back = gate.found["retry"]
    assert (put_back, gate.found["prune"]) in (({"a", "b"}, 0), (set(), 2))
    assert count(store) == len(put_back)
    assert [each.id for each in worker.claim()] == sorted(put_back)[:1]
    for each in (worker, pruner):
        each.close()


def test_two_prunes_delete_a_job_once(store: Store, database_url: str) -> None:
    workers = [TestWorker(store) for _ in range(2)]
    job = enqueued(store)
    run = workers[0].claim_one()
    workers[0].settle(Succeeded(job, run.lease, "1", 0.0))
    results: list[int] = []
    barrier = threading.Barrier(2)

    def prune(worker: TestWorker) -> None:
        barrier.wait()
        results.append(pruned(worker))

    threads = [threading.Thread(target=prune, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(results) == 1
    assert count(store) == 0
    for worker in workers:
        worker.close()


def test_a_prune_waits_for_no_job_that_is_locked(postgres_url: str) -> None:
    """By an operator's transaction, say, which lets it run again: the others go, and that one if it is free later."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as operator:
        worker, jobs = TestWorker(store), [enqueued(store) for _ in range(2)]
        worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in worker.claim()))
        operator.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [jobs[0]])
        assert pruned(worker) == 1
        assert count(store) == 1
        operator.rollback()
        assert pruned(worker) == 1
        worker.close()


def pruned(worker: TestWorker) -> int:
    """All that has ended, a day from now."""
    now = datetime.now(UTC) + timedelta(days=1)
    deleted = worker.session.prune(older_than_seconds=60.0, limit=100, now=now)
    while worker.session.is_pruning:
        deleted += worker.session.prune(older_than_seconds=60.0, limit=100, now=now)
    return deleted


@pytest.mark.parametrize("runs", [False, True], ids=["waits", "runs"])
@pytest.mark.parametrize(
    "before", ["UPDATE", "SELECT", "INSERT"], ids=["before the mark", "before the last look", "after it"]
)
def test_a_job_that_is_enqueued_amid_its_revoke_is_called_off(postgres: Store, runs: bool, before: str) -> None:
    """Each statement sees what was committed before it: this job is there for the last ones alone."""
    worker = TestWorker(postgres)
    job = new_job()
    updates, to_come = 0, [job]

    def enqueue(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        nonlocal updates
        updates += statement.lstrip().startswith("UPDATE")  # the first ends what waits, the second marks what runs
        if to_come and updates == 2 and statement.lstrip().startswith(before):
            postgres.enqueue([to_come.pop()])
            if runs:
                assert [each.id for each in worker.claim()] == [job.id]

    sa.event.listen(postgres.engine, "before_cursor_execute", enqueue)
    found = revoking.revoke(postgres, [job.id])
    assert not to_come
    end = row(postgres, job.id)
    if runs:
        assert found.running == {job.id}
        assert end["revoked_at"] is not None
    else:
        assert found.ended == {job.id: job.task}
        assert end["status"] == "REVOKED"
    worker.close()
