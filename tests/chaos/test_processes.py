"""Rows P5 to P9: memory, signals, recycled children, forks, and a task that holds the interpreter."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.chaos.campaign import POOLS, Campaign, pool_processes, task_of, wait_gone
from tests.chaos.conftest import Judge, Tries
from tests.chaos.load import USED_FIRST
from tests.waiting import wait_until
from tests.workers import WorkerProcess

JOBS = 40
CGROUPS = Path("/sys/fs/cgroup")


@pytest.mark.chaos("P5")
@pytest.mark.parametrize("pool", POOLS)
def test_memory_that_is_not_given(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    """RLIMIT_AS: an ordinary MemoryError, an ordinary FAILURE."""
    for _ in tries.until(short=2):
        with campaign() as it:
            it.start_worker(pool)
            it.may_fail.update(it.enqueue(2, "memory", task="chaos.poison"))
            it.enqueue(JOBS, 0.01, task=task_of(pool))
            it.heal()
            it.stop_workers()


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A group of processes whose memory the kernel bounds, by its control groups of version 1 or 2."""
    first = (CGROUPS / "memory").is_dir()
    group = (CGROUPS / "memory" if first else CGROUPS) / f"dbqueue-chaos-{os.getpid()}"
    try:
        if not first:
            (CGROUPS / "cgroup.subtree_control").write_text("+memory")
        group.mkdir()
        (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit))
        if (group / "memory.swap.max").exists():  # else it is slow there, and nobody is killed
            (group / "memory.swap.max").write_text("0")
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        pytest.skip(f"no memory group can be made here: {error}")
    try:
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text().split(), what="an empty group")
        group.rmdir()


