"""Claims of jobs that wait for permits in the very round that frees these: `Claim.keys`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from dbqueue.jobs import ClaimedJob, Outcome, Succeeded
from dbqueue.limits import Limit
from dbqueue.store import limits
from dbqueue.store.base import Store
from dbqueue.store.records import Claim
from tests.stores import TestWorker, count, enqueued, held, row


def claimed(
    worker: TestWorker, *keys: str, outcomes: Sequence[Outcome] = (), limit: int = 100, **options: Any
) -> list[ClaimedJob]:
    claim = Claim(worker.id, str(uuid4()), options.pop("queues", worker.queues), limit, keys=keys, **options)
    return list(worker.session.round(outcomes, claim).claimed)


def ids(jobs: Sequence[ClaimedJob]) -> list[str]:
    return [job.id for job in jobs]


def done(job: ClaimedJob) -> Outcome:
    return Succeeded(job.id, job.lease, "1", 0.0)


def test_a_permit_goes_from_one_job_to_the_next(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=2))
    waiting = [held(store, "k") for _ in range(4)]
    enqueued(store)  # needs none, and waits for its own claim
    first, second = claimed(worker, "k")
    assert ids([first, second]) == waiting[:2]
    (third,) = claimed(worker, "k", outcomes=[done(first)])
    assert (third.id, third.permit) == (waiting[2], "k")
    stored = row(store, third.id)
    assert (stored["status"], stored["worker"], stored["permit"]) == ("STARTED", worker.id, "k")
    assert (str(stored["lease"]), stored["held_at"], stored["blocked_reason"]) == (third.lease, None, None)
    assert claimed(worker, "k") == []
    assert count(store, "permit = 'k'") == 2


def test_what_is_due_takes_nothing_with_it_that_is_not(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=2))
    now = held(store, "k")
    held(store, "k", delay_seconds=30)
    assert ids(claimed(worker, "k")) == [now]
    assert claimed(worker, "k") == []


def test_one_key_over_several_queues_and_priorities(store: Store, worker: TestWorker) -> None:
    """Its permits are for all of them together, in the order of any other claim."""
    limits.set_limit(store, "k", Limit(running=3))
    for name, queue, priority in (("e", "q2", 9), ("d", "q2", 9), ("c", "q1", 1), ("b", "q1", 5), ("a", "q1", 9)):
        held(store, "k", name, queue=queue, priority=priority)
    held(store, "k", "0", queue="nobody's", priority=9)
    assert ids(claimed(worker, "k", queues=["q1", "q2"], limit=2)) == ["a", "b"]
    assert ids(claimed(worker, "k", queues=["q1", "q2"])) == ["c"]


def test_each_key_has_its_own_permits(store: Store, worker: TestWorker) -> None:
    for key in ("k", "l", "m"):
        limits.set_limit(store, key, Limit(running=1))
        for number in range(2):
            held(store, key, f"{key}{number}")
    assert sorted(ids(claimed(worker, "k", "l"))) == ["k0", "l0"]


def test_what_is_due_later_gets_none(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=2))
    held(store, "k", delay_seconds=3600.0, priority=9)
    now = held(store, "k")
    assert ids(claimed(worker, "k")) == [now]


def test_of_several_keys_the_first_in_order_are_claimed(store: Store, worker: TestWorker) -> None:
    """As many as there is room for, whatever each key alone would let it have."""
    for key, priority in (("k", 1), ("l", 9), ("m", 5)):
        limits.set_limit(store, key, Limit(running=1))
        held(store, key, key, priority=priority)
    assert ids(claimed(worker, "k", "l", "m", limit=2)) == ["l", "m"]


def test_a_lowered_limit_has_none_left(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=3))
    for _ in range(6):
        held(store, "k")
    jobs = claimed(worker, "k")
    limits.set_limit(store, "k", Limit(running=1))
    assert claimed(worker, "k", outcomes=[done(job) for job in jobs[:2]]) == []


def test_a_rate_is_kept(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=5, rate="1/h"))
    for _ in range(3):
        held(store, "k")
    (job,) = worker.claim_held().claimed
    assert claimed(worker, "k", outcomes=[done(job)]) == []


def test_a_worker_that_was_declared_dead_gets_none(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=1))
    held(store, "k")
    worker.session.close_worker(worker.id)
    assert claimed(worker, "k") == []
    assert count(store, "permit IS NOT NULL") == 0


@pytest.mark.parametrize("freed", [True, False])
def test_what_may_run_once_is_not_to_run_again(store: Store, worker: TestWorker, freed: bool) -> None:
    """By a claim of the permits that were freed, and by one of all."""
    limits.set_limit(store, "k", Limit(running=2))
    held(store, "k", "a", task="shop.charge")
    held(store, "k", "b", task="shop.pack")
    once = ("shop.charge",)
    jobs = claimed(worker, "k", once=once) if freed else worker.claim_held(once=once).claimed
    assert {job.id: job.redeliver for job in jobs} == {"a": False, "b": True}
    assert [bool(row(store, job_id)["redeliver"]) for job_id in "ab"] == [False, True]


def test_a_claim_tells_which_keys_are_fit_for_it(store: Store, worker: TestWorker) -> None:
    """Those that limit nothing but how many jobs run at once."""
    limits.set_limit(store, "counted", Limit(running=1))
    limits.set_limit(store, "counted and paced", Limit(running=1, rate="100/s"))
    limits.set_limit(store, "paced", Limit(rate="100/s"))
    for key in ("counted", "counted and paced", "paced", "free"):
        held(store, key)
    found = worker.claim_held()
    assert len(found.claimed) == 4
    assert found.simple == {"counted"}
