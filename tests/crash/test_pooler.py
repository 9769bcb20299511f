"""PgBouncer in transaction mode, with few connections to the server: workers poll, or listen past it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue import DBQueue, chain, group
from dbqueue.store import open_store
from dbqueue.store.trouble import ROUND_LOCK_SECONDS
from tests.crash.test_kills import LEASE, ended, runs
from tests.servers import UNPRIVILEGED_USER, libpq_url
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.worker.transactional import exactly_once
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]

POOLER = {"database_pooler": True, "worker_poll_interval": 0.3}

CONFIGURATION = """
[databases]
* = host={host} port={server_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
server_reset_query =
"""


class Pooler:
    def __init__(self, url: str) -> None:
        program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("PgBouncer is not installed")
        server = sa.make_url(url)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = server.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
        self._folder = Path(tempfile.mkdtemp(prefix="dbqueue-pooler-"))
        self._folder.chmod(0o755)
        settings = CONFIGURATION.format(host=server.host, server_port=server.port, port=port)
        if server.username:
            settings = settings.replace("* = ", f"* = user={server.username} ")
        (self._folder / "ini").write_text(settings)
        self._command = [program, "-q", str(self._folder / "ini")]
        self.start()

    def start(self) -> None:
        user = UNPRIVILEGED_USER if os.geteuid() == 0 else None  # it refuses to be root
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, user=user, stdout=log, stderr=log)
        wait_until(self._answers, what="PgBouncer's start")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)  # at once: clients are cut off
        self._process.wait(30)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            psycopg.connect(libpq_url(self.url), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture
def pooler(postgres_url: str) -> Iterator[Pooler]:
    pooler = Pooler(postgres_url)
    yield pooler
    pooler.close()


def test_everything_works_through_it(pooler: Pooler, tmp_path: Path, start_worker: Start) -> None:
    with make_app(pooler.url, **POOLER) as app:
        worker = start_worker(pooler.url, settings=POOLER)
        add, record = app.tasks["sample.add"], app.tasks["sample.record"]
        assert add.delay(1, 2).get(timeout=60) == 3
        assert chain(add.s(1, 2), add.s(4)).delay().get(timeout=60) == 7
        assert group(add.s(n, n) for n in range(20)).delay().get(timeout=60) == [2 * n for n in range(20)]
        with pytest.raises(Exception, match="no"):
            app.tasks["sample.fail"].delay("no").get(timeout=60)
        path = tmp_path / "runs"
        record.enqueue_many([(str(path), n) for n in range(500)])
        limited = [add.apply_async((n, 1), limit_key="one") for n in range(5)]
        app.control.set_limit("one", running=1)
        assert [each.get(timeout=60) for each in limited] == [1, 2, 3, 4, 5]
        wait_until(lambda: ended(app)["SUCCESS"] == 500 + 1 + 2 + 20 + 5, timeout=60)
        assert runs(path) == Counter(str(n) for n in range(500))
        assert len(app.control.ping(timeout=10)) == 1
        no_session_settings_are_left(pooler)
        assert worker.stop() == 0
        assert "broke" not in worker.log


def no_session_settings_are_left(pooler: Pooler) -> None:
    """On the server's connections, which all clients of the pooler share."""
    names = ("lock_timeout", "enable_seqscan", "plan_cache_mode", "statement_timeout", "default_transaction_isolation")
    with psycopg.connect(libpq_url(pooler.url), autocommit=True) as client:
        for _ in range(8):
            query = "SELECT name FROM pg_settings WHERE source = 'session' AND name = ANY(%s)"
            assert client.execute(query, [list(names)], prepare=False).fetchall() == []


def test_the_settings_of_rounds_hold_in_each_transaction(pooler: Pooler) -> None:
    store = open_store(pooler.url, shown_url="", pooler=True)
    session = store.work_session("test")
    driver = session._driver  # type: ignore[attr-defined]
    shown = "SELECT current_setting('enable_seqscan'), current_setting('lock_timeout')"
    expected = ("off", f"{ROUND_LOCK_SECONDS}s")
    try:
        assert driver.execute(shown).fetchone() == expected
        with driver.pipeline():
            cursors = [driver.execute(shown), driver.execute(shown)]
        assert [cursor.fetchone() for cursor in cursors] == [expected] * 2
        with driver.transaction():
            assert driver.execute(shown).fetchone() == expected
            with driver.transaction():
                assert driver.execute(shown).fetchone() == expected
        with driver.pipeline(), driver.transaction():
            cursor = driver.execute(shown)
        assert cursor.fetchone() == expected
        with pytest.raises(psycopg.errors.DivisionByZero):
            driver.execute("SELECT 1 / 0")
        assert driver.execute(shown).fetchone() == expected
    finally:
        session.close()
        store.close()


def test_a_restart_of_the_pooler_under_load(pooler: Pooler, tmp_path: Path, start_worker: Start) -> None:
    path = tmp_path / "runs"
    with make_app(pooler.url, **POOLER) as app:
        settings = LEASE | POOLER | {"worker_lease_seconds": 20.0}
        worker = start_worker(pooler.url, settings=settings)
        app.tasks["sample.record_slowly"].enqueue_many([(str(path), n, 0.005) for n in range(400)])
        for done in (20, 150):
            wait_until(lambda done=done: len(runs(path)) > done)  # type: ignore[misc]
            pooler.stop()
            pooler.start()
        wait_until(lambda: ended(app)["SUCCESS"] == 400, timeout=60)
        assert set(runs(path)) == {str(n) for n in range(400)}
        assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["prefork", "asyncio"])
def test_transactional_tasks_count_exactly(pooler: Pooler, postgres_url: str, start_worker: Start, pool: str) -> None:
    """A task's transaction is the pooler's unit, too: its writes and its SUCCESS are there together, or neither is."""
    jobs, effects = 40, "SELECT count(*) FROM effects"
    with exactly_once.counting(postgres_url) as app:
        worker = exactly_once.start(start_worker, pooler.url, pool, settings=POOLER)
        failing = [app.tasks["t.write_and_fail"].delay(f"failed {n}") for n in range(3)]
        for each in failing:
            with pytest.raises(ValueError, match="after the write"):
                each.get(timeout=60)
            each.forget()
        counted = app.tasks[exactly_once.TASKS[pool]]
        counted.enqueue_many([(0.02,)] * jobs)
        for done in (5, 20):
            wait_until(lambda done=done: exactly_once.scalar(app, effects) >= done)  # type: ignore[misc]
            pooler.stop()
            pooler.start()
        exactly_once.check(app, jobs)
        assert worker.stop() == 0


def test_workers_listen_past_it(pooler: Pooler, postgres_url: str, start_worker: Start) -> None:
    """Nothing is polled for: the one way to hear of the job in time is the notification."""
    settings = {"database_pooler": True, "database_listen_url": postgres_url, "worker_poll_interval": 600.0}
    with make_app(pooler.url, **settings) as app:
        worker = start_worker(pooler.url, settings=settings)
        for n in range(3):
            assert app.tasks["sample.add"].delay(n, 2).get(timeout=60) == n + 2
        assert names_of_sessions(app) == {"", "watch"}
        assert worker.stop() == 0


def names_of_sessions(app: DBQueue) -> set[str]:
    with app.database.store.connect() as connection:
        query = (
            "SELECT application_name FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR application_name LIKE '%@%'"
        )
        names = [str(row[0]) for row in connection.execute(sa.text(query))]
    return {"watch" if name.endswith(" watch") else "" for name in names}