@pytest.mark.chaos("P5")
@pytest.mark.parametrize("pool", POOLS)
def test_the_kernels_killer(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    """A child that eats more than its group may have is killed; its job ends within its cap of losses."""
    for _ in tries.until(short=1):
        with memory_group(80 * 1024 * 1024) as group, campaign(task_max_losses=2) as it:
            worker = it.start_worker(pool, concurrency=1)
            it.enqueue(JOBS // 2, 0.01, task=task_of(pool))
            it.wait_running()
            (poison,) = it.enqueue(1, "eat", str(group / "cgroup.procs"), task="chaos.eat")
            it.may_fail.add(poison)
            it.enqueue(JOBS // 2, 0.01, task=task_of(pool))
            it.heal()
            assert "was killed by SIGKILL" in worker.log
            it.stop_workers()


SIGNALS = {"warm": (1, 0.05), "cold": (2, 4.0), "five": (5, 4.0)}
"""How often TERM is sent, and how long the tasks run: the second TERM has to come before their end."""


@pytest.mark.chaos("P6")
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("how", SIGNALS)
def test_told_to_stop_under_load(campaign: Judge, tries: Tries, kind: str, pool: str, how: str) -> None:
    """What was begun ends (warm) or goes back at once and uncounted (cold); nothing of the worker is left."""
    for _ in tries.until(short=1):
        with campaign(counts=1, worker_lease_seconds=30.0) as it:
            signals, seconds = SIGNALS[how]
            it.enqueue_many(2, seconds, task=task_of(pool))
            it.enqueue_many(JOBS, 0.02, task=task_of(pool))
            worker = it.start_worker(pool)
            it.wait_running(2)
            it.fault(how, worker)
            for number in range(signals):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGTERM)
                if number == 0:  # the kernel makes one of two that come at once
                    worker.says("Warm shutdown")
            wait_gone(worker)
            assert worker.process.returncode == (0 if how == "warm" else 1), worker.log[-2000:]
            assert it.statuses().get("STARTED", 0) == 0, "a job was left STARTED, though its worker could give it back"
            it.start_worker(pool)
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("P6")
@pytest.mark.parametrize("pool", POOLS)
def test_told_to_stop_in_mid_claim(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    """Nothing that is claimed then begins; it goes back."""
    for _ in tries.until(short=1):
        with campaign(counts=1, worker_lease_seconds=30.0) as it:
            go = it.folder / "go"
            worker = it.start_worker(pool, failpoints=f"claim.after=pause:{go}")
            it.enqueue(4, 0.05, task=task_of(pool))
            it.wait_points(1)
            it.fault("TERM in mid-claim", worker)
            worker.term()
            worker.says("Warm shutdown")
            go.touch()
            wait_gone(worker)
            assert it.running() == 0
            assert set(it.statuses()) == {"PENDING"}
            it.start_worker(pool)
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("P7")
@pytest.mark.parametrize("limit", ["tasks", "memory"])
@pytest.mark.parametrize("pool", POOLS)
def test_recycled_children(campaign: Judge, tries: Tries, kind: str, pool: str, limit: str) -> None:
    """`max_tasks_per_child`, and `max_memory_per_child` that every child has passed after its first job."""
    for left in tries.until(short=JOBS):
        jobs = min(left, 1000)
        with campaign(counts=jobs) as it:
            it.enqueue_many(jobs, 0.002, task=task_of(pool))
            most = {"max_tasks_per_child": 5} if limit == "tasks" else {"max_memory_per_child": 1000}
            worker = it.start_worker(pool, options=most)
            it.wait_running()
            it.fault("children are replaced", worker)
            it.heal(timeout=300.0)
            it.stop_workers()


@pytest.mark.chaos("P8")
@pytest.mark.parametrize("pool", POOLS)
def test_the_engine_used_before_the_fork(campaign: Judge, tries: Tries, fresh_postgres: object, pool: str) -> None:
    """No socket to the database is in two processes."""
    for _ in tries.until(short=1):
        with campaign(counts=1) as it:
            it.enqueue(JOBS, 0.05, task=task_of(pool))
            worker = it.start_worker(pool, environment={USED_FIRST: "1"})
            it.wait_running(2)
            it.fault("a fork", worker)
            holders = Counter(inode for pid in worker.family() for inode in database_sockets(it, pid))
            assert holders
            assert max(holders.values()) == 1, f"shared between processes: {holders}"
            it.heal()
            it.stop_workers()


def database_sockets(it: Campaign, pid: int) -> set[int]:
    """The inodes of the sockets of a process that are connected to the database's port."""
    port = sa.make_url(it.url).port
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    ours = {int(line.split()[9]) for line in lines if int(line.split()[2].rpartition(":")[2], 16) == port}
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(entry))
            if match and int(match[1]) in ours:
                found.add(int(match[1]))
    return found


@pytest.mark.chaos("P9")
def test_a_task_that_holds_the_interpreter(campaign: Judge, tries: Tries, kind: str) -> None:
    """For three leases, in a C call: prefork's heartbeat shares no interpreter with it, and the lease is kept."""
    for _ in tries.until(short=1):
        with campaign(counts=1) as it:
            it.start_worker(concurrency=1)
            it.start_worker(concurrency=1)  # the one that does not get it would take it
            (job,) = it.enqueue(1, 7.5, task="chaos.hold_interpreter")
            it.wait_running()
            it.fault("a C call that holds the interpreter")
            it.heal()
            assert len(it.starts(job)) == 1
            it.stop_workers()


@pytest.mark.chaos("P9")
def test_a_hard_limit_ends_what_holds_the_interpreter(campaign: Judge, tries: Tries, kind: str) -> None:
    for _ in tries.until(short=1):
        with campaign(counts=1) as it:
            worker: WorkerProcess = it.start_worker()
            before = set(pool_processes(worker))
            (job,) = it.enqueue(1, 60.0, task="chaos.limited")
            it.may_fail.add(job)
            it.wait_running()
            it.fault("a C call without an end", worker)
            it.enqueue(JOBS, 0.01)
            it.heal()
            assert "TimeLimitExceeded" in repr(it.app.AsyncResult(job).result)
            # The process has a moment to give back what waits in it, which it cannot: then it is killed.
            wait_until(lambda: len(before & set(pool_processes(worker))) == len(before) - 1, what="the kill")  # noqa: B023
            it.stop_workers()
