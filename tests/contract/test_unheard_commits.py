"""The commit of a transactional task had no answer: what its job's row says, once all that was under way is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest
import sqlalchemy as sa

from dbqueue.errors import LeaseLost, NotCommitted, OperationalError
from dbqueue.jobs import ClaimedJob, Outcome, Replaced, Settled, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.transactions.completing import recorded_at_last
from dbqueue.store.transactions.tasks import RESOLVE_TRIES, AsyncTaskTransaction, TaskTransaction
from dbqueue.workflows import Edge, Workflow
from tests.stores import TestWorker, enqueued, new_job, opened, row, run_sql

ANOTHER: Final = "lease = '11111111-1111-1111-1111-111111111111'"
TAKEN: Final = {
    "another run has it": f"UPDATE dbqueue_jobs SET {ANOTHER}",
    "another run has ended it": f"UPDATE dbqueue_jobs SET {ANOTHER}, status = 'SUCCESS', finished_at = created_at",
    "its row is gone": "DELETE FROM dbqueue_jobs",
}


@pytest.fixture
def job(store: Store, worker: TestWorker) -> ClaimedJob:
    store.enqueue([new_job()])
    return worker.claim_one()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbqueue.store.transactions.tasks.FIRST_PAUSE_SECONDS", 0.0)


def success(job: ClaimedJob) -> Succeeded:
    return Succeeded(job.id, job.lease, "1", 0.0)


def commit(
    store: Store, job: ClaimedJob, end: Callable[[sa.Connection], None], what: Succeeded | Replaced | None = None
) -> Outcome:
    """What a function's transaction says, where `end` is what has come of its COMMIT."""
    transaction = TaskTransaction(store, job, idle_seconds=None)
    transaction.connection.execute(sa.text("SELECT 1"))
    lose_the_answer(transaction.connection, end)
    outcome: Outcome = transaction.commit(what or success(job))
    return outcome


def acommit(
    store: Store, job: ClaimedJob, end: Callable[[sa.Connection], None], what: Succeeded | Replaced | None = None
) -> Outcome:
    """As `commit`, for a coroutine's."""

    async def run() -> Outcome:
        transaction = AsyncTaskTransaction(store, job, idle_seconds=None)
        await transaction.open()
        try:
            await transaction.connection.execute(sa.text("SELECT 1"))
            lose_the_answer(transaction.connection.sync_connection, end)
            return await transaction.commit(what or success(job))
        finally:
            await store.task_engines.aclose()

    return asyncio.run(run())


def lose_the_answer(connection: Any, end: Callable[[sa.Connection], None]) -> None:
    commit = connection.commit

    def without_an_answer() -> None:
        connection.commit = commit
        end(connection)
        raise sa.exc.OperationalError("COMMIT", {}, Exception("the connection is lost"))

    connection.commit = without_an_answer


EITHER: Final = pytest.mark.parametrize("commit", [commit, acommit], ids=["function", "coroutine"])


@EITHER
def test_it_was_committed(store: Store, job: ClaimedJob, commit: Callable[..., Outcome]) -> None:
    outcome = commit(store, job, sa.Connection.commit)
    assert isinstance(outcome, Settled)
    assert outcome.succeeded
    assert row(store, job.id)["status"] == "SUCCESS"


@EITHER
def test_it_was_not_committed(store: Store, job: ClaimedJob, commit: Callable[..., Outcome]) -> None:
    with pytest.raises(NotCommitted, match="was not committed"):
        commit(store, job, sa.Connection.rollback)


@EITHER
@pytest.mark.parametrize("taken", TAKEN)
def test_the_job_is_not_this_run_s_by_then(
    store: Store, job: ClaimedJob, commit: Callable[..., Outcome], taken: str
) -> None:
    def end(connection: sa.Connection) -> None:
        connection.rollback()
        run_sql(store, TAKEN[taken])

    with pytest.raises(LeaseLost):
        commit(store, job, end)


def replacement(job: ClaimedJob, *before: str) -> Replaced:
    """By a single job, or by a chain of this one and others before it."""
    jobs = [*map(new_job, before), new_job(job.id, waits_for=len(before))]
    return Replaced(job.id, job.lease, Workflow.of(jobs, [Edge(each, job.id) for each in before]), 0.0)


@EITHER
@pytest.mark.parametrize("before", ["", "a"], ids=["by a job", "by a chain"])
@pytest.mark.parametrize("since", ["waits", "runs", "has ended"])
def test_a_replacement_was_committed(
    store: Store, worker: TestWorker, job: ClaimedJob, commit: Callable[..., Outcome], before: str, since: str
) -> None:
    """The run has given up its lease with it: the row is as if somebody had taken the job away."""

    def end(connection: sa.Connection) -> None:
        connection.commit()
        if since != "waits":
            for claimed in worker.claim():
                if since == "has ended":
                    worker.settle(success(claimed))

    outcome = commit(store, job, end, replacement(job, *before))
    assert isinstance(outcome, Settled)
    assert not outcome.succeeded


@EITHER
def test_a_replacement_was_not_committed(store: Store, job: ClaimedJob, commit: Callable[..., Outcome]) -> None:
    with pytest.raises(NotCommitted, match="was not committed"):
        commit(store, job, sa.Connection.rollback, replacement(job, "a"))


@EITHER
@pytest.mark.parametrize("taken", TAKEN)
def test_a_replacement_by_a_run_that_had_lost_the_job(
    store: Store, worker: TestWorker, job: ClaimedJob, commit: Callable[..., Outcome], taken: str
) -> None:
    """Though an earlier run of it was replaced."""
    worker.settle(replacement(job))
    again = worker.claim_one()

    def end(connection: sa.Connection) -> None:
        connection.rollback()
        run_sql(store, TAKEN[taken])

    with pytest.raises(LeaseLost):
        commit(store, again, end, replacement(again))


@pytest.mark.parametrize("failures", [RESOLVE_TRIES - 1, RESOLVE_TRIES])
def test_the_database_does_not_answer_for_a_while(
    store: Store, job: ClaimedJob, monkeypatch: pytest.MonkeyPatch, failures: int
) -> None:
    asked: list[None] = []

    def away(*arguments: Any) -> Any:
        asked.append(None)
        if len(asked) <= failures:
            raise OperationalError("no answer")
        return recorded_at_last(*arguments)

    monkeypatch.setattr("dbqueue.store.transactions.tasks.recorded_at_last", away)
    if failures < RESOLVE_TRIES:
        assert isinstance(commit(store, job, sa.Connection.commit), Settled)
    else:
        with pytest.raises(NotCommitted):
            commit(store, job, sa.Connection.commit)


def test_the_tables_are_away_when_the_task_has_returned(postgres_url: str) -> None:
    """Somebody restores a backup: the run is lost, and has not failed. (On SQLite the transaction has the file.)"""
    with opened(postgres_url) as store:
        worker = TestWorker(store)
        enqueued(store)
        job = worker.claim_one()
        transaction = TaskTransaction(store, job, idle_seconds=None)
        transaction.connection.execute(sa.text("SELECT 1"))
        run_sql(store, "ALTER TABLE dbqueue_jobs RENAME TO away")
        with pytest.raises(NotCommitted, match="its end could not be written"):
            transaction.commit(success(job))
        run_sql(store, "ALTER TABLE away RENAME TO dbqueue_jobs")
        worker.close()
