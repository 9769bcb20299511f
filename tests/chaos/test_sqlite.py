"""Row S1: SQLite under kills, many processes, a lock that is held, a full disk and a fork."""

from __future__ import annotations

import contextlib
import os
import random
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dbqueue.failpoints import POINTS
from tests.chaos.campaign import POOLS, Campaign, pool_processes, task_of, wait_gone, wrong_clock
from tests.chaos.conftest import Judge, Tries
from tests.waiting import wait_until

JOBS = 60
CHUNK = 30


def is_whole(it: Campaign) -> None:
    with it.store.connect() as connection:
        assert connection.execute(sa.text("PRAGMA integrity_check")).scalar_one() == "ok"


@pytest.fixture
def kind() -> str:
    return "sqlite"


@pytest.mark.chaos("S1")
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("point", [point for point in POINTS if not point.startswith(("enqueue", "beat", "commit"))])
def test_a_kill_at_every_point(campaign: Judge, tries: Tries, kind: str, point: str, pool: str) -> None:
    rescues = point.startswith("rescue")
    for _ in tries.until(short=1):
        with campaign() as it:
            it.enqueue_many(JOBS, 0.1 if rescues else 0.01, task=task_of(pool))
            it.workflows(3, failing=True)
            first = it.start_worker(pool)
            if rescues:  # while there is no other yet that may have the jobs
                it.wait_running(4)
                it.fault("SIGKILL of the supervisor", first)
                first.kill()
            # One that rescues as soon as it comes up may be gone before it is ready.
            second = it.start_worker(pool, failpoints=f"{point}=kill@{1 if rescues else 3}", ready=not rescues)
            it.producing(0.02, task=task_of(pool))
            if not rescues:
                it.wait_running(4)
            it.wait_points(1, feed=lambda it=it: it.workflows(1, failing=True))  # type: ignore[misc]
            second.end()
            it.start_worker(pool)
            it.heal()
            is_whole(it)
            it.stop_workers()


@pytest.mark.chaos("S1")
@pytest.mark.parametrize("pool", POOLS)
def test_eight_processes(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    """Four workers and their children, killed now and then; nobody is ever refused the lock, which all hold briefly."""
    for left in tries.until(short=2):
        with campaign() as it:
            workers = [it.start_worker(pool, concurrency=1) for _ in range(4)]
            it.enqueue_many(JOBS * 2, 0.01, task=task_of(pool))
            it.producing(0.01, task=task_of(pool))
            for _ in range(min(left, CHUNK)):
                it.wait_running(random.randint(2, 10))
                it.kill_child(workers[0], pool_processes(workers[0])[0])
            it.heal()
            is_whole(it)
            assert not [event for event in it.events() if event.kind == "unknown"], "an enqueue was refused the lock"
            for worker in workers:
                assert "Trying again" not in worker.log, worker.log[-3000:]
            it.stop_workers()


@pytest.mark.chaos("S1")
@pytest.mark.parametrize("pool", POOLS)
def test_all_killed_in_mid_write(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    for left in tries.until(short=2):
        with campaign() as it:
            it.enqueue_many(JOBS, 0.002, task=task_of(pool))
            it.producing(0.002, task=task_of(pool))
            for _ in range(min(left, CHUNK)):
                worker = it.start_worker(pool)
                it.wait_running(random.randint(4, 20))
                it.fault("SIGKILL of all", worker)
                worker.end()
                wait_gone(worker)
                is_whole(it)
            it.start_worker(pool)
            it.heal()
            is_whole(it)
            it.stop_workers()


@pytest.mark.chaos("S1")
@pytest.mark.parametrize("pool", POOLS)
def test_a_lock_that_is_held_too_long(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    """Another program keeps the write lock past the time-out: work waits, and goes on."""
    for _ in tries.until(short=1):
        with campaign(worker_lease_seconds=60.0) as it:
            worker = it.start_worker(pool)
            it.enqueue_many(JOBS, 0.02, task=task_of(pool))
            it.wait_running(4)
            holder = sqlite3.connect(str(sa.make_url(it.url).database), isolation_level=None)
            it.fault("a lock", worker)
            holder.execute("BEGIN IMMEDIATE")
            worker.says("kept the SQLite file locked")
            holder.execute("ROLLBACK")
            holder.close()
            it.heal()
            it.stop_workers()


@contextlib.contextmanager
def small_disk(megabytes: int, folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=777", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a disk of a given size can be mounted by root alone")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


@pytest.mark.chaos("S1")
@pytest.mark.parametrize("pool", POOLS)
def test_a_full_disk(
    campaign: Judge, tries: Tries, kind: str, fresh_sqlite: Callable[[], str], tmp_path: Path, pool: str
) -> None:
    for number in tries.until(short=1):
        with small_disk(8, tmp_path / f"disk-{number}") as disk:
            path = disk / "jobs.db"
            path.write_bytes(Path(str(sa.make_url(fresh_sqlite()).database)).read_bytes())
            with campaign(f"sqlite:///{path}", worker_lease_seconds=60.0) as it:
                worker = it.start_worker(pool)
                it.enqueue_many(JOBS, 0.05, task=task_of(pool))
                it.wait_running(4)
                ballast = disk / "ballast"
                it.fault("a full disk", worker)
                with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                    while True:
                        file.write(b"x" * 4096)
                worker.says("Trying again")
                ballast.unlink()
                it.heal()
                is_whole(it)
                it.stop_workers()


@pytest.mark.chaos("S1")
def test_a_connection_carried_over_a_fork(campaign: Judge, tries: Tries, kind: str) -> None:
    """The forked process opens its own; what its parent had stays whole, and in use."""
    for _ in tries.until(short=1):
        with campaign() as it:
            worker = it.start_worker()
            it.enqueue(JOBS, 0.02)
            it.wait_running(2)
            it.fault("a fork", worker)
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    it.enqueue(10, 0.0)
                    os._exit(0)
                os._exit(1)
            it.enqueue(10, 0.0)
            status: list[int] = []
            wait_until(lambda pid=pid, status=status: ended(pid, status), what="the forked process")  # type: ignore[misc]
            assert os.waitstatus_to_exitcode(status[0]) == 0
            sent = [event.job for event in it.events() if event.kind == "invoke"]
            it.know([job for job in sent if it.app.AsyncResult(job).exists()])
            it.heal()
            is_whole(it)
            it.stop_workers()


@pytest.mark.chaos("D12")
@pytest.mark.parametrize("shift", ["-3600", "+3600"])
@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_whose_clock_is_an_hour_off(campaign: Judge, tries: Tries, kind: str, shift: str, pool: str) -> None:
    """What is due is decided by each process's own clock here; who is dead is not."""
    for left in tries.until(short=JOBS):
        jobs = min(left, 500)
        with campaign(counts=jobs) as it:
            it.start_worker(pool)
            wrong = it.start_worker(pool, environment=wrong_clock(shift))
            it.enqueue_many(2, 3.0, task="chaos.awork")  # each worker looks for the dead once a second
            it.enqueue_many(jobs, 0.05, task="chaos.awork")
            it.wait_running(2)
            it.fault("a wrong clock", wrong)
            it.heal()
            it.stop_workers()
            for worker in it.workers:
                assert not re.search(r"\bdead\b", worker.log)  # random digits of a result may spell it


def ended(pid: int, status: list[int]) -> bool:
    found, code = os.waitpid(pid, os.WNOHANG)
    if found:
        status.append(code)
    return bool(found)
