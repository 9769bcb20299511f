"""Enqueues in a caller's transaction: with its commit they are there, with its rollback they never were."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine

import dbqueue
from dbqueue import DBQueue
from dbqueue.canvas.flat_groups import FEWEST
from dbqueue.errors import DuplicateTaskId, EncodeError, ForeignConnection
from tests.servers import PostgresServer, libpq_url
from tests.waiting import wait_until


def sqlite_path(url: str) -> str:
    return str(sa.make_url(url).database)


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


def make_app(url: str) -> DBQueue:
    app = DBQueue("joined", broker=url, set_as_current=False)

    @app.task(name="joined.add")
    def add(x: int, y: int = 0) -> int:
        return x + y

    return app


def ids(url: str) -> set[str]:
    """What another connection sees."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = {row.id for row in connection.execute(sa.text("SELECT id FROM dbqueue_jobs"))}
    engine.dispose()
    return found


# Each kind of caller: a context manager that gives (connection, commit, rollback).


@contextlib.contextmanager
def by_session(url: str) -> Iterator[Any]:
    engine = sa.create_engine(url)
    with orm.Session(engine) as session:
        yield session, session.commit, session.rollback
    engine.dispose()


@contextlib.contextmanager
def by_scoped_session(url: str) -> Iterator[Any]:
    engine = sa.create_engine(url)
    session = orm.scoped_session(orm.sessionmaker(engine))
    yield session, session.commit, session.rollback
    session.remove()
    engine.dispose()


@contextlib.contextmanager
def by_bound_session(url: str) -> Iterator[Any]:
    """The pattern of test suites: a session on a connection that has a transaction of its own."""
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        transaction = connection.begin()
        session = orm.Session(connection, join_transaction_mode="conditional_savepoint")

        def commit() -> None:
            session.commit()
            transaction.commit()

        yield session, commit, transaction.rollback
        session.close()
    engine.dispose()


@contextlib.contextmanager
def by_connection(url: str) -> Iterator[Any]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        yield connection, connection.commit, connection.rollback
    engine.dispose()


@contextlib.contextmanager
def by_psycopg(url: str, **options: Any) -> Iterator[Any]:
    with psycopg.connect(libpq_url(url), **options) as connection:
        yield connection, connection.commit, connection.rollback


@contextlib.contextmanager
def by_pipeline(url: str) -> Iterator[Any]:
    with psycopg.connect(libpq_url(url)) as connection, connection.pipeline():
        yield connection, connection.commit, connection.rollback


@contextlib.contextmanager
def by_sqlite3(url: str, **options: Any) -> Iterator[Any]:
    connection = sqlite3.connect(sqlite_path(url), **options)
    with contextlib.closing(connection):
        yield connection, connection.commit, connection.rollback


@contextlib.contextmanager
def by_sqlite3_with_dict_rows(url: str) -> Iterator[Any]:
    with by_sqlite3(url) as caller:
        caller[0].row_factory = lambda cursor, row: dict(
            zip((each[0] for each in cursor.description), row, strict=True)
        )
        yield caller


SYNC: dict[str, tuple[str, Callable[[str], Any]]] = {
    "session": ("", by_session),
    "scoped session": ("", by_scoped_session),
    "session on a connection": ("", by_bound_session),
    "connection": ("", by_connection),
    "psycopg": ("postgresql", by_psycopg),
    "psycopg with dict rows": ("postgresql", lambda url: by_psycopg(url, row_factory=dict_row)),
    "psycopg in another time zone": ("postgresql", lambda url: by_psycopg(url, options="-c timezone=Asia/Tokyo")),
    "psycopg with client cursors": ("postgresql", lambda url: by_psycopg(url, cursor_factory=psycopg.ClientCursor)),
    "psycopg in a pipeline": ("postgresql", by_pipeline),
    "sqlite3": ("sqlite", by_sqlite3),
    "sqlite3 with dict rows": ("sqlite", by_sqlite3_with_dict_rows),
}


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


