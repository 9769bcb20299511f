"""Connections that no enqueue can join: of another type, of another database."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm

import dbqueue
from dbqueue import DBQueue
from dbqueue.errors import ForeignConnection
from tests.contract.callers import by_psycopg, by_session, by_sqlite3, ids, make_app
from tests.servers import PostgresServer, libpq_url


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


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
