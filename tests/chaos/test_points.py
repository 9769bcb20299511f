"""Row F1: every failpoint, crossed with kill, stop, raise and a cut socket."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import Counter
from itertools import product

import pytest
import sqlalchemy as sa

from dbqueue.failpoints import POINTS
from tests.chaos.campaign import POOLS, Campaign, task_of
from tests.chaos.conftest import Judge, Tries
from tests.chaos.history import boot_clock
from tests.chaos.load import EFFECTS
from tests.stores import run_sql
from tests.waiting import wait_until
from tests.workers import WorkerProcess

JOBS = 30
ACTIONS = ("kill", "stop", "raise", "cut")
BESIDE_THE_DATABASE = ("start.before", "run.after")
"""Nothing is asked of it there: no socket is cut, and what is raised is the task's own failure."""
IN_STEPS = ("release.between",)
"""The point knows of no socket; `complete.between` is one of the same transaction that does."""
WITH_THE_LOCK = (
    *("commit.before", "complete.between", "release.between", "rescue.between", "beat.between"),
    *("heartbeat.before", "heartbeat.after"),  # beside which another thread may write
)
"""A process that is stopped there has SQLite's write lock, and stops all others: docs/transactions.md."""
ENDED_BY_THE_SERVER = ("server closed the connection unexpectedly", "idle-in-transaction timeout")
"""In what a task raises (docs/transactions.md)."""
SELDOM = ("complete.between", "release.between", "rescue.between")
"""Points that a short run comes to once or twice."""


def can_be(kind: str, point: str, action: str) -> bool:
    if action == "cut":
        return kind == "postgres" and point not in (*BESIDE_THE_DATABASE, *IN_STEPS)
    if action == "raise":
        return point not in BESIDE_THE_DATABASE
    return not (action == "stop" and kind == "sqlite" and point in WITH_THE_LOCK)


CROSSED = [
    (kind, point, action, POOLS[number % len(POOLS)])  # in turn: three times as many would take too long
    for number, (point, action, kind) in enumerate(product(POINTS, ACTIONS, ["sqlite", "postgres"]))
    if can_be(kind, point, action)
]


@pytest.mark.chaos("F1")
@pytest.mark.parametrize(("kind", "point", "action", "pool"), CROSSED)
def test_every_point(campaign: Judge, tries: Tries, kind: str, point: str, action: str, pool: str) -> None:
    """Of a worker, of its pool processes, of a task that enqueues, of one with a transaction, of a beat."""
    for _ in tries.until(short=1):
        with campaign(counts=1, task_transaction_idle_timeout=1.0) as it:
            it.zombies = action == "stop"
            run_sql(it.store, EFFECTS)
            feed(it, pool, 4)
            it.enqueue_many(JOBS, 0.02, task=task_of(pool))
            if point == "rescue.between":
                leave_a_dead_worker(it, pool)
            beats = point == "beat.between"
            if beats:
                it.app.schedules.set("often", "chaos.beaten", 0.3)
            traps = f"{point}={action}@{1 if point in SELDOM else 3}"
            it.start_worker(pool, failpoints=traps, ready=False, options={"beat": beats})
            it.producing(0.1, task=task_of(pool), pause=0.03)  # so that some job runs at any time
            it.wait_points(1, feed=lambda it=it: feed(it, pool, 1))  # type: ignore[misc]
            it.start_worker(pool, options={"beat": beats})
            if action == "stop":
                wake_after_a_lease(it)
            it.app.schedules.pause("often")
            it.stop_producing()
            wait_until(lambda it=it: is_over(it), timeout=it.heal_timeout, what="the end of all jobs")  # type: ignore[misc]
            know_what_was_beaten(it)
            if action == "stop":
                know_what_has_lost_its_connection(it)
            it.heal()
            see_effects_once(it)
            it.stop_workers()


def feed(it: Campaign, pool: str, count: int) -> None:
    """Bring workers to points that plain jobs do not come to."""
    it.enqueue(count, task="chaos.calls")
    it.enqueue(count, task="chaos.aeffect" if pool == "asyncio" else "chaos.effect")
    it.workflows(count, failing=True)


def leave_a_dead_worker(it: Campaign, pool: str) -> None:
    victim: WorkerProcess = it.start_worker(pool)
    it.enqueue_many(4, 1.0, task=task_of(pool))
    it.wait_running(4)
    it.fault("SIGKILL of the supervisor", victim)
    victim.kill()


def wake_after_a_lease(it: Campaign) -> None:
    """What was stopped goes on when, if it was the supervisor, its jobs are another's."""
    over = boot_clock() + float(it.settings["worker_lease_seconds"]) + 1.0
    wait_until(lambda: boot_clock() > over, what="the end of its lease")
    wake(it)


def wake(it: Campaign) -> None:
    for event in it.events():
        if event.kind == "fault" and "pid" in event.data:
            with contextlib.suppress(ProcessLookupError):
                os.kill(event.data["pid"], signal.SIGCONT)


def is_over(it: Campaign) -> bool:
    """Another of its processes may have come to the point since."""
    if it.zombies:
        wake(it)
    return it.unfinished() == 0


def know_what_was_beaten(it: Campaign) -> None:
    """Each firing that the schedule counts is a job, and none is one that it does not count."""
    with it.store.connect() as connection:
        beaten = connection.execute(sa.text("SELECT id FROM dbqueue_jobs WHERE task = 'chaos.beaten'")).scalars().all()
        counted = connection.execute(sa.text("SELECT sum(total_run_count) FROM dbqueue_schedules")).scalar_one()
    assert len(beaten) == (counted or 0)
    it.know(beaten)


def know_what_has_lost_its_connection(it: Campaign) -> None:
    """Of what was amid its transaction beside a job that was stopped, the server has ended that: its own failure."""
    failed = "SELECT id FROM dbqueue_jobs WHERE task LIKE 'chaos.%effect' AND status = 'FAILURE'"
    broken = " OR ".join(f"CAST(result AS text) LIKE '%{text}%'" for text in ENDED_BY_THE_SERVER)
    with it.store.connect() as connection:
        it.may_fail.update(connection.execute(sa.text(f"{failed} AND ({broken})")).scalars())


def see_effects_once(it: Campaign) -> None:
    succeeded = "SELECT id FROM dbqueue_jobs WHERE task LIKE 'chaos.%effect' AND status = 'SUCCESS'"
    with it.store.connect() as connection:
        effects = Counter(connection.execute(sa.text("SELECT job FROM chaos_effects")).scalars())
        assert effects == Counter(connection.execute(sa.text(succeeded)).scalars())
