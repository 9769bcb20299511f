"""Transactional tasks in real workers: on every pool, interrupted, and while the database gives no connection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

import dbqueue
from dbqueue.contrib.testing.worker import start_worker
from dbqueue.errors import SoftTimeLimitExceeded
from dbqueue.store.transactions import task_engines
from tests.servers import PostgresServer, libpq_url
from tests.stores import run_sql
from tests.waiting import wait_until
from tests.worker.transactional.effects import call, effects
from tests.worker.transactional.tasks import EFFECTS, App, make_app
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]


MODULE = "tests.worker.transactional.tasks"


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("wait_in_the_database", "prefork"),
        ("await_the_database", "prefork"),
        ("await_the_database", "asyncio"),
    ],
)
def test_a_statement_that_a_soft_limit_interrupts_is_ended(
    postgres_url: str, start_worker: Start, name: str, pool: str
) -> None:
    """The server went on with it, and with its locks, for as long as it takes."""
    with make_app(postgres_url) as app, psycopg.connect(libpq_url(postgres_url), autocommit=True) as watcher:
        watcher.execute(EFFECTS)
        worker = start_worker(postgres_url, pool=pool, module=MODULE)
        result = call(app, name, "a", soft_time_limit=1)
        assert isinstance(result.get(timeout=60, propagate=False), SoftTimeLimitExceeded)
        lock = "SELECT pg_try_advisory_lock(7)"
        wait_until(lambda: watcher.execute(lock).fetchone() == (True,), 20, "the end of the statement")
        watcher.execute("SELECT pg_advisory_unlock(7)")
        assert effects(app) == []
        assert call(app, "write", "b").get(timeout=60) == "wrote b"
        assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo"])
def test_on_every_pool(app: App, database_url: str, start_worker: Start, pool: str) -> None:
    names = ["write", "awrite", "write_and_fail", "awrite_and_fail", "follow", "afollow", "write_and_retry"]
    results = {name: call(app, name, name) for name in names}
    linked = dbqueue.chain(app.tasks["t.awrite"].si("x"), app.tasks["t.write"].si("y")).apply_async()
    worker = start_worker(database_url, pool=pool, module=MODULE)
    states = {name: result.get(timeout=60, propagate=False) for name, result in results.items()}
    assert repr(states["write_and_fail"]) == repr(states["awrite_and_fail"]) == "ValueError('after the write')"
    assert states["write_and_retry"] == 2
    assert linked.get(timeout=60) == "wrote y"
    for job_id in [*states["follow"], states["afollow"]]:
        app.AsyncResult(job_id).get(timeout=60)
    expected = ["write", "awrite", "follow", "follow-1", "follow-2", "follow-3", "follow-apart", "afollow", "afollow-1"]
    assert effects(app) == sorted([*expected, "write_and_retry", "x", "y"])
    assert worker.stop() == 0
    assert "lost its lease" not in worker.log


# a database that gives no connection


@contextlib.contextmanager
def closed_to_all(server: PostgresServer, url: str) -> Iterator[Callable[[], None]]:
    """A database whose connections stay, and which takes no further ones until it is opened again."""
    name = sa.make_url(url).database
    server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        yield lambda: server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def run_while_closed(
    app: App, server: PostgresServer, url: str, name: str, *, until: str = "false", said: Callable[[], bool] = bool
) -> Any:
    """The result of a task that begins while the database is closed, until its job is in this state, or it was said."""
    with psycopg.connect(libpq_url(url), autocommit=True) as watcher:

        def there_is(condition: str) -> bool:
            return watcher.execute(f"SELECT FROM dbqueue_jobs WHERE {condition}".encode()).fetchone() is not None

        with start_worker(app, perform_ping_check=False):
            result = app.tasks[f"t.{name}"].apply_async(["a"], connection=watcher, countdown=3600)
            with closed_to_all(server, url) as reopen:
                watcher.execute("UPDATE dbqueue_jobs SET eta = now(), ready_at = now()")
                wait_until(lambda: said() or there_is(f"{until} OR finished_at IS NOT NULL"), what="its run")
                reopen()
                wait_until(lambda: there_is("finished_at IS NOT NULL"), what="its end")
    return result.get(timeout=0)


@pytest.mark.parametrize("name", ["write", "awrite"])
def test_a_task_waits_for_a_database_that_gives_no_connection(
    postgres_app: App, postgres_server: PostgresServer, postgres_url: str, name: str
) -> None:
    until = "status = 'STARTED'"
    assert run_while_closed(postgres_app, postgres_server, postgres_url, name, until=until) == "wrote a"
    assert effects(postgres_app) == ["a"]


def test_a_coroutine_that_got_no_connection_runs_again(
    postgres_app: App,
    postgres_server: PostgresServer,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing of it has run: it has not failed, and was not lost, whether it may run again or not."""
    monkeypatch.setattr(task_engines, "CONNECT_SECONDS", 0.5)
    postgres_app.tasks["t.awrite"].acks_late = False
    result = run_while_closed(
        postgres_app, postgres_server, postgres_url, "awrite", said=lambda: "it has not begun" in caplog.text
    )
    assert result == "wrote a"
    assert effects(postgres_app) == ["a"]
    assert run_sql(postgres_app.database.store, "SELECT FROM dbqueue_jobs WHERE losses = 0") == 1
