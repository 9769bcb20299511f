"""Rows D1 and D4: the server is killed under load, and replies are lost between COMMIT and client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.chaos.campaign import POOLS, task_of
from tests.chaos.conftest import Judge, Tries
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
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("mode", ["immediate", "kill"])
def test_the_server_dies_under_load(
    campaign: Judge, tries: Tries, postgres_server: PostgresServer, pool: str, mode: str
) -> None:
    for left in tries.until(short=1, full=100):
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
    """What a reader was told before the crash is so after it; the server would write late what need not be durable."""
    postgres_server.execute("ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()")
    try:
        for _ in tries.until(short=2, full=100):
            with campaign(worker_lease_seconds=20.0, worker_heartbeat_interval=6.0) as it:
                it.crashed = True
                it.enqueue_many(JOBS * 3, 0.005)
                it.start_worker()
                it.wait_running(JOBS)
                it.fault("the server's end: kill")
                it.answers()
                postgres_server.stop("kill")
                postgres_server.start()
                it.heal()
                it.stop_workers()
    finally:
        postgres_server.execute("ALTER SYSTEM RESET wal_writer_delay", "SELECT pg_reload_conf()")


@pytest.mark.chaos("D4")
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("what", BAD_WEATHER)
def test_connections_cut_around_commit(
    campaign: Judge, tries: Tries, fresh_postgres: Callable[[], str], pool: str, what: str
) -> None:
    for left in tries.until(short=6, full=1000):
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