def by_async_session(url: str) -> Any:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        engine = create_async_engine(url.replace("sqlite://", "sqlite+aiosqlite://"))
        async with AsyncSession(engine) as session:
            yield session, session.commit, session.rollback
        await engine.dispose()

    return opened()


def by_async_scoped_session(url: str) -> Any:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        engine = create_async_engine(url.replace("sqlite://", "sqlite+aiosqlite://"))
        session = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
        yield session, session.commit, session.rollback
        await session.remove()
        await engine.dispose()

    return opened()


def by_async_connection(url: str) -> Any:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        engine = create_async_engine(url.replace("sqlite://", "sqlite+aiosqlite://"))
        async with engine.connect() as connection:
            yield connection, connection.commit, connection.rollback
        await engine.dispose()

    return opened()


def by_async_psycopg(url: str, **options: Any) -> Any:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(libpq_url(url), **options) as connection:
            yield connection, connection.commit, connection.rollback

    return opened()


def by_async_pipeline(url: str) -> Any:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        async with await psycopg.AsyncConnection.connect(libpq_url(url)) as connection, connection.pipeline():
            yield connection, connection.commit, connection.rollback

    return opened()


ASYNC: dict[str, tuple[str, Callable[[str], Any]]] = {
    "session": ("", by_async_session),
    "scoped session": ("", by_async_scoped_session),
    "connection": ("", by_async_connection),
    "psycopg": ("postgresql", by_async_psycopg),
    "psycopg with dict rows": ("postgresql", lambda url: by_async_psycopg(url, row_factory=dict_row)),
    "psycopg in another time zone": ("postgresql", lambda url: by_async_psycopg(url, options="-c timezone=Asia/Tokyo")),
    "psycopg in a pipeline": ("postgresql", by_async_pipeline),
}


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


class TestRefusals:
    @pytest.mark.parametrize("connection", ["text", 3, object(), {}], ids=["text", "number", "object", "dict"])
    def test_a_wrong_type(self, app: DBQueue, database_url: str, connection: Any) -> None:
        with pytest.raises(ForeignConnection, match="cannot carry an enqueue"):
            app.tasks["joined.add"].apply_async((1,), connection=connection)
        with dbqueue.using(connection), pytest.raises(ForeignConnection):
            app.tasks["joined.add"].delay(1)
        with pytest.raises(ForeignConnection):
            asyncio.run(app.tasks["joined.add"].aapply_async((1,), connection=connection))
        assert ids(database_url) == set()

    def test_an_engine_is_no_connection(self, app: DBQueue, database_url: str) -> None:
        engine = sa.create_engine(database_url)
        with pytest.raises(ForeignConnection):
            app.tasks["joined.add"].apply_async((1,), connection=engine)
        engine.dispose()

    def test_a_session_without_a_database(self, app: DBQueue) -> None:
        with orm.Session() as session, pytest.raises(ForeignConnection, match="not bound"):
            app.tasks["joined.add"].apply_async((1,), connection=session)

    def test_another_database_of_the_same_kind(
        self, app: DBQueue, database_url: str, tmp_path: Any, request: pytest.FixtureRequest
    ) -> None:
        add = app.tasks["joined.add"]
        with contextlib.ExitStack() as stack:
            if database_url.startswith("sqlite"):
                other = f"sqlite:///{tmp_path / 'other.db'}"
                raw: Any = stack.enter_context(contextlib.closing(sqlite3.connect(tmp_path / "other.db")))
            else:
                server: PostgresServer = request.getfixturevalue("postgres_server")
                other = stack.enter_context(server.database(request.getfixturevalue("postgres_template")))
                raw = stack.enter_context(psycopg.connect(libpq_url(other)))
            engine = sa.create_engine(other)
            stack.callback(engine.dispose)
            with orm.Session(engine) as session:
                for connection in (session, raw):
                    with pytest.raises(ForeignConnection, match="another"):
                        add.apply_async((1,), connection=connection)
            with engine.connect() as connection, pytest.raises(ForeignConnection, match="another"):
                add.apply_async((1,), connection=connection)

    def test_another_kind_of_database(self, postgres_url: str, sqlite_url: str) -> None:
        with make_app(postgres_url) as first, make_app(sqlite_url) as second:
            with by_sqlite3(sqlite_url) as (connection, _, _), pytest.raises(ForeignConnection):
                first.tasks["joined.add"].apply_async((1,), connection=connection)
            with by_psycopg(postgres_url) as (connection, _, _), pytest.raises(ForeignConnection):
                second.tasks["joined.add"].apply_async((1,), connection=connection)

    def test_a_connection_that_was_accepted_for_one_application_is_checked_for_the_next(
        self, database_url: str, tmp_path: Any
    ) -> None:
        """By the object, not by its address, which the next one may have."""
        with by_session(database_url) as (session, _, _):
            with make_app(database_url) as app:
                app.tasks["joined.add"].apply_async((1,), connection=session)
            for n in range(20):
                with make_app(f"sqlite:///{tmp_path / f'{n}.db'}") as other:
                    _ = other.database.store  # makes the file and its tables
                    with pytest.raises(ForeignConnection):
                        other.tasks["joined.add"].apply_async((1,), connection=session)
                del other


