"""Rates over all workers: how many jobs of a key start in a time, and how long what was spent is remembered."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dbqueue.jobs import Succeeded
from dbqueue.limits import Limit, Policies
from dbqueue.store import limits
from dbqueue.store.base import Store
from tests.stores import TestWorker, count, held, run_sql


def test_a_rate_lets_so_many_start_in_its_time(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(rate="60/m"))
    for _ in range(5):
        held(store, "k")
    now = datetime.now(UTC) + timedelta(seconds=1)

    def started(seconds: float) -> Any:
        found = worker.claim_held(now=now + timedelta(seconds=seconds))
        return len(found.claimed), found.again_seconds

    assert started(0) == (1, pytest.approx(1, abs=0.01))
    assert started(0.5) == (0, pytest.approx(0.5, abs=0.01))
    assert started(1.01)[0] == 1
    # One token at most gathers: an hour without a job does not let sixty start at once.
    assert started(3600)[0] == 1
    assert started(3600.5)[0] == 0
    assert count(store, "permit IS NOT NULL") == 0  # nothing is counted but the starts


@pytest.mark.parametrize("rate", ["60/m", "100/s"])
def test_a_clock_that_is_put_back_stops_nothing(store: Store, worker: TestWorker, rate: str) -> None:
    limits.set_limit(store, "k", Limit(rate=rate))
    for _ in range(60):
        held(store, "k")
    now = datetime.now(UTC) + timedelta(seconds=1)
    before = len(worker.claim_held(now=now + timedelta(hours=1)).claimed)
    assert len(worker.claim_held(now=now).claimed) == before
    assert worker.claim_held(now=now).claimed == []
    assert worker.claim_held(now=now - timedelta(seconds=0.5)).claimed == []  # what it waits for at the most


def test_a_fast_rate_comes_in_small_batches(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(rate="100/s", running=50))
    for _ in range(60):
        held(store, "k")
    now = datetime.now(UTC) + timedelta(seconds=1)
    taken = [len(worker.claim_held(now=now + timedelta(milliseconds=50 * turn)).claimed) for turn in range(9)]
    assert taken == [10, 5, 5, 5, 5, 5, 5, 5, 5]
    assert worker.claim_held(now=now + timedelta(seconds=60)).claimed == []  # 50 run


def test_another_rate_begins_anew_and_the_same_one_goes_on(store: Store, worker: TestWorker) -> None:
    """Whether code says it, as each worker does that starts, or an operator."""
    for _ in range(5):
        held(store, "shop.pack")

    def declared(rate: str) -> int:
        limits.declare(store, Policies({"shop.pack": Limit(rate=rate)}))
        return len(worker.claim_held().claimed)

    assert [declared(rate) for rate in ("1/h", "1/h", "2/h", "2/h", "1/h")] == [1, 0, 1, 0, 1]
    limits.set_limit(store, "shop.pack", Limit(rate="1/h"))
    assert len(worker.claim_held().claimed) == 1


def test_another_rate_of_calls_begins_anew_and_the_same_one_goes_on(store: Store, worker: TestWorker) -> None:
    for _ in range(3):
        held(store, "customer")

    def declared(rate: str) -> int:
        policies = Policies({"shop.pack": Limit(rate=rate, key="{id}")})
        limits.declare(store, policies)
        return len(worker.claim_held(policies=policies).claimed)

    assert [declared(rate) for rate in ("2/h", "2/h", "1/h", "1/h")] == [1, 0, 1, 0]


def test_a_rate_of_calls_is_kept_while_it_is_used(store: Store, worker: TestWorker) -> None:
    """Without its row, what was spent of it would be forgotten."""
    policies = Policies({"shop.pack": Limit(rate="1/h", key="{id}")})

    def used(hours: float) -> str:
        """The column, so many hours ago."""
        at = datetime.now(UTC) - timedelta(hours=hours)
        return f"updated_at = '{at:%Y-%m-%d %H:%M:%S}.000{'' if store.dialect == 'sqlite' else '+00'}'"

    for _ in range(2):
        held(store, "k")
        run_sql(store, f"UPDATE dbqueue_limits SET full_at = NULL, {used(25)}")
        (job,) = worker.claim_held(policies=policies).claimed
        worker.settle(Succeeded(job.id, job.lease, "1", 0.1))
        assert worker.session.prune_limits() == 0
    run_sql(store, f"UPDATE dbqueue_limits SET {used(23)}")
    assert worker.session.prune_limits() == 0
    run_sql(store, f"UPDATE dbqueue_limits SET full_at = full_at - 25 * 3600, {used(25)}")
    assert worker.session.prune_limits() == 1


def test_a_rate_slower_than_one_a_day_outlives_the_rows_that_are_not_used(store: Store, worker: TestWorker) -> None:
    """Else the second job of the week would start on the second day."""
    policies = Policies({"shop.pack": Limit(rate=1 / (7 * 86_400), key="{id}")})
    held(store, "k")
    (job,) = worker.claim_held(policies=policies).claimed
    worker.settle(Succeeded(job.id, job.lease, "1", 0.1))
    for days, pruned in ((2, 0), (5, 1)):  # as if so many days had passed
        earlier = "2020-01-01 00:00:00.000" + ("" if store.dialect == "sqlite" else "+00")
        run_sql(store, f"UPDATE dbqueue_limits SET full_at = full_at - {days} * 86400, updated_at = '{earlier}'")
        assert worker.session.prune_limits() == pruned
