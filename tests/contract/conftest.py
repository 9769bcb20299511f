"""The contract's subjects: a store of each kind, and workers on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import psycopg
import pytest

from dbqueue.store.base import Store
from dbqueue.store.tables import metadata
from tests.servers import PostgresServer, libpq_url
from tests.stores import TestWorker, opened


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    with postgres_server.database(postgres_template) as url:
        yield url


@pytest.fixture
def postgres_url(shared_postgres_url: str) -> str:
    """One database for all of these tests, emptied for each: a new one takes most of a test's time."""
    with psycopg.connect(libpq_url(shared_postgres_url), autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(metadata.tables)}".encode())
    return shared_postgres_url


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with opened(database_url) as store:
        yield store


@pytest.fixture
def new_worker(store: Store) -> Iterator[Callable[..., TestWorker]]:
    with contextlib.ExitStack() as stack:

        def make(**options: object) -> TestWorker:
            worker = TestWorker(store, **options)  # type: ignore[arg-type]
            stack.callback(worker.close)
            return worker

        yield make


@pytest.fixture
def worker(new_worker: Callable[..., TestWorker]) -> TestWorker:
    return new_worker()
