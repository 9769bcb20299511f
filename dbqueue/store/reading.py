"""How whatever reads the tables outside a worker's rounds gets its connection."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime

import sqlalchemy as sa

from dbqueue.store.base import Store
from dbqueue.store.tables import database_now
from dbqueue.store.values import moment


@contextlib.contextmanager
def reading(store: Store) -> Iterator[sa.Connection]:
    """A connection for reads, in autocommit: on SQLite it takes no lock that a writer would wait for."""
    with store.translating(), store.engine.connect() as connection:
        yield in_schema(connection, store)


def in_schema(connection: sa.Connection, store: Store) -> sa.Connection:
    """The connection, on which our tables are those of the store's schema."""
    return connection.execution_options(schema_translate_map={None: store.schema}) if store.schema else connection


def database_time(store: Store) -> datetime:
    """The time by the database's clock, which decides."""
    with reading(store) as connection:
        return time_on(connection)


def time_on(connection: sa.Connection) -> datetime:
    return moment(connection.scalar(sa.select(database_now())))
