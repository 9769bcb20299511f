"""Enqueues of several statements on callers' connections in autocommit: whole, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg.pq import TransactionStatus
from sqlalchemy.ext.asyncio import create_async_engine

from dbqueue.errors import DuplicateTaskId
from dbqueue.store.base import Store
from dbqueue.store.revoking import revoke
from dbqueue.store.statements import Statement
from dbqueue.store.steps import Steps
from dbqueue.store.transactions.joining import (
    aenqueue_in,
    aenqueue_workflow_in,
    enqueue_in,
    enqueue_workflow_in,
    run_in,
)
from dbqueue.workflows import Edge, Workflow
from tests.contract.callers import by_async_psycopg, by_psycopg, by_sqlite3
from tests.contract.workflows import chain, edges
from tests.stores import count, new_job, opened, row


@contextlib.contextmanager
def by_connection(url: str) -> Iterator[Any]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield (connection,)
    engine.dispose()


@contextlib.asynccontextmanager
async def by_async_connection(url: str) -> AsyncIterator[Any]:
    engine = create_async_engine(url.replace("sqlite://", "sqlite+aiosqlite://"), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        yield (connection,)
    await engine.dispose()


def by_kind(store: Store, url: str, kind: str) -> contextlib.AbstractContextManager[Any]:
    if kind == "SQLAlchemy":
        return by_connection(url)
    if store.dialect == "postgresql":
        return by_psycopg(url, autocommit=True)
    return by_sqlite3(url, isolation_level=None)


def refused_at_its_edges() -> Workflow:
    """By the table: there is no such event."""
    return Workflow.of(map(new_job, "abc"), [Edge("a", "b"), Edge("b", "c", "never")])  # type: ignore[arg-type]


def is_refused() -> Any:
    return pytest.raises(Exception, match=r"dbqueue_edges_event|CHECK constraint failed")


@pytest.mark.parametrize("kind", ["driver", "SQLAlchemy"])
def test_nothing_is_left_of_a_workflow_whose_edges_cannot_be_written(
    store: Store, database_url: str, kind: str
) -> None:
    revoke(store, ["b"])  # so that they are written by a statement of their own on PostgreSQL too
    with by_kind(store, database_url, kind) as (connection, *_):
        with is_refused():
            enqueue_workflow_in(store, connection, refused_at_its_edges())
        assert (count(store), edges(store)) == (1, 0)
        enqueue_workflow_in(store, connection, chain("x", "y"))
        assert (count(store), edges(store)) == (3, 1)


@pytest.mark.parametrize("kind", ["driver", "SQLAlchemy"])
def test_nor_on_an_asynchronous_connection(store: Store, database_url: str, kind: str) -> None:
    revoke(store, ["b"])
    if kind == "driver" and store.dialect == "sqlite":
        pytest.skip("aiosqlite's own connections carry no enqueue")

    async def write() -> None:
        opened = (
            by_async_psycopg(database_url, autocommit=True) if kind == "driver" else by_async_connection(database_url)
        )
        async with opened as (connection, *_):
            with is_refused():
                await aenqueue_workflow_in(store, connection, refused_at_its_edges())
            assert (count(store), edges(store)) == (1, 0)
            await aenqueue_workflow_in(store, connection, chain("x", "y"))
            assert (count(store), edges(store)) == (3, 1)

    asyncio.run(write())


@pytest.mark.parametrize("kind", ["driver", "SQLAlchemy"])
def test_of_jobs_of_which_one_is_refused_none_is_written(store: Store, database_url: str, kind: str) -> None:
    store.enqueue([new_job("taken", task="another")])
    with by_kind(store, database_url, kind) as (connection, *_), pytest.raises(DuplicateTaskId):
        enqueue_in(store, connection, [new_job("fresh"), new_job("taken")])
    assert count(store) == 1


@pytest.mark.parametrize("kind", ["driver", "SQLAlchemy"])
def test_nobody_takes_a_unique_key_whose_job_is_about_to_be_written(
    store: Store, database_url: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unique = new_job("first", unique_key="k")
    with by_kind(store, database_url, kind) as (connection, *_), ThreadPoolExecutor() as pool:
        rivals: list[Future[Any]] = []
        insert = store.inserts.statements

        def after_the_key(jobs: Any) -> Any:
            if not rivals:
                rivals.append(pool.submit(store.enqueue, [unique._replace(id="second")]))
                wait(rivals, timeout=0.3)
            return insert(jobs)

        monkeypatch.setattr(store.inserts, "statements", after_the_key)
        assert enqueue_in(store, connection, [unique]) == {}
        assert rivals[0].result() == {"second": "first"}
    assert count(store) == 1


def test_nor_on_an_asynchronous_driver_s_connection(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def write() -> None:
        async with by_async_psycopg(postgres_url, autocommit=True) as (connection, *_):
            statuses = []

            def note(jobs: Any) -> Any:
                statuses.append(connection.info.transaction_status)
                return insert(jobs)

            insert = store.inserts.statements
            monkeypatch.setattr(store.inserts, "statements", note)
            with pytest.raises(DuplicateTaskId):
                await aenqueue_in(store, connection, [new_job("fresh", unique_key="k"), new_job("taken")])
            assert statuses == [TransactionStatus.INTRANS]
            await aenqueue_in(store, connection, [new_job("alone")])
            assert connection.info.transaction_status == TransactionStatus.IDLE

    with opened(postgres_url) as store:
        store.enqueue([new_job("taken", task="another")])
        asyncio.run(write())
        assert count(store) == 2


def test_in_a_transaction_of_the_callers_it_is_the_callers(store: Store, database_url: str) -> None:
    if store.dialect == "postgresql":
        with by_psycopg(database_url, autocommit=True) as (connection, *_), connection.transaction(force_rollback=True):
            enqueue_workflow_in(store, connection, chain("x", "y"))
    else:
        with by_sqlite3(database_url, isolation_level=None) as (connection, *_):
            connection.execute("BEGIN")
            enqueue_workflow_in(store, connection, chain("x", "y"))
            connection.execute("ROLLBACK")
    assert (count(store), edges(store)) == (0, 0)


def test_where_a_program_begins_sqlites_transactions_itself(sqlite_url: str) -> None:
    """As SQLAlchemy's documentation has it: the driver begins none."""
    engine = sa.create_engine(sqlite_url)

    @sa.event.listens_for(engine, "connect")
    def connected(driver: Any, record: Any) -> None:
        driver.isolation_level = None

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    with opened(sqlite_url) as store:
        for kept in (False, True):
            with engine.connect() as connection:
                enqueue_workflow_in(store, connection, chain("x", "y"))
                connection.commit() if kept else connection.rollback()
            assert count(store) == (2 if kept else 0)
    engine.dispose()


def test_nobody_writes_to_the_file_between_what_is_read_and_what_is_written(sqlite_url: str) -> None:
    """Else the write would be refused at once, however long others may be waited for."""
    with (
        opened(sqlite_url) as store,
        by_sqlite3(sqlite_url, isolation_level=None) as caller,
        by_sqlite3(sqlite_url, isolation_level=None, timeout=0.0) as rival,
    ):

        def steps() -> Steps[bool]:
            found = (yield Statement("SELECT count(*) FROM dbqueue_jobs", {})).rows
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                rival[0].execute("DELETE FROM dbqueue_jobs")
            yield Statement("UPDATE dbqueue_jobs SET priority = 7", {})
            return found == [(1,)]

        store.enqueue([new_job("job")])
        assert run_in(store, caller[0], steps())
        assert row(store, "job")["priority"] == 7
