"""Workers that are cut off, and workers whose clock jumps: what others may run by now is not run on here.

(Workers that are stopped and come back are in `tests/worker/test_lifecycle.py`.)
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from tests.crash.test_kills import LEASE
from tests.stores import row
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]


class Link:
    """The way of one worker to the server: TCP connections that can all fall silent, and go on later."""

    def __init__(self, url: str) -> None:
        self._url = sa.make_url(url)
        self._passes = threading.Event()
        self._passes.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        here = self._url.set(host="127.0.0.1", port=self._listener.getsockname()[1])
        return here.render_as_string(hide_password=False)

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing passes in this block, and neither end is told."""
        self._passes.clear()
        try:
            yield
        finally:
            self._passes.set()

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection((self._url.host or "127.0.0.1", self._url.port or 5432))
                self._ends += [near, far]
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passes.wait()
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def link(postgres_url: str) -> Iterator[Link]:
    link = Link(postgres_url)
    yield link
    link.close()


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio"])
def test_a_worker_that_is_cut_off_has_stopped_before_another_starts(
    postgres_url: str, link: Link, tmp_path: Path, start_worker: Start, pool: str
) -> None:
    started, release = tmp_path / "started", tmp_path / "release"
    with make_app(postgres_url) as app:
        lonely = start_worker(link.url, pool=pool, settings=LEASE)
        rival = start_worker(postgres_url, settings=LEASE | {"worker_concurrency": 1}, queues=["elsewhere"])
        result = app.tasks["sample.hold_alone"].delay(str(started), str(release))
        wait_until(started.exists)
        app.control.add_consumer("celery")
        with link.cut():
            lonely.says("No heartbeat reached the database")
            wait_until(lambda: len(started.read_text().split()) == 2, timeout=60, what="the rival's start")
            release.touch()
            assert result.get(timeout=60) == "released"
        assert started.read_text().split() == ["alone", "alone"]
        assert "is dead: 1 of its jobs wait again" in rival.log
        lonely.says("Registered anew: claiming again")
        for event in ("No heartbeat reached the database", "was declared dead"):
            assert lonely.log.count(event) == 1
        assert "The heartbeat is back" not in lonely.log
        assert rival.stop() == 0
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
        found = row(app.database.store, result.id)
        assert (found["status"], found["losses"]) == ("SUCCESS", 1)
        assert lonely.stop() == 0


def test_a_solo_worker_that_is_cut_off_ends_with_its_run(
    postgres_url: str, link: Link, tmp_path: Path, start_worker: Start
) -> None:
    """Its own process is the one that the task runs in."""
    started, release = tmp_path / "started", tmp_path / "release"
    with make_app(postgres_url) as app:
        lonely = start_worker(link.url, pool="solo", settings=LEASE)
        result = app.tasks["sample.hold_alone"].delay(str(started), str(release))
        wait_until(started.exists)
        with link.cut():
            assert lonely.wait() == 1
            start_worker(postgres_url, settings=LEASE)
            wait_until(lambda: len(started.read_text().split()) == 2, what="the rival's start")
        release.touch()
        assert result.get(timeout=60) == "released"
        assert started.read_text().split() == ["alone", "alone"]
        assert lonely.log.count("No heartbeat reached the database") == 1
        assert "this process ends, and with it the task that it runs" in lonely.log


def test_an_idle_solo_worker_that_is_cut_off_waits(postgres_url: str, link: Link, start_worker: Start) -> None:
    with make_app(postgres_url) as app:
        lonely = start_worker(link.url, pool="solo", settings=LEASE)
        with link.cut():
            lonely.says("No heartbeat reached the database")
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
        assert lonely.stop() == 0
        assert "nothing runs here" in lonely.log


def faketime_library() -> str:
    found = sorted(Path("/usr/lib").glob("**/faketime/libfaketime.so.1"))
    if not found:
        pytest.skip("libfaketime is not installed")
    return str(found[0])


