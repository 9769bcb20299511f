"""Rows P1, P2, P3: processes are killed, at random and at named points."""

from __future__ import annotations

import os
import random
import signal

import pytest

from tests.chaos.campaign import POOLS, children_of, pool_processes, task_of, wait_gone
from tests.chaos.conftest import EVERY_POOL, Judge, Tries
from tests.servers import PostgresServer

JOBS = 60
CHUNK = 40
"""Kills in one campaign of a long run."""


@pytest.mark.chaos("P1")
@pytest.mark.parametrize("pool", POOLS)
def test_children_killed_at_random(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    for left in tries.until(short=3):
        kills = min(left, CHUNK)
        with campaign() as it:
            worker = it.start_worker(pool)
            it.enqueue_many(JOBS, 0.02, task=task_of(pool))
            for _ in range(kills):
                if it.unfinished() < 10:
                    it.enqueue_many(JOBS, 0.02, task=task_of(pool))
                it.wait_running(random.randint(1, 6))
                it.kill_child(worker, random.choice(pool_processes(worker)))
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("P1")
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("point", ["start.before", "run.after"])
def test_children_killed_at_a_point(campaign: Judge, tries: Tries, kind: str, pool: str, point: str) -> None:
    for _ in tries.until(short=3):
        with campaign() as it:
            it.enqueue_many(JOBS, 0.002, task=task_of(pool))
            it.start_worker(pool, failpoints=f"{point}=kill@9")
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("P2")
@pytest.mark.parametrize("pool", EVERY_POOL)
def test_the_supervisor_killed(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    """Its processes end with it, within two seconds; another worker has its jobs within a lease."""
    for left in tries.until(short=1):
        with campaign() as it:
            it.start_worker(pool)  # the witness: nothing may be taken from it
            idle = it.start_worker(pool)
            it.enqueue_many(1, 0.5, task=task_of(pool))
            it.wait_running()
            it.fault("SIGKILL of a supervisor with an idle process", idle)  # whoever has the job, some slot has none
            idle.kill()
            wait_gone(idle)
            for _ in range(min(left, 6)):
                worker = it.start_worker(pool)
                it.enqueue_many(JOBS // 2, 0.15, task=task_of(pool))
                it.wait_running(12)
                it.fault("SIGKILL of the supervisor", worker)
                worker.kill()
                wait_gone(worker)
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("P2")
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    "point",
    ["claim.after", "complete.before", "complete.after", "heartbeat.before", "heartbeat.after", "complete.between"],
)
def test_the_supervisor_killed_at_a_point(campaign: Judge, tries: Tries, kind: str, point: str, pool: str) -> None:
    for _ in tries.until(short=1):
        with campaign() as it:
            it.enqueue_many(JOBS, 0.01, task=task_of(pool))
            it.workflows(4, failing=True)  # what ends with them is between two statements
            it.producing(0.01, task=task_of(pool))
            at = 1 if point == "complete.between" else 2  # one round may end all that fails
            victim = it.start_worker(pool, failpoints=f"{point}=kill@{at}", ready=False)
            wait_gone(victim)
            it.start_worker(pool)
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("P2")
@pytest.mark.parametrize("pool", POOLS)
def test_the_nursery_killed(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    """Without the process that bears children the worker ends, and hands its jobs back."""
    for _ in tries.until(short=1):
        with campaign() as it:
            worker = it.start_worker(pool)
            it.enqueue_many(JOBS, 0.1, task=task_of(pool))
            it.wait_running(4)
            it.fault("SIGKILL of the nursery", worker)
            os.kill(children_of(worker.pid)[0], signal.SIGKILL)
            assert worker.wait() == 1
            it.start_worker(pool)
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("P3")
@pytest.mark.parametrize("pool", EVERY_POOL)
def test_workers_and_server_killed_together(
    campaign: Judge, tries: Tries, fresh_postgres: object, postgres_server: PostgresServer, pool: str
) -> None:
    for _ in tries.until(short=1):
        with campaign() as it:
            it.crashed = True
            workers = [it.start_worker(pool), it.start_worker(pool)]
            it.enqueue_many(JOBS, 0.1, task=task_of(pool))
            it.wait_running(8)
            it.fault("SIGKILL of everything")
            postgres_server.stop("kill")
            for worker in workers:
                worker.end()
            postgres_server.start()
            it.start_worker(pool)
            it.heal()
            it.stop_workers()
