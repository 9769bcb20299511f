"""Outcomes that could go round for ever: jobs that give themselves back, and values that the database refuses."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dbqueue import DBQueue
from dbqueue.calls import new_job
from dbqueue.errors import EncodeError, Reject
from dbqueue.jobs import REJECTIONS, ClaimedJob, Released
from dbqueue.services.workers import make_executor
from dbqueue.store import queries
from dbqueue.store.sqlite.store import SqliteStore
from dbqueue.task.eager import claimed
from tests.servers import libpq_url
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
Send = Callable[..., Any]
PathOf = Callable[[str], str]
TIMEOUT = 30.0


def test_reject_is_no_loss_and_marks_the_job(
    app: DBQueue, database_url: str, send: Send, path: PathOf, start_worker: Start
) -> None:
    worker = start_worker(database_url, settings={"task_max_losses": 1})
    result = send("give_back", path("runs"), 3)
    assert result.get(timeout=TIMEOUT) is True
    assert len(Path(path("runs")).read_text().split()) == 4
    row = queries.find_job(app.database.store, result.id)
    assert row is not None
    assert (row.losses, row.retries) == (0, 0)
    assert "gave itself back" in worker.log


def test_the_pause_grows() -> None:
    """`Reject(requeue=True)` for ever costs a run a minute, not a core."""
    with DBQueue("pauses", broker="sqlite://", set_as_current=False) as app:

        @app.task(name="never")
        def never() -> None:
            raise Reject("no", requeue=True)

        executor = make_executor(app, hostname="h")
        options = {"time_limit": 5, "argsrepr": date(2026, 1, 1)}
        job: ClaimedJob = claimed(new_job(app.conf, "never", never, (), {}, options, published=False))
        pauses = []
        for _ in range(40):
            outcome = executor.run(job)
            assert isinstance(outcome, Released)
            assert outcome.delay_seconds is not None
            pauses.append(outcome.delay_seconds)
            job = job._replace(options=outcome.options)
        assert pauses[:3] == [0.1, 0.2, 0.4]
        assert all(first <= second for first, second in pairwise(pauses))
        assert pauses[-1] == 60.0
        assert json.loads(job.options or "") == {
            "time_limit": 5, "argsrepr": {"__type__": "date", "__value__": "2026-01-01"}, REJECTIONS: 40,
        }  # fmt: skip


def test_a_value_beyond_the_database_s_limits_is_a_failure(postgres_url: str, start_worker: Start) -> None:
    """SQLSTATE class 54: trying again would never end."""
    with make_app(postgres_url) as app, psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        start_worker(postgres_url)
        admin.execute("""
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE 'stack depth limit exceeded' USING ERRCODE = '54001'; END $$;
            CREATE TRIGGER refuse BEFORE UPDATE ON dbqueue_jobs FOR EACH ROW
            WHEN (NEW.result::text LIKE '%too much%') EXECUTE FUNCTION refuse()
        """)
        result = app.tasks["sample.echo"].delay("too much")
        with pytest.raises(EncodeError, match="stack depth"):
            result.get(timeout=TIMEOUT)
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=TIMEOUT) == 3
        admin.execute(f"ALTER DATABASE {admin.info.dbname} SET max_stack_depth = '100kB'")
    with make_app(postgres_url) as app:
        job = new_job(app.conf, "sample.echo", None, (), {}, {})
        with pytest.raises(EncodeError, match="stack depth"):
            app.database.enqueue([job._replace(args="[" * 5_000 + "]" * 5_000)])


class TestSqliteLocks:
    def test_a_killed_worker_is_not_shown_alive(self, sqlite_url: str, start_worker: Start) -> None:
        with make_app(sqlite_url) as app:
            worker = start_worker(sqlite_url, settings={"worker_lease_seconds": 600.0})
            assert [each.alive for each in queries.open_workers(app.database.store)] == [True]
            os.killpg(worker.pid, signal.SIGKILL)
            worker.process.wait()
            wait_until(lambda: [each.alive for each in queries.open_workers(app.database.store)] == [False])

    def test_the_file_is_closed_with_the_store(self, sqlite_url: str) -> None:
        with make_app(sqlite_url) as app:
            store = app.database.store
            assert isinstance(store, SqliteStore)
            path = f"{store.path}-workers"

            def is_open() -> bool:
                found = (os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
                return path in found

            store.worker_is_gone("nobody#1")
            assert is_open()
            store.worker_locks.hold("somebody#1")
            store.close()
            assert is_open()  # its end would be the worker's death
            store.worker_locks.drop("somebody#1")
            store.close()
            assert not is_open()
            os.utime(path, (0, 0))  # by one that is new nobody is dead
            assert store.worker_is_gone("nobody#1")
