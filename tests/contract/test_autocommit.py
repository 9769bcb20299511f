"""Workflows on callers' connections in autocommit: whole, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from dbqueue.store.base import Store
from dbqueue.store.revoking import revoke
from dbqueue.store.transactions.joining import aenqueue_workflow_in, enqueue_workflow_in
from dbqueue.workflows import Edge, Workflow
from tests.contract.test_joining import by_async_psycopg, by_psycopg, by_sqlite3
from tests.contract.test_workflows import chain, edges
from tests.stores import count, new_job, opened


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
    if kind == "SQLAlchemy":
        opened = by_connection(database_url)
    elif store.dialect == "postgresql":
        opened = by_psycopg(database_url, autocommit=True)
    else:
        opened = by_sqlite3(database_url, isolation_level=None)
    with opened as (connection, *_):
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
