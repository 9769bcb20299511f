"""The contract's subjects: a store of each kind, and workers on it."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from dbqueue.store.base import Store
from dbqueue.store.tables import metadata
from tests.servers import PostgresServer, libpq_url
from tests.stores import TestWorker, opened, partitioned

ON_PARTITIONS = {
    "claim",
    "outcomes",
    "rescue",
    "heartbeats",
    "lost_workers",
    "kept_jobs",
    "workflow_writing",
    "workflow_success",
    "workflow_errbacks",
    "workflow_growth",
    "workflow_failure",
    "workflow_ends",
    "workflow_overdue",
    "workflow_prune",
    "held",
    "freed_permits",
    "limit_keys",
    "enqueue",
    "bulk",
    "unique",
}
"""The parts of the contract that hold for a table of jobs that is partitioned, too; the rest asks nothing of it."""

TICKS_A_HOUR = 3_600_000 << 12


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database_url" in metafunc.fixturenames and not hasattr(metafunc.module, "database_url"):
        more = ["partitioned"] if metafunc.module.__name__.rpartition("test_")[2] in ON_PARTITIONS else []
        metafunc.parametrize("database_url", ["sqlite", "postgres", *more], indirect=True)


@pytest.fixture(autouse=True)
def _looks_from_the_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each claim sees all there is, however slow the machine: the hints of slow ones are tests/concurrency's."""
    monkeypatch.setattr("dbqueue.store.postgres.floors.SLOW_SECONDS", math.inf)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """A new database of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(scope="session")
def shared_postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    with postgres_server.database(postgres_template) as url:
        yield url


@pytest.fixture
def postgres_url(shared_postgres_url: str) -> str:
    """One database for all of these tests, emptied for each: a new one takes most of a test's time."""
    with psycopg.connect(libpq_url(shared_postgres_url), autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(metadata.tables)}".encode())
        connection.execute(f"ALTER DATABASE {connection.info.dbname} RESET ALL".encode())
    return shared_postgres_url


@pytest.fixture(scope="session")
def shared_partitioned_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    with postgres_server.database(postgres_template) as url:
        partitioned(url, days=6)
        with psycopg.connect(libpq_url(url), autocommit=True) as connection:
            # Of the ids that tests choose. The DEFAULT partition has the rest.
            connection.execute("CREATE TABLE of_letters PARTITION OF dbqueue_jobs FOR VALUES FROM ('b') TO ('k')")
        yield url


@pytest.fixture
def partitioned_url(shared_partitioned_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same with a table of jobs in nine partitions; each id is of some hours later than the one before it."""
    with psycopg.connect(libpq_url(shared_partitioned_url), autocommit=True) as connection:
        connection.execute(f"TRUNCATE {', '.join(metadata.tables)}".encode())
    start, hours = (time.time_ns() << 12) // 1_000_000, itertools.count(step=7)
    monkeypatch.setattr("dbqueue.jobs._ticks", lambda number: start + next(hours) * TICKS_A_HOUR)
    return shared_partitioned_url


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


@pytest.fixture
def dead(new_worker: Callable[..., TestWorker]) -> TestWorker:
    """One of whom nothing is heard for the five seconds of its lease, once a test has let them pass."""
    return new_worker(lease_seconds=5)


@pytest.fixture
def rescuer(new_worker: Callable[..., TestWorker]) -> TestWorker:
    return new_worker(lease_seconds=3600)
