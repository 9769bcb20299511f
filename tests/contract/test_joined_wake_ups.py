"""Wake-ups of callers' transactions, on PostgreSQL: at the commit that lets others see the jobs, and at no other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from dbqueue import DBQueue
from dbqueue.errors import ForeignConnection
from dbqueue.jobs import Replaced, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.transactions.completing import recorded_at_last
from dbqueue.store.transactions.joining import aenqueue_in, aenqueue_workflow_in, enqueue_in, enqueue_workflow_in
from dbqueue.store.transactions.tasks import TaskTransaction
from dbqueue.workflows import Edge, Workflow
from tests.contract.callers import ASYNC, SYNC, by_async_psycopg, by_psycopg, by_session, ids, make_app
from tests.servers import PostgresServer, libpq_url
from tests.stores import TestWorker, count, new_job
from tests.waiting import wait_until

ON_POSTGRES = [kind for kind, (dialect, _) in SYNC.items() if dialect != "sqlite"]


@pytest.fixture
def database_url(postgres_url: str) -> str:
    return postgres_url


class Sleeper:
    """A worker that waits for a wake-up."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(libpq_url(url), autocommit=True)
        self._connection.execute("LISTEN dbqueue")

    def was_told(self) -> bool:
        """Since the last time: before the mark that is set now."""
        self._connection.execute("SELECT pg_notify('dbqueue', 'mark')")
        heard: list[str] = []
        while "mark" not in heard:
            heard += [each.payload for each in self._connection.notifies(timeout=60, stop_after=1)]
        return heard != ["mark"]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def sleeper(postgres_url: str) -> Iterator[Sleeper]:
    sleeper = Sleeper(postgres_url)
    yield sleeper
    sleeper.close()


def workflow() -> Workflow:
    return Workflow.of([new_job("first"), new_job("second")], [Edge("first", "second")])


@pytest.mark.parametrize("kind", ON_POSTGRES)
def test_a_workflow(store: Store, postgres_url: str, sleeper: Sleeper, kind: str) -> None:
    with SYNC[kind][1](postgres_url) as (connection, commit, _):
        enqueue_workflow_in(store, connection, workflow())
        assert not sleeper.was_told()
        commit()
        assert count(store) == 2
        assert sleeper.was_told()


@pytest.mark.parametrize("kind", ASYNC)
def test_a_workflow_of_an_asynchronous_caller(store: Store, postgres_url: str, sleeper: Sleeper, kind: str) -> None:
    async def run() -> None:
        async with ASYNC[kind][1](postgres_url) as (connection, commit, _):
            await aenqueue_workflow_in(store, connection, workflow())
            await commit()

    asyncio.run(run())
    assert count(store) == 2
    assert sleeper.was_told()


def test_a_rollback_leaves_nobody_to_be_told(store: Store, postgres_url: str, sleeper: Sleeper) -> None:
    with by_session(postgres_url) as (session, commit, rollback):
        enqueue_in(store, session, [new_job()])
        rollback()
        session.execute(sa.text("SELECT 1"))
        commit()
    assert count(store) == 0
    assert not sleeper.was_told()


def test_a_task_that_fails_tells_nobody_of_its_jobs(store: Store, worker: TestWorker, postgres_url: str) -> None:
    store.enqueue([new_job()])
    job = worker.claim_one()
    count(store)  # by now the wake-up of the enqueue is over
    sleeper, transaction = Sleeper(postgres_url), TaskTransaction(store, job, idle_seconds=None)
    enqueue_in(store, transaction.connection, [new_job()])
    transaction.rollback()
    assert count(store) == 1
    assert not sleeper.was_told()
    sleeper.close()


@pytest.mark.parametrize("freed", ["by a success", "by a replacement", "none"])
def test_a_task_tells_of_the_jobs_that_its_end_frees(
    store: Store, worker: TestWorker, postgres_url: str, freed: str
) -> None:
    store.enqueue_workflow(Workflow((new_job("first"),)) if freed == "none" else workflow())
    job = worker.claim_one()
    count(store)  # as above
    sleeper, transaction = Sleeper(postgres_url), TaskTransaction(store, job, idle_seconds=None)
    transaction.connection.execute(sa.text("SELECT 1"))
    replaced = Replaced(job.id, job.lease, Workflow((new_job("first", task="shop.other"),)), 0.0)
    transaction.commit(replaced if freed == "by a replacement" else Succeeded(job.id, job.lease, "1", 0.0))
    count(store)  # as above
    assert sleeper.was_told() is (freed != "none")
    sleeper.close()


