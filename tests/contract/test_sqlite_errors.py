"""What a SQLite file that cannot be written says: the reason, and what to look at. And when it can, it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from dbqueue.errors import OperationalError
from dbqueue.store.base import Store
from tests.stores import count, enqueued, opened


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    with opened(sqlite_url) as store:
        yield store


def with_pragma(store: Store, pragma: str) -> None:
    """Every connection of the store's begins with it."""
    sa.event.listen(store.engine, "connect", lambda connection, _: connection.execute(f"PRAGMA {pragma}").fetchall())


def test_read_only(store: Store) -> None:
    with_pragma(store, "query_only = ON")
    assert store.fetch(["any"]) == {}
    with pytest.raises(
        OperationalError, match=r"cannot be written \(attempt to write a readonly database\): .*writable"
    ):
        enqueued(store)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path}") as store:  # a folder
        with pytest.raises(OperationalError, match=r"cannot be written \(unable to open database file\)"):
            store.ensure_schema()
        with pytest.raises(OperationalError, match="unable to open"):
            enqueued(store)


def test_locked_by_another_program(store: Store, sqlite_url: str) -> None:
    with_pragma(store, "busy_timeout = 20")
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            OperationalError, match=r"another program kept the SQLite file locked .*\(database is locked\)"
        ):
            enqueued(store)
        other.execute("ROLLBACK")
    enqueued(store)
    assert count(store) == 1


def test_no_space_left(store: Store, sqlite_url: str) -> None:
    with_pragma(store, "max_page_count = 1")  # no page more than there are
    job_id = enqueued(store)
    with pytest.raises(OperationalError, match="database or disk is full"):
        enqueued(store, args=f'["{"x" * 100_000}"]')
    with opened(sqlite_url) as roomy:
        enqueued(roomy, args=f'["{"x" * 100_000}"]')
    assert count(store) == 2
    assert job_id in store.fetch([job_id])
