"""Callers of each kind, whose transaction an enqueue joins: context managers of (connection, commit, rollback)."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine

from dbqueue import DBQueue
from tests.servers import libpq_url


def sqlite_path(url: str) -> str:
    return str(sa.make_url(url).database)


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
def by_django(url: str) -> Iterator[Any]:
    pytest.importorskip("django", reason="the smoke environments have no Django")
    settings, handlers = import_module("django.conf").settings, import_module("django.db.utils")
    if not settings.configured:
        settings.configure()
    given = sa.make_url(url)
    kind = "sqlite3" if given.get_backend_name() == "sqlite" else "postgresql"
    places = {
        "ENGINE": f"django.db.backends.{kind}",
        "NAME": given.database,
        "HOST": given.host or "",
        "PORT": given.port or "",
        "USER": given.username or "",
        "PASSWORD": given.password or "",
    }
    connection = handlers.ConnectionHandler({"default": places})["default"]
    connection.set_autocommit(False)
    yield connection, connection.commit, connection.rollback
    connection.close()


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
    "django": ("", by_django),
    "sqlite3": ("sqlite", by_sqlite3),
    "sqlite3 with dict rows": ("sqlite", by_sqlite3_with_dict_rows),
}


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
