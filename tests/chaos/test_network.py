"""Rows D3 and D5: connections that are cut at every point, partitions and slow networks."""

from __future__ import annotations

import random
from collections.abc import Callable

import psycopg
import pytest
import sqlalchemy as sa

from tests.chaos.campaign import POOLS, task_of
from tests.chaos.conftest import EVERY_POOL, Judge, Tries
from tests.chaos.proxy import Proxy, Weather
from tests.chaos.test_servers import LASTING
from tests.crash.test_pooler import POOLER, Pooler
from tests.servers import libpq_url

JOBS = 80
CHUNK = 40
POINTS = ("claim.after", "complete.before", "complete.after", "complete.between", "heartbeat.before", "heartbeat.after")


def terminate(url: str) -> int:
    """End one of the connections to this database, whatever it does; how many (one or none)."""
    name = sa.make_url(url).database
    with psycopg.connect(libpq_url(url), dbname="postgres", autocommit=True) as admin:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'dbqueue%%'"
        pids = [row[0] for row in admin.execute(query, [name]).fetchall()]
        if pids:
            admin.execute("SELECT pg_terminate_backend(%s)", [random.choice(pids)])
        return bool(pids)


@pytest.mark.chaos("D3")
@pytest.mark.parametrize("pool", EVERY_POOL)
def test_terminated_backends(campaign: Judge, tries: Tries, fresh_postgres: Callable[[], str], pool: str) -> None:
    for left in tries.until(short=6):
        with campaign(**LASTING) as it:
            it.start_worker(pool)
            it.enqueue_many(JOBS, 0.02, task=task_of(pool))
            it.producing(0.02, task=task_of(pool))
            for _ in range(min(left, CHUNK)):
                it.wait_running(random.randint(1, 8))
                it.fault("pg_terminate_backend")
                terminate(it.url)
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("D3")
@pytest.mark.void("SQLite has no connection to cut", kind=["sqlite"], action=["cut"])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("action", ["cut", "raise"])
@pytest.mark.parametrize("point", POINTS)
def test_connections_that_end_at_a_point(
    campaign: Judge, tries: Tries, kind: str, point: str, action: str, pool: str
) -> None:
    for left in tries.until(short=3):
        with campaign(**LASTING | {"worker_heartbeat_interval": 0.1}) as it:
            it.enqueue_many(JOBS, 0.01, task=task_of(pool))
            it.start_worker(pool, failpoints=f"{point}={action}%30")
            it.producing(0.02, task=task_of(pool))
            it.workflows(3, failing=True)
            it.wait_points(min(left, CHUNK), feed=lambda it=it: it.workflows(1, failing=True))  # type: ignore[misc]
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("D3")
@pytest.mark.void("SQLite has no connection to cut", kind=["sqlite"], action=["cut"])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("action", ["kill", "cut", "raise"])
def test_a_rescue_that_ends_in_its_middle(campaign: Judge, tries: Tries, kind: str, action: str, pool: str) -> None:
    """It is one transaction: the next one finds the dead worker and all of its jobs."""
    for _ in tries.until(short=1):
        with campaign() as it:
            rescuer = it.start_worker(pool, failpoints=f"rescue.between={action}@1")
            victim = it.start_worker(pool)
            it.producing(0.2, task=task_of(pool), pause=0.1)
            it.wait_running(6)
            it.fault("SIGKILL of the supervisor", victim)
            victim.kill()
            it.wait_points(1)
            if action == "kill":
                rescuer.wait()
                it.start_worker(pool)
            it.heal()
            it.stop_workers()


@pytest.mark.chaos("D5")
@pytest.mark.parametrize("pool", EVERY_POOL)
@pytest.mark.parametrize("directions", [("up",), ("down",), ("up", "down")])
@pytest.mark.parametrize("length", ["shorter", "longer"])
def test_a_partition(
    campaign: Judge,
    tries: Tries,
    fresh_postgres: Callable[[], str],
    directions: tuple[str, ...],
    length: str,
    pool: str,
) -> None:
    """Longer than the lease: the worker has ended its runs before its rival begins them; solo ends with its run."""
    for _ in tries.until(short=1):
        direct = fresh_postgres()
        with Proxy(direct) as proxy, campaign(direct, worker_lease_seconds=3.0) as it:
            worker = it.start_worker(pool, url=proxy.url)
            rival = it.start_worker(options={"queues": ["elsewhere"]})  # it is there in time, with nothing to do before
            jobs = 1 if pool == "solo" else 2
            it.enqueue_many(jobs, 6.0 if length == "longer" else 0.3, task=task_of(pool))
            it.wait_running(jobs)
            it.fault(f"a partition: {directions}", worker)
            proxy.halt(*directions)
            if length == "longer":
                it.app.control.add_consumer("celery")
                rival.says("is dead")
                worker.says("No heartbeat reached the database")
                it.wait_running(jobs)
            else:
                it.enqueue(10, 0.01)
            proxy.resume()
            if length == "longer" and pool == "solo":
                assert worker.wait() == 1
            it.heal()
            if length == "longer" and pool != "solo":
                worker.says("Registered anew: claiming again")
            it.stop_workers()


@pytest.mark.chaos("D5")
@pytest.mark.parametrize("pool", POOLS)
def test_a_slow_network(campaign: Judge, tries: Tries, fresh_postgres: Callable[[], str], pool: str) -> None:
    for left in tries.until(short=1):
        direct = fresh_postgres()
        with Proxy(direct) as proxy, campaign(direct, counts=min(left, 10)) as it:
            worker = it.start_worker(pool, url=proxy.url)
            it.enqueue_many(JOBS // 4, 0.1, task=task_of(pool))
            it.wait_running(2)
            it.fault("latency", worker)
            proxy.weather = Weather(delay_seconds=(0.05, 0.5) if tries.full else (0.05, 0.15))
            it.heal()
            proxy.calm()
            it.stop_workers()


@pytest.mark.chaos("D7")
@pytest.mark.parametrize("pool", POOLS)
def test_a_pooler_that_restarts(campaign: Judge, tries: Tries, fresh_postgres: Callable[[], str], pool: str) -> None:
    """PgBouncer in transaction mode with four connections to the server: workers poll, and go on after each restart."""
    for left in tries.until(short=JOBS):
        direct = fresh_postgres()
        jobs = min(left, 2000)
        pooler = Pooler(direct)
        try:
            with campaign(direct, counts=jobs, **LASTING | POOLER) as it:
                it.start_worker(pool, url=pooler.url)
                it.enqueue_many(jobs, 0.02, task=task_of(pool))
                it.producing(0.02, task=task_of(pool))
                for _ in range(2):
                    it.wait_running(8)
                    it.fault("PgBouncer restarts")
                    pooler.stop()
                    pooler.start()
                it.heal(timeout=600.0)
                it.stop_workers()
        finally:
            pooler.close()
