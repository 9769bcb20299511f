"""The lease's fence while a worker shuts down: what another may run by now is not run on here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.crash.test_kills import LEASE
from tests.servers import PostgresServer, libpq_url
from tests.stores import row
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]


@contextmanager
def heartbeats_cut(url: str) -> Iterator[None]:
    """The watch's connection is ended and cannot be opened again; the rounds' own stays."""
    name = sa.make_url(url).database
    with psycopg.connect(libpq_url(url), dbname="postgres", autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        try:
            query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            admin.execute(f"{query} AND application_name LIKE '%% watch'".encode(), [name])
            yield
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_a_heartbeat_that_stays_away_ends_a_warm_shutdown(
    postgres_url: str, tmp_path: Path, start_worker: Start, pool: str
) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    with make_app(postgres_url) as app:
        worker = start_worker(postgres_url, pool=pool, settings=LEASE)
        result = app.tasks["sample.hold"].delay(str(started), str(release))
        wait_until(started.exists)
        worker.term()
        wait_until(lambda: "Warm shutdown" in worker.log)
        with heartbeats_cut(postgres_url):
            assert worker.wait() == 1
        assert "The lease ended during the shutdown" in worker.log
        assert worker.family() == []
        # By the connection that was left it is given back, and no loss is counted.
        found = row(app.database.store, result.id)
        assert (found["status"], found["losses"]) == ("PENDING", 0)
        release.touch()
        start_worker(postgres_url, settings=LEASE)
        assert result.get(timeout=60) == "released"
        assert len(started.read_text().split()) == 2


def test_a_database_that_stays_away_ends_a_warm_shutdown(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, start_worker: Start
) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    with make_app(postgres_url) as app:
        worker = start_worker(postgres_url, settings=LEASE)
        result = app.tasks["sample.hold"].delay(str(started), str(release))
        wait_until(started.exists)
        worker.term()
        wait_until(lambda: "Warm shutdown" in worker.log)
        postgres_server.stop()
        try:
            assert worker.wait() == 1
            assert "The lease ended during the shutdown" in worker.log
            assert worker.family() == []
        finally:
            postgres_server.start()
        # Nobody could be told: the job is rescued when the worker's heartbeat is old.
        release.touch()
        start_worker(postgres_url, settings=LEASE)
        assert result.get(timeout=60) == "released"
        found = row(app.database.store, result.id)
        assert (found["status"], found["losses"]) == ("SUCCESS", 1)
