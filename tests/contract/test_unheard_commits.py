"""The commit of a transactional task had no answer: what its job's row says, once all that was under way is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.errors import LeaseLost, NotCommitted, OperationalError
from dbqueue.jobs import ClaimedJob, Outcome, Replaced, Settled, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.statements import Statement
from dbqueue.store.transactions.async_tasks import AsyncTaskTransaction
from dbqueue.store.transactions.completing import Standing, recorded_at_last
from dbqueue.store.transactions.tasks import RESOLVE_TRIES, TaskTransaction
from dbqueue.workflows import Edge, Workflow
from tests.contract.workflows import chain
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, new_job, opened, row, run_sql

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
def test_workers_hear_of_what_it_has_let_run(postgres_url: str, commit: Callable[..., Outcome]) -> None:
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url), autocommit=True) as sleeper:
        worker = TestWorker(store)
        store.enqueue_workflow(chain("a", "b"))
        job = worker.claim_one()
        count(store)  # by now the wake-up of the enqueue is over: no connection is given away before
        sleeper.execute("LISTEN dbqueue")
        assert isinstance(commit(store, job, sa.Connection.commit), Settled)
        assert list(sleeper.notifies(timeout=60.0, stop_after=1)), "nobody was told"
        worker.close()


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


@pytest.fixture
def running(postgres_url: str) -> Iterator[tuple[Store, ClaimedJob]]:
    """A transactional task's job, on PostgreSQL; on SQLite its transaction has the whole file."""
    with opened(postgres_url) as store:
        worker = TestWorker(store)
        enqueued(store)
        yield store, worker.claim_one()
        worker.close()


def end(store: Store, job: ClaimedJob, kind: type[TaskTransaction], own: str, meanwhile: Callable[[], object]) -> None:
    """Commit a run that has done this itself, after something else has been done."""
    if kind is TaskTransaction:
        transaction = kind(store, job, idle_seconds=None)
        transaction.connection.execute(sa.text(own))
        meanwhile()
        transaction.commit(success(job))
        return

    async def run() -> None:
        transaction = AsyncTaskTransaction(store, job, idle_seconds=None)
        await transaction.open()
        await transaction.connection.execute(sa.text(own))
        meanwhile()
        try:
            await transaction.commit(success(job))
        finally:
            await store.task_engines.aclose()

    asyncio.run(run())


KINDS: Final = pytest.mark.parametrize("kind", [TaskTransaction, AsyncTaskTransaction], ids=["function", "coroutine"])


@KINDS
@pytest.mark.parametrize("losses", [0, 2])
def test_the_tables_are_away_when_the_task_has_returned(
    running: tuple[Store, ClaimedJob], kind: type[TaskTransaction], losses: int
) -> None:
    """Somebody restores a backup: the run is lost, and has not failed."""
    store, job = running
    take_away = partial(run_sql, store, "ALTER TABLE dbqueue_jobs RENAME TO away")
    with pytest.raises(NotCommitted, match="its end could not be written"):
        end(store, job._replace(losses=losses), kind, "SELECT 1", take_away)
    run_sql(store, "ALTER TABLE away RENAME TO dbqueue_jobs")


@pytest.fixture
def role(running: tuple[Store, ClaimedJob]) -> Iterator[str]:
    """One that may do everything with the jobs."""
    store, role = running[0], f"helper_{uuid4().hex}"
    run_sql(store, f"CREATE ROLE {role}")
    run_sql(store, f"GRANT ALL ON dbqueue_jobs TO {role}")
    yield role
    run_sql(store, f"DROP OWNED BY {role}")
    run_sql(store, f"DROP ROLE {role}")


AWAY: Final = ("ALTER TABLE dbqueue_jobs RENAME TO away", "ALTER TABLE away RENAME TO dbqueue_jobs")
DENIED: Final = ("REVOKE ALL ON dbqueue_jobs FROM {role}", "GRANT ALL ON dbqueue_jobs TO {role}")


