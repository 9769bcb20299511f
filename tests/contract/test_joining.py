"""Enqueues in a caller's transaction: with its commit they are there, with its rollback they never were."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

import dbqueue
from dbqueue import DBQueue
from dbqueue.canvas.flat_groups import FEWEST
from dbqueue.errors import DuplicateTaskId, EncodeError, ForeignConnection
from tests.contract.callers import ASYNC, SYNC, by_async_connection, by_connection, by_sqlite3, ids, make_app
from tests.servers import libpq_url


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


@pytest.mark.parametrize("kind", SYNC)
class TestSync:
    @pytest.fixture
    def caller(self, database_url: str, kind: str) -> Iterator[Any]:
        dialect, open_caller = SYNC[kind]
        if not database_url.startswith(dialect):
            pytest.skip(f"{kind} is not for this database")
        with open_caller(database_url) as caller:
            yield caller

    def test_commit(self, app: DBQueue, database_url: str, caller: Any, kind: str) -> None:
        connection, commit, _ = caller
        result = app.tasks["joined.add"].apply_async((1, 2), connection=connection)
        many = app.tasks["joined.add"].enqueue_many([(1,), (2,)], connection=connection)
        named = app.send_task("joined.elsewhere", [1], connection=connection)
        assert ids(database_url) == set()
        commit()
        assert ids(database_url) == {result.id, named.id, *(each.id for each in many)}
        assert result.status == "PENDING"

    def test_rollback(self, app: DBQueue, database_url: str, caller: Any, kind: str) -> None:
        connection, _, rollback = caller
        app.tasks["joined.add"].apply_async((1, 2), connection=connection)
        with dbqueue.using(connection):
            app.tasks["joined.add"].delay(1)
        rollback()
        assert ids(database_url) == set()

    def test_using(self, app: DBQueue, database_url: str, caller: Any, kind: str) -> None:
        connection, commit, _ = caller
        with dbqueue.using(connection):
            app.tasks["joined.add"].delay(1)
        commit()
        assert len(ids(database_url)) == 1

    def test_after_a_refusal_the_transaction_goes_on(
        self, app: DBQueue, database_url: str, caller: Any, kind: str
    ) -> None:
        app.tasks["joined.add"].apply_async((1,), task_id="taken")
        connection, commit, _ = caller
        add = app.tasks["joined.add"]
        add.apply_async((1,), task_id="taken", connection=connection)  # the same content
        with pytest.raises(DuplicateTaskId):
            add.apply_async((2,), task_id="taken", connection=connection)
        with pytest.raises(EncodeError):
            add.apply_async((object(),), connection=connection)
        add.apply_async((3,), task_id="next", connection=connection)
        commit()
        assert ids(database_url) == {"taken", "next"}


@pytest.mark.parametrize("autocommit", [False, True])
class TestPipelines:
    """What is more than one statement reads the answers to its own; a canvas raised IndexError."""

    def test_of_a_connection(self, postgres_url: str, autocommit: bool) -> None:
        with (
            make_app(postgres_url) as app,
            psycopg.connect(libpq_url(postgres_url), autocommit=autocommit) as connection,
        ):
            add = app.tasks["joined.add"]
            with connection.pipeline(), dbqueue.using(connection):
                connection.execute("CREATE TEMPORARY TABLE orders (id int)")
                sent = [
                    (add.s(1, 1) | add.s(2)).delay().id,
                    dbqueue.chord([add.s(1, 1), add.s(2, 2)], add.si(3, 3)).delay().id,
                    add.apply_async((1,), unique=True).id,
                    add.apply_async((1,), unique=True).id,
                    *(each.id for each in add.enqueue_many([(n,) for n in range(100)])),
                ]
                count = connection.execute("SELECT count(*) FROM dbqueue_jobs").fetchone()
            connection.commit()
            assert count == (2 + 3 + 1 + 100,)
            assert set(sent) < ids(postgres_url)

    def test_of_an_asynchronous_connection(self, postgres_url: str, autocommit: bool) -> None:
        async def send(add: Any) -> set[str]:
            options: Any = {"autocommit": autocommit}
            async with await psycopg.AsyncConnection.connect(libpq_url(postgres_url), **options) as connection:
                async with connection.pipeline():
                    with dbqueue.using(connection):
                        chain = await (add.s(1, 1) | add.s(2)).adelay()
                        once = [await add.aapply_async((1,), unique=True) for _ in range(2)]
                await connection.commit()
            assert once[0].id == once[1].id
            return {chain.id, chain.parent.id, once[0].id}

        with make_app(postgres_url) as app:
            assert asyncio.run(send(app.tasks["joined.add"])) == ids(postgres_url)


@pytest.mark.parametrize("kind", ASYNC)
class TestAsync:
    @pytest.fixture
    def opened(self, database_url: str, kind: str) -> Any:
        dialect, open_caller = ASYNC[kind]
        if not database_url.startswith(dialect):
            pytest.skip(f"{kind} is not for this database")
        return lambda: open_caller(database_url)

    def test_commit_and_rollback(self, app: DBQueue, database_url: str, opened: Any, kind: str) -> None:
        async def run() -> None:
            add = app.tasks["joined.add"]
            async with opened() as (connection, commit, rollback):
                first = await add.aapply_async((1,), connection=connection)
                assert ids(database_url) == set()
                await commit()
                assert ids(database_url) == {first.id}
                with dbqueue.using(connection):
                    await add.adelay(2)
                    await add.aenqueue_many([(3,), (4,)])
                await rollback()
                assert ids(database_url) == {first.id}
                with dbqueue.using(connection):
                    await app.asend_task("joined.elsewhere", [1])
                await commit()
                assert len(ids(database_url)) == 2
                with pytest.raises(DuplicateTaskId):
                    await add.aapply_async((9,), task_id=first.id, connection=connection)
                await add.aapply_async((9,), task_id="next", connection=connection)
                await commit()
            assert len(ids(database_url)) == 3

        asyncio.run(run())

    def test_a_synchronous_call_is_refused(self, app: DBQueue, database_url: str, opened: Any, kind: str) -> None:
        async def run() -> None:
            async with opened() as (connection, _, rollback):
                with dbqueue.using(connection), pytest.raises(ForeignConnection, match="adelay"):
                    app.tasks["joined.add"].delay(1)
                await rollback()

        asyncio.run(run())
        assert ids(database_url) == set()


CANVASES: dict[str, Callable[[Any], Any]] = {
    "a call": lambda add: add.s(1),
    "a call by name": lambda add: dbqueue.signature("joined.elsewhere", (1,), app=add.app),
    "a call with a callback": lambda add: add.s(1).set(link=add.s()),
    "a chain": lambda add: add.s(1) | add.s(2),
    "a group": lambda add: dbqueue.group(add.s(1), add.s(2)),
    "a group of many": lambda add: dbqueue.group(add.s(n) for n in range(FEWEST)),
    "a chord": lambda add: dbqueue.chord([add.s(1), add.s(2)], add.si(3)),
    "a batch": lambda add: dbqueue.batch([add.s(1)], on_complete=add.si(2)),
    "a dag": lambda add: dbqueue.dag({"first": add.s(1), "second": (add.si(2), "first")}),
}


@pytest.mark.parametrize("what", CANVASES)
class TestCanvases:
    def test_commit_and_rollback(self, app: DBQueue, database_url: str, what: str) -> None:
        with by_connection(database_url) as (connection, commit, rollback):
            for end in (rollback, commit):
                CANVASES[what](app.tasks["joined.add"]).apply_async(connection=connection)
                assert ids(database_url) == set()
                end()
        assert ids(database_url)

    def test_asynchronously(self, app: DBQueue, database_url: str, what: str) -> None:
        async def run() -> None:
            async with by_async_connection(database_url) as (connection, commit, rollback):
                for end in (rollback, commit):
                    await CANVASES[what](app.tasks["joined.add"]).aapply_async(connection=connection)
                    assert ids(database_url) == set()
                    await end()

        asyncio.run(run())
        assert ids(database_url)


def test_sqlite_in_each_way_of_transactions(sqlite_url: str) -> None:
    with make_app(sqlite_url) as app:
        add = app.tasks["joined.add"]
        with by_sqlite3(sqlite_url, isolation_level=None) as (connection, _, _):
            add.apply_async((1,), connection=connection)  # autocommit
            assert len(ids(sqlite_url)) == 1
            connection.execute("BEGIN")
            add.apply_async((2,), connection=connection)
            connection.execute("ROLLBACK")
        with by_sqlite3(sqlite_url) as (connection, commit, _):
            connection.row_factory = sqlite3.Row
            connection.execute("CREATE TABLE own (n)")
            connection.execute("INSERT INTO own VALUES (1)")
            add.apply_async((3,), connection=connection)
            commit()
        assert len(ids(sqlite_url)) == 2