def jumping_clock(offset: Path) -> dict[str, str]:
    """The environment of a process whose wall clock is off by what this file says."""
    offset.write_text("+0")
    return {
        "LD_PRELOAD": faketime_library(),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def jump(offset: Path, seconds: str) -> None:
    following = offset.with_name("next")
    following.write_text(seconds)
    os.replace(following, offset)  # an empty file would be no time at all


def test_a_clock_that_jumps_changes_nothing(postgres_url: str, tmp_path: Path, start_worker: Start) -> None:
    """The worker's wall clock goes an hour on, then two back, while jobs run, wait and are retried."""
    offset = tmp_path / "offset"
    started, release = tmp_path / "started", tmp_path / "release"
    settings = LEASE | {"worker_heartbeat_interval": 0.3}
    worker = start_worker(postgres_url, settings=settings, environment=jumping_clock(offset))
    with make_app(postgres_url) as app:
        # Not `sample.hold`: under this library `time.sleep`, which waits for a moment, is refused.
        held = app.tasks["sample.ahold"].delay(str(started), str(release))
        wait_until(started.exists)
        far = app.tasks["sample.add"].apply_async((5, 5), countdown=1800)
        stale = app.tasks["sample.add"].apply_async((6, 6), expires=1800)
        assert stale.get(timeout=60) == 12
        for seconds in ("+3600", "-3600"):
            jump(offset, seconds)
            before = beat_of(app)
            wait_until(lambda before=before: beat_of(app) != before, what="a heartbeat")  # type: ignore[misc]
            shown = app.tasks["sample.wall_clock"].delay()
            skew = shown.get(timeout=60) - os.stat(offset).st_mtime
            assert abs(skew - float(seconds)) < 300  # the fault is there
            assert app.tasks["sample.add"].apply_async((1, 2), countdown=0.5, expires=600).get(timeout=60) == 3
        assert far.status == "PENDING"
        release.touch()
        assert held.get(timeout=60) == "released"
        assert len(started.read_text().split()) == 1
        for found in (row(app.database.store, each.id) for each in (held, stale)):
            assert (found["status"], found["losses"]) == ("SUCCESS", 0)
        assert worker.stop() == 0
    for fence in ("No heartbeat", "declared dead", "lost its lease"):
        assert fence not in worker.log


def beat_of(app: DBQueue) -> object:
    with app.database.store.connect() as connection:
        return connection.execute(sa.text("SELECT max(heartbeat_at) FROM dbqueue_workers")).scalar_one()


SOON: dict[str, Any] = {"worker_lease_seconds": 4.0, "worker_heartbeat_interval": 0.4}
BEATS = 13
"""So many take more than a lease, and a look for dead workers."""


def test_a_clock_that_jumps_is_nobodys_death(sqlite_url: str, tmp_path: Path, start_worker: Start) -> None:
    """On SQLite each process has its own clock, and dates its heartbeat by it: others may be hours ahead or behind."""
    offset = tmp_path / "offset"
    jumping = start_worker(sqlite_url, settings=SOON, queues=["jumping"], environment=jumping_clock(offset))
    steady = start_worker(sqlite_url, settings=SOON, queues=["steady"])
    release = tmp_path / "release"
    with make_app(sqlite_url) as app:
        held = []
        for queue in ("jumping", "steady"):
            started = tmp_path / queue
            held.append(app.tasks["sample.ahold"].apply_async((str(started), str(release)), queue=queue))
            wait_until(started.exists)
        workers = beats(app).keys()
        for seconds in ("+3600", "-3600", "+0"):
            jump(offset, seconds)
            wait_until(lambda seconds=seconds: abs(ahead(app, jumping) - float(seconds)) < 300, what="the jump")  # type: ignore[misc]
            for _ in range(BEATS):
                before = beats(app)
                assert before.keys() == workers
                wait_until(
                    lambda before=before: all(at != before.get(each) for each, at in beats(app).items()),  # type: ignore[misc]
                    what="a heartbeat of each",
                )
        release.touch()
        for result in held:
            assert result.get(timeout=60) == "released"
            assert (row(app.database.store, result.id)["losses"], row(app.database.store, result.id)["retries"]) == (
                0,
                0,
            )
        for worker in (jumping, steady):
            assert worker.stop() == 0
            assert "dead" not in worker.log
            assert "No heartbeat" not in worker.log


def beats(app: DBQueue) -> dict[str, str]:
    """The heartbeat of each worker that nobody has found dead."""
    with app.database.store.connect() as connection:
        query = "SELECT id, heartbeat_at FROM dbqueue_workers WHERE closed_at IS NULL"
        return {row.id: row.heartbeat_at for row in connection.execute(sa.text(query))}


def ahead(app: DBQueue, worker: WorkerProcess) -> float:
    """How many seconds its clock is ahead of this process's, as its last heartbeat shows."""
    with app.database.store.connect() as connection:
        query = """SELECT (julianday(heartbeat_at) - julianday('now')) * 86400.0
            FROM dbqueue_workers WHERE pid = :pid ORDER BY started_at DESC"""
        return float(connection.execute(sa.text(query), {"pid": worker.pid}).scalars().first() or 0.0)
