"""Row P4: processes that are stopped past their lease, and wake up when others have done their work."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from tests.chaos.campaign import POOLS, Campaign, pool_processes, task_of
from tests.chaos.conftest import STOPS_ALL, Judge, Tries
from tests.worker.test_lifecycle import stop_processes
from tests.workers import WorkerProcess


def stopped(it: Campaign, worker: WorkerProcess, pids: list[int]) -> None:
    stop_processes(it.app, pids)
    it.fault("SIGSTOP past the lease", worker)


def wake(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.chaos("P4")
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("how", ["complete", "fail", "retry"])
@pytest.mark.parametrize("rival", ["done", "runs"])
def test_a_stopped_supervisor_writes_nothing(
    campaign: Judge, tries: Tries, kind: str, pool: str, how: str, rival: str
) -> None:
    """Its child ends the run; what it wanted to write about it is refused, its heartbeat too, and it goes on."""
    for _ in tries.until(short=1):
        with campaign(counts=1) as it:
            go, second = it.folder / "go", it.folder / "go.second"
            it.zombies = True
            zombie = it.start_worker(pool, concurrency=1)
            (job,) = it.enqueue(1, how, str(go), task="chaos.zombie")
            it.wait_running()
            stopped(it, zombie, [zombie.pid])
            it.start_worker(pool, concurrency=1)
            it.wait_starts(job, 2)
            if rival == "done":
                second.touch()
                it.wait_done()
            go.touch()
            it.wait_finish(job, it.starts(job)[0])
            wake([zombie.pid])
            zombie.says("lost its lease while it ran here")
            zombie.says("registers anew")
            second.touch()
            it.enqueue(10)
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("P4")
@pytest.mark.parametrize("pool", POOLS)
def test_a_stopped_supervisor_does_not_undo_a_failure(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    """A job that may not run again has ended as FAILURE under the very lease that the zombie holds."""
    for _ in tries.until(short=1):
        with campaign(counts=1) as it:
            go = it.folder / "go"
            it.zombies = True
            zombie = it.start_worker(pool, concurrency=1)
            (job,) = it.enqueue(1, "complete", str(go), task="chaos.zombie_once")
            it.may_fail.add(job)
            it.wait_running()
            stopped(it, zombie, [zombie.pid])
            it.start_worker(pool, concurrency=1)
            it.wait_done()
            it.answers()
            go.touch()
            it.wait_finish(job, it.starts(job)[0])
            wake([zombie.pid])
            zombie.says("registers anew")
            it.enqueue(10)
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("P4")
@pytest.mark.parametrize("who", ["all", "children"])
@pytest.mark.parametrize("pool", POOLS)
def test_stopped_under_load(campaign: Judge, tries: Tries, kind: str, pool: str, who: str) -> None:
    for _ in tries.until(short=1):
        with campaign(counts=1) as it:
            it.zombies = True
            worker = it.start_worker(pool)
            rival = it.start_worker(pool)
            it.producing(0.05, pause=0.03)
            it.wait_running(4)
            pids = worker.family() if who == "all" else pool_processes(worker)
            stopped(it, worker, pids)
            if who == "all":
                rival.says("is dead")
            else:
                it.wait_running(8)  # the rival's
            wake(pids)
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("P4")
@pytest.mark.void(  # at a heartbeat another thread may write
    STOPS_ALL, kind=["sqlite"], point=["complete.between", "heartbeat.before", "heartbeat.after"]
)
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    "point",
    ["claim.after", "complete.before", "complete.between", "complete.after", "heartbeat.before", "heartbeat.after"],
)
def test_a_supervisor_stopped_at_a_point(campaign: Judge, tries: Tries, kind: str, point: str, pool: str) -> None:
    """Maybe in the middle of a transaction; what it had claimed or was about to write is another's."""
    for _ in tries.until(short=1):
        with campaign(counts=1) as it:
            it.zombies = True
            it.workflows(3, failing=True)  # what ends with them is between two statements
            it.producing(0.02, task=task_of(pool), pause=0.03)
            zombie = it.start_worker(pool, failpoints=f"{point}=stop@3", ready=False)
            it.wait_points(1, feed=lambda it=it: it.workflows(1, failing=True))  # type: ignore[misc]
            it.fault("SIGSTOP at a point", zombie)
            rival = it.start_worker(pool)
            if point.endswith("between"):  # its transaction holds what the rescue waits for, and may be committed
                it.wait_running(20)
                wake([zombie.pid])
            else:
                rival.says("is dead")
                wake([zombie.pid])
                # One that was stopped in its heartbeat may have had another thread in the middle of a transaction. What
                # that holds is its own still, and so is its row: it goes on, without what was taken from it.
                goes_on = point.startswith("heartbeat") and "transaction that is still open" in rival.log
                if not goes_on:
                    zombie.says("registers anew")
            it.heal()
            it.stop_workers()