def test_a_task_whose_commit_ends_late_and_unheard_tells_of_its_jobs_then(
    store: Store, worker: TestWorker, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is told before finds nothing yet, and sleeps again."""
    store.enqueue([new_job()])
    job = worker.claim_one()
    count(store)  # by now the wake-up of the enqueue is over
    sleeper, transaction = Sleeper(postgres_url), TaskTransaction(store, job, idle_seconds=None)
    connection = transaction.connection
    enqueue_in(store, connection, [new_job()])
    told_before: list[bool] = []

    def without_an_answer() -> None:
        connection.connection.driver_connection.execute(f"PREPARE TRANSACTION '{job.id}'")
        raise sa.exc.OperationalError("COMMIT", {}, psycopg.OperationalError("the connection is lost"))

    def asked(*arguments: Any) -> Any:
        count(store)  # as above, if there was one
        told_before.append(sleeper.was_told())
        with psycopg.connect(libpq_url(postgres_url), autocommit=True) as server:
            server.execute(f"COMMIT PREPARED '{job.id}'")
        return recorded_at_last(*arguments)

    monkeypatch.setattr(connection, "commit", without_an_answer)
    monkeypatch.setattr("dbqueue.store.transactions.tasks.recorded_at_last", asked)
    transaction.commit(Succeeded(job.id, job.lease, "1", 0.0))
    assert count(store, "status = 'PENDING'") == 1
    assert (told_before, sleeper.was_told()) == ([False], True)
    sleeper.close()


def test_a_session_on_a_connection_commits_nothing_by_itself(store: Store, postgres_url: str, sleeper: Sleeper) -> None:
    engine = sa.create_engine(postgres_url)
    with engine.connect() as connection, connection.begin() as transaction:
        with orm.Session(connection, join_transaction_mode="create_savepoint") as session:
            enqueue_in(store, session, [new_job()])
            session.commit()
            count(store)  # as above, if there was one
            assert not sleeper.was_told()
        transaction.commit()
    assert sleeper.was_told()
    engine.dispose()


@pytest.mark.parametrize("what", ["a job", "a workflow"])
def test_another_database_of_an_asynchronous_caller(
    store: Store, postgres_server: PostgresServer, postgres_template: str, what: str
) -> None:
    async def run(url: str) -> None:
        async with by_async_psycopg(url) as (connection, _, _):
            with pytest.raises(ForeignConnection, match="another"):
                await call(connection)

    async def call(connection: Any) -> None:
        if what == "a job":
            await aenqueue_in(store, connection, [new_job()])
        else:
            await aenqueue_workflow_in(store, connection, workflow())

    with postgres_server.database(postgres_template) as other:
        asyncio.run(run(other))


class TestWakeUps:
    """PostgreSQL: a NOTIFY when the transaction has committed, none after a rollback."""

    @pytest.fixture
    def listener(self, postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(libpq_url(postgres_url), autocommit=True) as listener:
            listener.execute("LISTEN dbqueue")
            yield listener

    def heard(self, listener: psycopg.Connection[Any]) -> bool:
        return wait_until(lambda: bool(list(listener.notifies(timeout=0.05))), what="the NOTIFY")

    def silent(self, listener: psycopg.Connection[Any], app: DBQueue) -> bool:
        """No NOTIFY so far: one that the test sends itself is the first to come."""
        app.AsyncResult("none").exists()  # by now a wake-up is over, if there was one
        listener.execute("SELECT pg_notify('dbqueue', 'mark')")
        payloads = wait_until(lambda: [each.payload for each in listener.notifies(timeout=0.05)])
        return payloads == ["mark"]

    @pytest.mark.parametrize("kind", [kind for kind, (dialect, _) in SYNC.items() if dialect != "sqlite"])
    def test_after_a_commit_only(self, postgres_url: str, listener: psycopg.Connection[Any], kind: str) -> None:
        with make_app(postgres_url) as app, SYNC[kind][1](postgres_url) as (connection, commit, rollback):
            app.tasks["joined.add"].apply_async((1,), connection=connection)
            rollback()
            assert self.silent(listener, app)
        with make_app(postgres_url) as app, SYNC[kind][1](postgres_url) as (connection, commit, rollback):
            app.tasks["joined.add"].apply_async((1,), connection=connection)
            assert self.silent(listener, app)
            commit()
            assert self.heard(listener)

    def test_a_plain_delay(self, postgres_url: str, listener: psycopg.Connection[Any]) -> None:
        with make_app(postgres_url) as app:
            app.tasks["joined.add"].delay(1)
            assert self.heard(listener)

    def test_a_savepoint_is_no_commit(self, postgres_url: str, listener: psycopg.Connection[Any]) -> None:
        with make_app(postgres_url) as app, by_session(postgres_url) as (session, commit, _):
            with session.begin_nested():
                app.tasks["joined.add"].apply_async((1,), connection=session)
            assert self.silent(listener, app)
            commit()
            assert self.heard(listener)

    def test_a_savepoint_rolled_back_forgets_no_earlier_job(
        self, postgres_url: str, listener: psycopg.Connection[Any]
    ) -> None:
        with make_app(postgres_url) as app, by_session(postgres_url) as (session, commit, _):
            app.tasks["joined.add"].apply_async((1,), connection=session)
            savepoint = session.begin_nested()
            app.tasks["joined.add"].apply_async((2,), connection=session)
            savepoint.rollback()
            commit()
            assert self.heard(listener)
        assert len(ids(postgres_url)) == 1

    @pytest.mark.parametrize("kind", ASYNC)
    def test_of_asynchronous_callers(self, postgres_url: str, listener: psycopg.Connection[Any], kind: str) -> None:
        async def run(app: DBQueue) -> None:
            async with ASYNC[kind][1](postgres_url) as (connection, commit, rollback):
                await app.tasks["joined.add"].aapply_async((1,), connection=connection)
                await rollback()
                assert await asyncio.to_thread(self.silent, listener, app)
                await app.tasks["joined.add"].aapply_async((1,), connection=connection)
                await commit()
                assert await asyncio.to_thread(self.heard, listener)

        with make_app(postgres_url) as app:
            asyncio.run(run(app))

    def test_autocommit(self, postgres_url: str, listener: psycopg.Connection[Any]) -> None:
        with make_app(postgres_url) as app, by_psycopg(postgres_url, autocommit=True) as (connection, _, _):
            result = app.tasks["joined.add"].apply_async((1,), connection=connection)
            assert ids(postgres_url) == {result.id}
            assert self.heard(listener)
            with contextlib.suppress(ZeroDivisionError), connection.transaction():
                app.tasks["joined.add"].apply_async((2,), connection=connection)
                _ = 1 / 0
            assert len(ids(postgres_url)) == 1
