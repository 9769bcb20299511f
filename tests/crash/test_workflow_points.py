"""Workflows under a crash at each point between a job's end and the release of what waits for it.

The process that comes to a point waits there until the test has killed it, or the database.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue, chain, chord, group
from dbqueue.errors import ChordError
from dbqueue.failpoints import LOG_VARIABLE, VARIABLE
from tests.crash.test_kills import LEASE
from tests.crash.test_workflows import watch_releases
from tests.servers import PostgresServer
from tests.stores import run_sql
from tests.waiting import wait_until
from tests.worker.canvas_tasks import NOTES, make_app, notes
from tests.worker.transactional.tasks import EFFECTS
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]

OF_CHILDREN = ("run.after", "commit.before", "commit.after")
OF_WORKERS = ("claim.after", "complete.before", "complete.between", "release.between", "complete.after")
LASTING = LEASE | {"worker_lease_seconds": 20.0, "worker_heartbeat_interval": 1.0}
"""A lease that a restart of the database does not outlast."""
HEADERS = 8


class Crash:
    """Workers that wait at points, and workflows that bring them there."""

    def __init__(self, app: DBQueue, url: str, folder: Path, start_worker: Start) -> None:
        self.app, self._url, self._folder, self._start_worker = app, url, folder, start_worker
        self._log, self._notes = folder / "points", folder / "notes"
        self._results: list[tuple[Any, Any]] = []
        self._broken: list[Any] = []
        watch_releases(app)
        run_sql(app.database.store, EFFECTS)

    def start(self, points: Sequence[str] = (), settings: dict[str, Any] = LEASE) -> WorkerProcess:
        """A worker that waits at each of these points, itself or its children, until its `arrivals` goes on."""
        traps = ";".join(f"{point}=pause:{self._folder / point}" for point in points)
        environment = {VARIABLE: traps, LOG_VARIABLE: str(self._log), NOTES: str(self._notes)}
        module = "tests.worker.canvas_tasks"
        return self._start_worker(self._url, module=module, settings=settings, environment=environment, ready=False)

    def arrivals(self, points: Iterable[str]) -> Iterator[tuple[str, int]]:
        """Each point, and a process that waits there, in the order in which they come to it."""
        pending = set(points)

        def arrived() -> list[tuple[str, int]]:
            lines = self._log.read_text().splitlines() if self._log.exists() else []
            fields = [line.split() for line in lines]
            # Who waits at commit.before holds the whole of an SQLite file: an enqueue waits for it, and so does the
            # worker's heartbeat, until the worker takes its lease for lost and kills the child itself.
            return [(name, int(pid)) for _, pid, name, _ in fields if name in pending and Path(f"/proc/{pid}").exists()]

        while pending:
            if not arrived():
                self.enqueue()
            point, pid = wait_until(arrived, what=f"one of the points {pending}")[0]
            yield point, pid
            pending.remove(point)
            (self._folder / point).touch()

    def enqueue(self) -> None:
        record, kept, fail = (self.app.tasks[f"tasks.{name}"] for name in ("record", "kept", "fail"))
        rep, errback = self.app.tasks["tasks.rep"], self.app.tasks["tasks.new_errback"]
        joined = chord([record.si(n) for n in range(HEADERS)], record.s())
        chained = chain(kept.s(1), kept.s(2), group(kept.s(n) for n in range(3)), record.s("all"))
        replaced = chain(rep.s(chord([record.si("in"), record.si("in")], record.s())), record.s("after"))
        broken = chord([record.si("header"), fail.si()], record.s("never")).on_error(errback.s())
        self._results += [
            (joined.delay(), [[[n] for n in range(HEADERS)]]),
            (chained.delay(), [[[[[1], 2], n] for n in range(3)], "all"]),
            (replaced.delay(), [[[["in"], ["in"]]], "after"]),
        ]
        self._broken.append((broken | record.s("nor this")).delay())

    def check(self) -> None:
        """All has ended as if nothing had happened, and each job that waited was let go once."""
        unfinished = "SELECT id FROM dbqueue_jobs WHERE finished_at IS NULL"
        wait_until(lambda: not self._read(unfinished), what="the end of all jobs")
        for result, expected in self._results:
            assert result.get(timeout=10) == expected
        for result in self._broken:
            with pytest.raises(ChordError, match="raised ValueError"):
                result.get(timeout=10)
        ids = "SELECT id FROM dbqueue_jobs WHERE task ="
        assert self._read("SELECT id FROM releases") == self._read("SELECT DISTINCT successor FROM dbqueue_edges")
        assert self._read("SELECT name FROM effects") == self._read(f"{ids} 'tasks.kept'")
        errbacks = self._read(f"{ids} 'tasks.new_errback' AND status = 'SUCCESS'")
        assert errbacks.total() == len(self._broken)
        assert not any("never" in note or "nor this" in note for note in notes(self._notes))

    def _read(self, query: str) -> Counter[str]:
        with self.app.database.store.connect() as connection:
            return Counter(connection.scalars(sa.text(query)))


@pytest.fixture
def server(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres_server
    postgres_server.start()


def test_children_killed(database_url: str, tmp_path: Path, start_worker: Start) -> None:
    with make_app(database_url) as app:
        it = Crash(app, database_url, tmp_path, start_worker)
        worker = it.start(OF_CHILDREN)
        for _, pid in it.arrivals(OF_CHILDREN):
            os.kill(pid, signal.SIGKILL)
        it.check()
        assert worker.stop() == 0


def test_workers_killed(database_url: str, tmp_path: Path, start_worker: Start) -> None:
    with make_app(database_url) as app:
        it = Crash(app, database_url, tmp_path, start_worker)
        worker = it.start(OF_WORKERS)
        left = set(OF_WORKERS)
        for point, _ in it.arrivals(OF_WORKERS):
            worker.kill()
            left.remove(point)
            worker = it.start(sorted(left))
        it.check()
        assert worker.stop() == 0


def test_the_database_killed(server: PostgresServer, postgres_url: str, tmp_path: Path, start_worker: Start) -> None:
    points = OF_CHILDREN + OF_WORKERS
    with make_app(postgres_url, database_connect_timeout=2) as app:
        it = Crash(app, postgres_url, tmp_path, start_worker)
        worker = it.start(points, LASTING)
        for _ in it.arrivals(points):
            server.restart("kill")
            app.database.close()  # this test must not stumble over its own dead connections
        it.check()
        assert worker.stop() == 0, worker.log[-3000:]
