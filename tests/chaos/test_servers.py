"""Rows D1 and D4: the server is killed under load, and replies are lost between COMMIT and client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.campaign import task_of
from tests.chaos.conftest import EVERY_POOL, Judge, Tries
from tests.chaos.load import make_app
from tests.chaos.proxy import Proxy, Weather
from tests.servers import PostgresServer

JOBS = 80
LASTING: dict[str, Any] = {"worker_lease_seconds": 20.0, "worker_heartbeat_interval": 1.0}
"""For rows whose outages are shorter than a lease: nothing has to be rescued."""
BAD_WEATHER = {
    "lost replies": Weather(lost_replies=0.05),
    "lost requests": Weather(lost_requests=0.05),
    "late requests": Weather(late_requests=0.05),
}
CUTS = 40
"""Lost replies in one campaign of a long run."""


@pytest.mark.chaos("D1")
@pytest.mark.parametrize("pool", EVERY_POOL)
@pytest.mark.parametrize("mode", ["immediate", "kill"])
def test_the_server_dies_under_load(
    campaign: Judge, tries: Tries, postgres_server: PostgresServer, pool: str, mode: str
) -> None:
    for left in tries.until(short=1):
        with campaign(**LASTING) as it:
            it.crashed = True
            it.start_worker(pool)
            it.producing(0.02, task=task_of(pool))
            it.workflows(5)
            for _ in range(min(left, 5)):
                it.wait_running(20)
                it.fault(f"the server's end: {mode}")
                postgres_server.stop(mode)
                postgres_server.start()
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("D1")
def test_an_answer_is_durable(campaign: Judge, tries: Tries, postgres_server: PostgresServer) -> None:
    """What a reader was told before the crash is so after it.

    The worker is halted behind a round that has ended a job and claimed another, and nobody else writes: no later
    commit has taken this completion to the disk with it. A claim alone may be forgotten.
    """
    for _ in tries.until(short=1):
        with campaign(counts=1, worker_lease_seconds=60.0, worker_heartbeat_interval=20.0) as it:
            it.crashed = True
            go, second = it.folder / "go", it.folder / "go.second"
            it.enqueue(1, "complete", str(go), task="chaos.zombie")  # runs as long as the fault lasts
            it.enqueue_many(JOBS // 4, 0.2)  # so slow that none is claimed before its turn
            with postgres_server.lazily_written():
                it.start_worker(failpoints=f"claim.after=pause:{go}@4")
                it.wait_points(1)
                it.void = it.last_round() != {"SUCCESS", "STARTED"}  # it claimed later than it ended
                it.fault("the server's end: kill")
                it.answers()
                postgres_server.stop("kill")
            postgres_server.start()
            second.touch()  # should the claim of the first have been forgotten
            go.touch()
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("D4")
@pytest.mark.parametrize("pool", EVERY_POOL)
@pytest.mark.parametrize("what", BAD_WEATHER)
def test_connections_cut_around_commit(
    campaign: Judge, tries: Tries, fresh_postgres: Callable[[], str], pool: str, what: str
) -> None:
    for left in tries.until(short=6):
        direct = fresh_postgres()
        with Proxy(direct) as proxy, campaign(direct, **LASTING) as it:
            proxy.on_fault = it.fault
            with make_app(proxy.url, **it.settings) as producer:
                it.enqueue_many(JOBS, 0.05, task=task_of(pool))
                it.start_worker(pool, url=proxy.url)
                it.producing(0.02, task=task_of(pool), app=producer)
                proxy.weather = BAD_WEATHER[what]
                proxy.wait_faults(min(left, CUTS))
                proxy.calm()
                it.heal()
            it.stop_workers()


@pytest.mark.chaos("D4")
@pytest.mark.parametrize("what", BAD_WEATHER)
def test_a_producer_that_is_cut_off(
    campaign: Judge, tries: Tries, fresh_postgres: Callable[[], str], what: str
) -> None:
    """It alone is in the bad weather, so that every cut is one of an enqueue or of its wake-up."""
    for _ in tries.until(short=1):
        direct = fresh_postgres()
        with Proxy(direct) as proxy, campaign(direct, counts=1, **LASTING) as it:
            proxy.on_fault = it.fault
            with make_app(proxy.url, **it.settings) as producer:
                it.start_worker()
                it.producing(0.02, app=producer)
                it.wait_running()
                proxy.weather = BAD_WEATHER[what].worse(8)
                proxy.wait_faults(CUTS // 2)
                proxy.calm()
                it.heal()
            it.stop_workers()