class TestUsing:
    def test_the_innermost_counts(self, app: DBQueue, database_url: str) -> None:
        add = app.tasks["joined.add"]
        engine = sa.create_engine(database_url)
        with orm.Session(engine) as outer, dbqueue.using(outer):
            with orm.Session(engine) as inner, dbqueue.using(inner):
                add.delay(1)
                inner.commit()
            assert len(ids(database_url)) == 1
            add.delay(2)
            outer.rollback()
        assert len(ids(database_url)) == 1
        add.delay(3)  # none any more: at once
        assert len(ids(database_url)) == 2
        engine.dispose()

    def test_it_ends_with_an_exception(self, app: DBQueue, database_url: str) -> None:
        with by_session(database_url) as (session, _, _):
            with pytest.raises(ZeroDivisionError), dbqueue.using(session):  # noqa: PT012 - the block is what ends
                app.tasks["joined.add"].delay(1)
                _ = 1 / 0
            session.rollback()
        app.tasks["joined.add"].delay(2)
        assert len(ids(database_url)) == 1

    def test_another_thread_has_none(self, app: DBQueue, database_url: str) -> None:
        with by_session(database_url) as (session, _, rollback), dbqueue.using(session):
            thread = threading.Thread(target=app.tasks["joined.add"].delay, args=(1,))
            thread.start()
            thread.join()
            assert len(ids(database_url)) == 1
            rollback()

    def test_asyncio_tasks_have_their_own(self, app: DBQueue, database_url: str) -> None:
        async def run() -> None:
            opened = [by_async_session(database_url) for _ in range(2)]
            async with opened[0] as (kept, commit, _), opened[1] as (dropped, _, rollback):

                async def enqueue(session: Any, turn: asyncio.Event, other: asyncio.Event) -> None:
                    with dbqueue.using(session):
                        other.set()
                        await turn.wait()  # both are inside their `using` now
                        await app.tasks["joined.add"].adelay(1)

                first, second = asyncio.Event(), asyncio.Event()
                await asyncio.gather(enqueue(kept, first, second), enqueue(dropped, second, first))
                await rollback()
                await commit()

        if database_url.startswith("sqlite"):
            pytest.skip("SQLite has one writer at a time")
        asyncio.run(run())
        assert len(ids(database_url)) == 1

    def test_an_explicit_connection_goes_first(self, app: DBQueue, database_url: str) -> None:
        engine = sa.create_engine(database_url)
        with orm.Session(engine) as joined, orm.Session(engine) as given, dbqueue.using(joined):
            app.tasks["joined.add"].apply_async((1,), connection=given)
            given.commit()
            joined.rollback()
        assert len(ids(database_url)) == 1
        engine.dispose()


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