@KINDS
@pytest.mark.parametrize(
    ("own", "changes"),
    [
        ("SELECT 1", AWAY),
        ("SET LOCAL search_path TO pg_catalog, public", AWAY),
        ("SET LOCAL ROLE {role}", AWAY),
        ("SET LOCAL ROLE {role}", DENIED),
    ],
)
def test_the_tables_are_back_by_the_time_when_they_are_looked_for(
    running: tuple[Store, ClaimedJob],
    role: str,
    kind: type[TaskTransaction],
    own: str,
    changes: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An earlier run was lost, too, for whatever reason: the task's role and search path lead to them, as they did."""
    store, job = running
    take_away, give_back = (change.format(role=role) for change in changes)
    undo = TaskTransaction._undo

    def undo_and_give_back(transaction: TaskTransaction, error: BaseException | None = None) -> None:
        undo(transaction, error)
        run_sql(store, give_back)

    monkeypatch.setattr(TaskTransaction, "_undo", undo_and_give_back)
    with pytest.raises(NotCommitted, match="its end could not be written"):
        end(store, job._replace(losses=1), kind, own.format(role=role), partial(run_sql, store, take_away))


@KINDS
@pytest.mark.parametrize(
    ("own", "error"),
    [
        ("SET LOCAL search_path TO pg_catalog", psycopg.errors.UndefinedTable),
        ("SET LOCAL ROLE pg_monitor", psycopg.errors.InsufficientPrivilege),
    ],
    ids=["search_path", "role"],
)
def test_a_task_that_leaves_itself_no_way_to_the_tables_fails_the_second_time(
    running: tuple[Store, ClaimedJob], kind: type[TaskTransaction], own: str, error: type[Exception]
) -> None:
    """The first run may have met somebody's work on the tables; the next ones would end as it did."""
    store, job = running
    with pytest.raises(NotCommitted):
        end(store, job, kind, own, lambda: None)
    with pytest.raises(error):
        end(store, job._replace(losses=1), kind, own, lambda: None)


@KINDS
def test_a_look_for_the_tables_that_breaks_fails_no_task(
    running: tuple[Store, ClaimedJob], kind: type[TaskTransaction], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the task has left itself no way to them is not known then."""

    def look(store: Store, job_id: str, standing: Standing | None = None) -> Any:
        if standing is not None:
            raise OperationalError("no answer")
        return recorded_at_last(store, job_id)

    store, job = running
    monkeypatch.setattr("dbqueue.store.transactions.completing.recorded_at_last", look)
    with pytest.raises(NotCommitted):
        end(store, job._replace(losses=1), kind, "SET LOCAL search_path TO pg_catalog", lambda: None)


@KINDS
def test_a_server_that_takes_no_writes_any_more_fails_no_task(
    running: tuple[Store, ClaimedJob], kind: type[TaskTransaction]
) -> None:
    """As one that is a standby by now, or has no room left: another run finds another."""
    with pytest.raises(NotCommitted, match="read-only"):
        end(*running, kind, "SET LOCAL transaction_read_only = on", lambda: None)


def test_a_plan_from_before_a_change_of_its_table_is_no_failure(running: tuple[Store, ClaimedJob]) -> None:
    store, job = running
    worker = TestWorker(store)
    for _ in range(8):  # until the statement is one that the server has prepared
        enqueued(store)
        end(store, worker.claim_one(), TaskTransaction, "SELECT 1", lambda: None)
    run_sql(store, 'ALTER TABLE dbqueue_jobs ALTER COLUMN id TYPE varchar(200) COLLATE "C"')
    with pytest.raises(NotCommitted, match="cached plan"):
        end(store, job, TaskTransaction, "SELECT 1", lambda: None)
    run_sql(store, 'ALTER TABLE dbqueue_jobs ALTER COLUMN id TYPE text COLLATE "C"')
    worker.close()


def test_what_the_server_cannot_do_is_the_tasks_own_error(
    running: tuple[Store, ClaimedJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the SQLSTATE of a plan that is stale."""
    store, job = running

    def refused(*_: object, **__: object) -> Iterator[Statement]:
        yield Statement("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT id FROM dbqueue_jobs FOR UPDATE", {})

    monkeypatch.setattr("dbqueue.store.transactions.tasks.complete", refused)
    with pytest.raises(sa.exc.NotSupportedError):
        end(store, job, TaskTransaction, "SELECT 1", lambda: None)
