"""Rows J1 and J2: tasks that end their process, and values that no database keeps."""

from __future__ import annotations

import pytest

from tests.chaos.campaign import POOLS, task_of
from tests.chaos.conftest import Judge, Tries
from tests.chaos.load import _ODDITIES

NEIGHBOURS = 20
ENDS = ("segfault", "abort", "_exit", "sys.exit", "loop", "hang", "recursion", "fork", "close all", "memory kill")


@pytest.mark.chaos("J1")
@pytest.mark.parametrize("pool", POOLS)
def test_poison(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    """Each ends as FAILURE within its cap of runs, and its neighbours succeed."""
    # A thread cannot be killed: what never lets go of the interpreter is for prefork's hard limit.
    ends = ENDS if pool == "prefork" else tuple(how for how in ENDS if how not in ("loop", "hang"))
    for _ in tries.until(short=len(ends)):
        with campaign(counts=len(ends), task_max_losses=2) as it:
            it.start_worker(pool, concurrency=3)
            jobs = {how: it.enqueue(1, how, task="chaos.poison")[0] for how in ends}
            it.may_fail.update(jobs.values())
            it.enqueue(NEIGHBOURS, 0.01, task=task_of(pool))
            it.heal()
            for how, job in jobs.items():
                assert it.app.AsyncResult(job).status == "FAILURE", how
                assert 1 <= len(it.starts(job)) <= 3, f"{how} ran {len(it.starts(job))} times"
            it.stop_workers()


@pytest.mark.chaos("J2")
@pytest.mark.parametrize("pool", POOLS)
def test_odd_values(campaign: Judge, tries: Tries, kind: str, pool: str) -> None:
    """A FAILURE that says why, after one run; never a loop, and never a neighbour's harm."""
    for _ in tries.until(short=len(_ODDITIES)):
        with campaign(counts=len(_ODDITIES)) as it:
            it.start_worker(pool)
            jobs = {how: it.enqueue(1, how, task="chaos.odd")[0] for how in _ODDITIES}
            it.may_fail.update(jobs.values())
            it.enqueue(NEIGHBOURS, 0.01, task=task_of(pool))
            it.heal()
            for how, job in jobs.items():
                assert it.app.AsyncResult(job).status == "FAILURE", how
                assert len(it.starts(job)) == 1, how
            it.stop_workers()
