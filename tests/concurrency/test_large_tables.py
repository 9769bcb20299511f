"""The statements that must read the whole table, which may take minutes: who waits for them, and what ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import psycopg
import pytest

from dbqueue.store.postgres.work_session import PostgresWorkSession
from tests.contract.heartbeats import later
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, opened
from tests.waiting import wait_until

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

CALLS: dict[str, Callable[[TestWorker], Any]] = {
    "hand_back": lambda worker: worker.session.hand_back(worker.id, ()),
    "rescue": lambda worker: sum(each.requeued for each in worker.session.rescue(max_losses=3, now=later(10))),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_look_through_the_table_takes_as_long_as_it_takes(postgres_url: str, call: str) -> None:
    """It is not cut off and begun anew for ever, and its worker goes on beating. (A lock stands for the slow disk.)"""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as held:
        worker, dead = TestWorker(store, lease_seconds=3600), TestWorker(store, lease_seconds=5)
        watch = store.watch_session("test")
        enqueued(store)
        (worker if call == "hand_back" else dead).claim_one()
        cast(PostgresWorkSession, worker.session)._driver.execute("SET statement_timeout = '1s'")
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(CALLS[call](worker)))
        with held.transaction():
            held.execute("LOCK TABLE dbqueue_jobs IN ACCESS EXCLUSIVE MODE")
            thread.start()
            long = f"{WAITING} AND query_start < clock_timestamp() - interval '1500 ms'".encode()
            wait_until(lambda: held.execute(long).fetchone() == (1,) or not thread.is_alive(), what="the look")
            assert watch.heartbeat(worker.id)
        thread.join(60)
        assert found == [1]
        watch.close()
        for each in (worker, dead):
            each.close()
