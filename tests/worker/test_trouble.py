"""A worker whose database has no room, no time or no connection for others: it lives, and its jobs end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from dbqueue.errors import OperationalError
from tests.crash.test_kills import LEASE
from tests.servers import libpq_url
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]


@contextmanager
def locked(url: str, table: str) -> Iterator[None]:
    with psycopg.connect(libpq_url(url)) as application:
        application.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
        yield
        application.rollback()


@pytest.mark.parametrize("table", ["dbqueue_jobs", "dbqueue_workers"])
def test_an_application_that_holds_a_table(postgres_url: str, tmp_path: Path, start_worker: Start, table: str) -> None:
    """Longer than a statement waits for its lock, shorter than the lease: nothing is lost, and nothing runs twice."""
    started, release = tmp_path / "started", tmp_path / "release"
    settings = {"worker_lease_seconds": 40.0, "worker_heartbeat_interval": 0.5}
    with make_app(postgres_url) as app:
        worker = start_worker(postgres_url, settings=settings)
        result = app.tasks["sample.hold"].delay(str(started), str(release))
        wait_until(started.exists)
        with locked(postgres_url, table):
            release.touch()
            worker.says("lock timeout")
        assert result.get(timeout=60) == "released"
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
        assert len(started.read_text().split()) == 1
        assert worker.stop() == 0
        assert "heartbeat reached" not in worker.log


@pytest.mark.parametrize(
    ("away", "back"),
    [
        ("ALTER TABLE dbqueue_jobs RENAME TO elsewhere", "ALTER TABLE elsewhere RENAME TO dbqueue_jobs"),
        ("ALTER TABLE dbqueue_jobs OWNER TO {other}", "ALTER TABLE dbqueue_jobs OWNER TO {user}"),
    ],
    ids=["tables", "rights"],
)
def test_what_is_taken_away_for_a_while(
    postgres_url: str, tmp_path: Path, start_worker: Start, away: str, back: str
) -> None:
    """A backup is restored, or rights are granted anew: the worker waits, and its runs end as if nothing had been."""
    started, release = tmp_path / "started", tmp_path / "release"
    name = sa.make_url(postgres_url).database
    user = f"role_{name}"
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin, make_app(postgres_url) as app:
        names = {"user": user, "other": admin.info.user}
        admin.execute(f"CREATE ROLE {user} LOGIN; GRANT ALL ON SCHEMA public TO {user}".encode())
        for (table,) in admin.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall():
            admin.execute(f"ALTER TABLE {table} OWNER TO {user}".encode())
        worker = start_worker(sa.make_url(postgres_url).set(username=user).render_as_string(hide_password=False))
        result = app.tasks["sample.hold"].delay(str(started), str(release))
        wait_until(started.exists)
        admin.execute(away.format(**names).encode())
        release.touch()
        worker.says("Trying again; finished jobs are kept until they are written")
        admin.execute(back.format(**names).encode())
        assert result.get(timeout=60) == "released"
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
        assert len(started.read_text().split()) == 1
        assert worker.stop() == 0
        admin.execute(f"DROP OWNED BY {user}".encode())
        admin.execute(f"DROP ROLE {user}".encode())


def test_a_column_that_is_altered(postgres_url: str, tmp_path: Path, start_worker: Start) -> None:
    """The server's plans of statements that have been used are no longer good: a new connection plans anew."""
    started, release = tmp_path / "started", tmp_path / "release"
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin, make_app(postgres_url) as app:
        worker = start_worker(postgres_url)
        result = app.tasks["sample.hold"].delay(str(started), str(release))
        wait_until(started.exists)
        for _ in range(10):  # until this program's own statement is prepared
            assert result.state == "STARTED"
        for column in ("priority", "retries"):
            admin.execute(f"ALTER TABLE dbqueue_jobs ALTER COLUMN {column} TYPE bigint".encode())
        assert result.state == "STARTED"
        release.touch()
        assert result.get(timeout=60) == "released"
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
        assert worker.stop() == 0


def beat_of(app: DBQueue) -> object:
    with app.database.store.connect() as connection:
        return connection.execute(sa.text("SELECT max(heartbeat_at) FROM dbqueue_workers")).scalar_one()


def limited_role(admin: psycopg.Connection[Any], url: str, *, connections: int) -> tuple[str, str]:
    """A new role that may do all with the tables over so many connections, and the database's URL for it."""
    user = f"role_{sa.make_url(url).database}"
    admin.execute(f"CREATE ROLE {user} LOGIN CONNECTION LIMIT {connections}".encode())
    admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}".encode())
    admin.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {user}".encode())
    return user, sa.make_url(url).set(username=user).render_as_string(hide_password=False)


def test_no_connection_is_left_for_others(postgres_url: str, tmp_path: Path, start_worker: Start) -> None:
    """The worker's two are open: it goes on past its lease. Who needs one more is told of the limit."""
    started, release = tmp_path / "started", tmp_path / "release"
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin, make_app(postgres_url) as app:
        user, url = limited_role(admin, postgres_url, connections=2)
        worker = start_worker(url, settings=LEASE, ready=False)
        admin.execute(f"ALTER ROLE {user} CONNECTION LIMIT 3".encode())  # for its look at the tables at the start
        worker.wait_ready()
        admin.execute(f"ALTER ROLE {user} CONNECTION LIMIT 0".encode())
        result = app.tasks["sample.hold"].delay(str(started), str(release))
        wait_until(started.exists)
        with make_app(url) as crowded, pytest.raises(OperationalError, match="too many connections for role"):
            crowded.tasks["sample.add"].delay(1, 2)
        for _ in range(8):  # of 0.4 s each: longer than the lease
            before = beat_of(app)
            wait_until(lambda before=before: beat_of(app) != before, what="a heartbeat")  # type: ignore[misc]
        release.touch()
        assert result.get(timeout=60) == "released"
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
        assert worker.stop() == 0
        for trouble in ("heartbeat reached", "broke", "Trying again"):
            assert trouble not in worker.log
        admin.execute(f"DROP OWNED BY {user}".encode())
        admin.execute(f"DROP ROLE {user}".encode())


def test_no_connection_is_left_at_the_start(postgres_url: str, start_worker: Start) -> None:
    """The database has answered, and does not when the worker opens its own connections: it tries again."""
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin, make_app(postgres_url) as app:
        user, url = limited_role(admin, postgres_url, connections=1)
        worker = start_worker(url, ready=False)
        worker.says("The worker cannot be registered")
        count = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
        admin.execute(f"ALTER ROLE {user} CONNECTION LIMIT 3".encode())
        worker.wait_ready()
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
        assert admin.execute(count, [user]).fetchone() == (2,), "what it could not use is closed"
        assert worker.stop() == 0
        admin.execute(f"DROP OWNED BY {user}".encode())
        admin.execute(f"DROP ROLE {user}".encode())
