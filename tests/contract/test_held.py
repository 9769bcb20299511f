"""Jobs that wait for permits: who gets one, when it is free again, and what a claim says of the next."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa

from dbqueue.jobs import BLOCKED_BY_LIMIT, REVOKED, Failed, Released, Replaced, Retried, Succeeded
from dbqueue.limits import Limit, Policies
from dbqueue.store import changes, limits, revoking
from dbqueue.store.base import Store
from dbqueue.store.held import FULL_SECONDS, MAX_LEVELS
from dbqueue.workflows import Workflow
from tests.stores import TestWorker, count, enqueued, held, moment, new_job, opened, row, run_sql

NewWorker = Callable[..., TestWorker]


def running(store: Store) -> int:
    return count(store, "permit IS NOT NULL")


def test_a_held_job_says_why_and_is_not_claimed(store: Store, worker: TestWorker) -> None:
    assert worker.session.anything_held() is False
    job_id = held(store, "k")
    stored = row(store, job_id)
    assert (stored["status"], stored["blocked_reason"], stored["limit_key"]) == ("PENDING", "limit", "k")
    assert stored["ready_at"] is stored["permit"] is None
    assert worker.claim() == []
    assert worker.session.outlook(["celery"]) == (None, True)
    assert worker.session.anything_held() is True
    assert worker.session.waiting_queues() == ["celery"]


def test_no_more_than_the_limit_run(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=3))
    ids = [held(store, "k") for _ in range(10)]
    first = worker.claim_held()
    assert [job.id for job in first.claimed] == ids[:3]
    assert {job.permit for job in first.claimed} == {"k"}
    assert first.again_seconds == FULL_SECONDS
    stored = row(store, ids[0])
    assert (stored["status"], stored["worker"], stored["permit"]) == ("STARTED", worker.id, "k")
    assert str(stored["lease"]) == first.claimed[0].lease
    assert stored["blocked_reason"] is stored["held_at"] is None
    again = worker.claim_held()
    assert (again.claimed, again.again_seconds) == ([], FULL_SECONDS)
    worker.settle(*(Succeeded(job.id, job.lease, "1", 0.1) for job in first.claimed[:2]))
    assert [job.id for job in worker.claim_held().claimed] == ids[3:5]
    assert running(store) == 3


def test_a_job_that_is_replaced_frees_its_permit(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=1))
    held(store, "k", "first"), held(store, "k", "second")
    (job,) = worker.claim_held().claimed
    worker.settle(Replaced(job.id, job.lease, Workflow((new_job(job.id),)), 0.1))
    assert [job.id for job in worker.claim_held().claimed] == ["second"]


def test_a_job_that_is_replaced_by_a_limited_one_waits_for_a_permit(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=1))
    enqueued(store, "job")
    limited = new_job("job", task="shop.limited", limit_key="k", blocked_reason=BLOCKED_BY_LIMIT)
    worker.settle(Replaced("job", worker.claim_one().lease, Workflow((limited,)), 0.1))
    assert worker.claim() == []
    (job,) = worker.claim_held().claimed
    assert (job.id, job.task) == ("job", "shop.limited")


def test_every_end_of_a_run_frees_its_permit(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=1))
    for number in range(7):
        held(store, "k", f"job-{number}")

    def next_one() -> tuple[str, str, str]:
        (job,) = worker.claim_held().claimed
        return job.id, job.lease, job.ready_at

    job_id, lease, _ = next_one()
    worker.settle(Succeeded(job_id, lease, "1", 0.1))
    job_id, lease, _ = next_one()
    worker.settle(Failed(job_id, lease, "{}", None, 0.1))
    job_id, lease, _ = next_one()
    worker.settle(Failed(job_id, lease, "{}", None, 0.1, status=REVOKED))
    # These wait for a permit again: at their old place, or as late as they ask for.
    job_id, lease, ready_at = next_one()
    assert job_id == "job-3"
    worker.settle(Released(job_id, lease, ready_at))
    job_id, lease, _ = next_one()
    assert job_id == "job-3"
    worker.settle(Retried(job_id, lease, "{}", None, 0.1, delay_seconds=60))
    stored = row(store, "job-3")
    assert (stored["status"], stored["blocked_reason"], stored["permit"]) == ("RETRY", "limit", None)
    assert next_one()[0] == "job-4"
    assert worker.session.hand_back(worker.id, []) == 1
    assert next_one()[0] == "job-4"
    # Nobody's any more: an operator puts it back.
    worker.session.close_worker(worker.id)
    assert changes.retry(store, ["job-4", "job-0"]) == {"job-4", "job-0"}
    assert running(store) == 0
    assert count(store, "blocked_reason = 'limit'") == 5


def test_a_rescue_frees_the_permits_of_the_dead(store: Store, new_worker: NewWorker) -> None:
    limits.set_limit(store, "k", Limit(running=2))
    ids = [held(store, "k") for _ in range(3)]
    dead, alive = new_worker(lease_seconds=0.5), new_worker()
    assert len(dead.claim_held(once=()).claimed) == 2
    run_sql(store, "UPDATE dbqueue_jobs SET redeliver = false WHERE id = :id", id=ids[1])
    later = datetime.now(UTC) + timedelta(seconds=5)
    assert alive.claim_held(now=later).claimed == []
    (rescued,) = alive.session.rescue(max_losses=10, now=later)
    assert (rescued.requeued, rescued.failed) == (1, 1)
    assert [job.id for job in alive.claim_held(now=later).claimed] == [ids[0], ids[2]]


def test_what_is_called_off_needs_no_permit(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=1))
    ids = [held(store, "k") for _ in range(4)]
    revoking.revoke(store, [ids[0]])
    assert changes.cancel(store, [ids[1]]) == {ids[1]}
    assert row(store, ids[0])["held_at"] is row(store, ids[1])["held_at"] is None
    assert [job.id for job in worker.claim_held().claimed] == [ids[2]]
    assert changes.purge(store) == 1


def test_the_order_is_queue_then_priority_then_time(store: Store, worker: TestWorker) -> None:
    held(store, "k", "c", priority=1, queue="q2")
    held(store, "k", "b", priority=5, queue="q1")
    held(store, "other", "d", priority=3, queue="q1")
    held(store, "k", "a", priority=9, queue="q1")
    held(store, "k", "e", priority=9, queue="nobody's")
    limits.set_limit(store, "k", Limit(running=10))
    claimed = worker.claim_held(queues=["q1", "q2"]).claimed
    assert [job.id for job in claimed] == ["a", "b", "d", "c"]
    assert [job.permit for job in claimed] == ["k", "k", None, "k"]


def test_one_key_over_several_queues_is_one_limit(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=3))
    for number in range(6):
        held(store, "k", f"job-{number}", queue=f"q{number % 2}", priority=number % 3)
    claimed = worker.claim_held(queues=["q0", "q1"]).claimed
    assert len(claimed) == 3
    assert worker.claim_held(queues=["q1"]).claimed == []


def test_a_job_that_is_not_due_gets_no_permit(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=1))
    later = held(store, "k", delay_seconds=30, priority=9)
    empty = worker.claim_held()
    assert empty.claimed == []
    assert empty.again_seconds == pytest.approx(30, abs=5)
    assert empty.keys == worker.claim_held(queues=["other"]).keys == {"k"}
    now = held(store, "k")
    assert [job.id for job in worker.claim_held().claimed] == [now]
    worker.session.hand_back(worker.id, [])
    assert [job.id for job in worker.claim_held(now=datetime.now(UTC) + timedelta(seconds=60)).claimed] == [later]


def test_what_is_due_takes_nothing_with_it_that_is_not(store: Store, worker: TestWorker) -> None:
    """Of the same limit, queue and priority, with permits for both."""
    limits.set_limit(store, "k", Limit(running=2))
    now, later = held(store, "k"), held(store, "k", delay_seconds=30)
    assert [job.id for job in worker.claim_held().claimed] == [now]
    assert worker.claim_held().claimed == []
    assert [job.id for job in worker.claim_held(now=datetime.now(UTC) + timedelta(seconds=60)).claimed] == [later]


def test_a_key_without_a_limit_limits_nothing(store: Store, worker: TestWorker) -> None:
    for _ in range(5):
        held(store, "k")
    claimed = worker.claim_held(3)
    assert len(claimed.claimed) == 3
    assert claimed.again_seconds == 0
    assert len(worker.claim_held().claimed) == 2
    assert running(store) == 0


def test_a_claim_takes_no_more_than_it_has_slots_for(store: Store, worker: TestWorker) -> None:
    """Whatever each of its keys alone would let it have."""
    ids = [held(store, key) for key in ("k", "l", "k", "l")]
    found = worker.claim_held(3)
    assert {job.id for job in found.claimed} < set(ids)
    assert (len(found.claimed), found.again_seconds) == (3, 0)


def test_a_full_key_is_looked_at_again_beside_one_that_is_not(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "full", Limit(running=1))
    held(store, "full")
    worker.claim_held()
    held(store, "full")
    free = held(store, "free")
    found = worker.claim_held()
    assert ([job.id for job in found.claimed], found.again_seconds) == ([free], FULL_SECONDS)


def test_what_waits_for_a_workers_own_rate_has_no_limit_of_the_code(store: Store, worker: TestWorker) -> None:
    """A call that its task's limit does not count, and that was parked."""
    ids = [held(store, "rate:shop.pack") for _ in range(3)]
    policies = Policies({"shop.pack": Limit(running=1, key=lambda customer: customer)})
    assert [job.id for job in worker.claim_held(policies=policies).claimed] == ids


def test_code_leaves_an_operators_limit_alone(store: Store) -> None:
    limits.declare(store, Policies({"shop.pack": Limit(running=1), "shop.mail": Limit(running=1)}))
    limits.set_limit(store, "shop.pack", Limit(running=5, rate="1/h"))
    limits.declare(store, Policies({"shop.pack": Limit(running=2), "shop.mail": Limit(running=2)}))
    shown = {each.key: (each.max_running, each.rate, each.source) for each in limits.rows(store)}
    assert shown == {"shop.mail": (2, None, "settings"), "shop.pack": (5, "1/h", "user")}


@pytest.mark.parametrize("key", [None, "{id}"], ids=["of the task", "of calls"])
def test_new_code_limits_another_thing(store: Store, worker: TestWorker, key: str | None) -> None:
    """How many, or how fast: what was not limited is now, and the other way round."""
    held(store, "shop.pack")
    for running, rate in ((1, None), (None, "1/h"), (2, "1/h"), (None, "1/h"), (2, None)):
        policies = Policies({"shop.pack": Limit(running=running, rate=rate, key=key)})
        limits.declare(store, policies)
        worker.claim_held(policies=policies)  # which makes the limit of a call
        assert [(each.max_running, each.rate) for each in limits.rows(store)] == [(running, rate)]


def test_new_code_limits_the_calls_of_its_own_task(store: Store, worker: TestWorker) -> None:
    def policies(running: int) -> Policies:
        return Policies({"shop.pack": Limit(running=running, key="{id}"), "shop.mail": Limit(running=9, key="{id}")})

    held(store, "pack-1")
    held(store, "mail-1", task="shop.mail")
    worker.claim_held(policies=policies(1))
    limits.declare(store, policies(2))
    assert {each.key: each.max_running for each in limits.rows(store)} == {"pack-1": 2, "mail-1": 9}


def test_an_operators_limit_goes_before_that_of_calls(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=0))
    held(store, "k")
    assert worker.claim_held(policies=Policies({"shop.pack": Limit(running=5, key="{id}")})).claimed == []


def test_a_key_of_calls_that_code_has_fixed_is_not_forgotten(store: Store, worker: TestWorker) -> None:
    """As those of calls are, while nothing uses them."""
    held(store, "k")
    worker.claim_held(policies=Policies({"shop.pack": Limit(running=1, key="{id}")}))
    assert [each.source for each in limits.rows(store)] == ["call"]
    limits.declare(store, Policies({"shop.pack": Limit(running=1, key="k")}))
    assert [each.source for each in limits.rows(store)] == ["settings"]


def test_a_limit_of_none_at_once_stops_its_jobs(store: Store, worker: TestWorker) -> None:
    held(store, "k")
    limits.set_limit(store, "k", Limit(running=0))
    assert worker.claim_held().claimed == []
    limits.set_limit(store, "k", Limit())
    assert len(worker.claim_held().claimed) == 1


def test_a_lowered_limit_lets_running_jobs_end(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=3))
    for _ in range(6):
        held(store, "k")
    claimed = worker.claim_held().claimed
    limits.set_limit(store, "k", Limit(running=1))
    worker.settle(*(Succeeded(job.id, job.lease, "1", 0.1) for job in claimed[:2]))
    assert worker.claim_held().claimed == []
    worker.settle(*(Succeeded(job.id, job.lease, "1", 0.1) for job in claimed[2:]))
    assert len(worker.claim_held().claimed) == 1


def test_keys_of_calls_get_their_rows_from_the_code(store: Store, worker: TestWorker) -> None:
    policies = Policies({"shop.pack": Limit(running=1, key="customer-{id}"), "shop.mail": Limit(rate="1/h")})
    for number in range(6):
        held(store, f"customer-{number % 3}")
    assert len(worker.claim_held(policies=policies).claimed) == 3
    assert worker.claim_held(policies=policies).claimed == []
    found = {each.key: each for each in limits.rows(store)}
    assert sorted(found) == ["customer-0", "customer-1", "customer-2"]
    assert (found["customer-0"].max_running, found["customer-0"].source, found["customer-0"].task) == (
        1,
        "call",
        "shop.pack",
    )
    assert (found["customer-0"].running, found["customer-0"].held) == (1, 1)
    # New code: a fixed key, and another number for those of calls.
    limits.declare(store, Policies({"shop.pack": Limit(running=2, key="customer-{id}"), "shop.mail": Limit(rate=5)}))
    limits.set_limit(store, "customer-1", Limit(running=0))
    limits.declare(store, Policies({"shop.pack": Limit(running=3, key="customer-{id}"), "shop.mail": Limit(rate=5)}))
    shown = {each.key: (each.max_running, each.rate, each.source) for each in limits.rows(store)}
    assert shown == {
        "customer-0": (3, None, "call"),
        "customer-1": (0, None, "user"),
        "customer-2": (3, None, "call"),
        "shop.mail": (None, "5", "settings"),
    }
    assert limits.clear_limit(store, "customer-1") is True
    assert limits.clear_limit(store, "customer-1") is False
    assert len(worker.claim_held(policies=policies).claimed) == 2  # customer-1 has one, of the old code's
    run_sql(store, "UPDATE dbqueue_limits SET updated_at = '2020-01-01 00:00:00.000'")
    assert worker.session.prune_limits() == 0
    worker.settle(*_ends_of_all(store))
    assert worker.session.prune_limits() == 2
    assert [each.key for each in limits.rows(store)] == ["customer-1", "shop.mail"]


def _ends_of_all(store: Store) -> list[Failed]:
    with store.connect() as connection:
        rows = connection.execute(sa.text("SELECT id, lease FROM dbqueue_jobs WHERE status = 'STARTED'")).all()
    return [Failed(row.id, str(row.lease), "{}", None, 0.1) for row in rows]


def test_a_fixed_key_is_of_all_who_name_it(store: Store, worker: TestWorker) -> None:
    policies = Policies({"shop.pack": Limit(running=1, key="mailgun")})
    held(store, "mailgun", task="shop.other")
    held(store, "mailgun", task="shop.pack")
    assert len(worker.claim_held(policies=policies).claimed) == 1


def test_a_worker_that_was_declared_dead_gets_none(store: Store, worker: TestWorker, new_worker: NewWorker) -> None:
    limits.set_limit(store, "k", Limit(running=1, rate="1/h"))
    job_id = held(store, "k")
    worker.session.close_worker(worker.id)
    assert worker.claim_held().claimed == []
    assert running(store) == 0
    assert [job.id for job in new_worker().claim_held().claimed] == [job_id]  # no token was spent


def test_it_yields_to_what_comes_first(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=10))
    old = held(store, "k")
    plain = enqueued(store)
    new = held(store, "k")
    urgent = held(store, "k", priority=5)
    enqueued(store, priority=9, delay_seconds=3600.0)  # it comes before all, and not yet
    for year, column, job_id in ((2020, "held_at", old), (2021, "ready_at", plain), (2022, "held_at", new)):
        time = f"{year}-01-01 00:00:00.000"
        run_sql(store, f"UPDATE dbqueue_jobs SET {column} = '{time}' WHERE id = :id", id=job_id)
    first = worker.claim_held(yielding=True)
    assert [job.id for job in first.claimed] == [urgent, old]
    assert first.again_seconds == 0
    assert worker.claim_held(yielding=True).claimed == []
    assert [job.id for job in worker.claim()] == [plain]
    assert [job.id for job in worker.claim_held(yielding=True).claimed] == [new]


def test_it_yields_to_an_urgent_job_and_to_one_of_an_earlier_queue(store: Store, worker: TestWorker) -> None:
    """However long it has waited."""
    limits.set_limit(store, "k", Limit(running=10))
    modest, urgent = held(store, "k", priority=1, queue="q1"), held(store, "k", priority=9, queue="q2")
    plain = enqueued(store, priority=5, queue="q1")
    assert worker.claim_held(queues=["q1", "q2"], yielding=True).claimed == []
    assert [job.id for job in worker.claim_held(queues=["q2", "q1"], yielding=True).claimed] == [urgent]
    assert [job.id for job in worker.claim(queues=["q1"])] == [plain]
    enqueued(store, priority=9, queue="q2")
    assert [job.id for job in worker.claim_held(queues=["q1", "q2"], yielding=True).claimed] == [modest]


def test_it_yields_to_nothing_unless_it_is_told(store: Store, worker: TestWorker) -> None:
    """No claim of the others follows."""
    enqueued(store)
    job_id = held(store, "k")
    assert [job.id for job in worker.claim_held().claimed] == [job_id]


def test_it_does_not_yield_to_what_is_due_in_the_same_instant(store: Store, worker: TestWorker) -> None:
    """Permits are scarcer than slots: of two that are due together the one that needs one goes."""
    limits.set_limit(store, "k", Limit(running=10))
    job_id = held(store, "k")
    enqueued(store)
    run_sql(store, "UPDATE dbqueue_jobs SET held_at = '2021-01-01 00:00:00.000' WHERE held_at IS NOT NULL")
    run_sql(store, "UPDATE dbqueue_jobs SET ready_at = '2021-01-01 00:00:00.000' WHERE ready_at IS NOT NULL")
    assert [job.id for job in worker.claim_held(yielding=True).claimed] == [job_id]


def test_a_workers_own_tokens_hold_a_task_back(store: Store, worker: TestWorker) -> None:
    for number in range(4):
        held(store, "rate:shop.pack", f"pack-{number}")
    for number in range(2):
        held(store, "k", f"mail-{number}", task="shop.mail")
    none = worker.claim_held(tokens={"shop.pack": 0, "shop.mail": 0})
    assert none.claimed == []
    assert none.tasks == {"shop.pack", "shop.mail"}, "for these it is to look when there are tokens"
    some = worker.claim_held(tokens={"shop.pack": 3, "shop.mail": 1})
    assert sorted(job.id for job in some.claimed) == ["mail-0", "pack-0", "pack-1", "pack-2"]
    assert {job.permit for job in some.claimed} == {None}
    # A worker without a rate for it takes the rest.
    assert sorted(job.id for job in worker.claim_held().claimed) == ["mail-1", "pack-3"]


def test_a_task_without_tokens_holds_back_no_other_of_its_key(store: Store, worker: TestWorker) -> None:
    held(store, "k", "pack")
    held(store, "k", "mail", task="shop.mail")
    assert [job.id for job in worker.claim_held(tokens={"shop.pack": 0}).claimed] == ["mail"]


def test_a_job_may_be_made_to_wait(store: Store, worker: TestWorker) -> None:
    job_id = enqueued(store)
    job = worker.claim_one()
    worker.settle(Released(job.id, job.lease, job.ready_at, hold="rate:shop.pack"))
    stored = row(store, job_id)
    assert (stored["status"], stored["blocked_reason"], stored["limit_key"]) == ("PENDING", "limit", "rate:shop.pack")
    assert moment(stored["held_at"]) == moment(job.ready_at)
    assert worker.claim() == []
    assert [job.id for job in worker.claim_held().claimed] == [job_id]


def test_those_of_a_task_are_parked_together(store: Store, worker: TestWorker) -> None:
    """Under the task's own key or one that they have, each at its place: no others, and not what is due later."""
    first, second, third = (enqueued(store) for _ in range(3))
    run_sql(store, "UPDATE dbqueue_jobs SET limit_key = 'k' WHERE id = :id", id=second)
    enqueued(store, task="shop.mail")
    enqueued(store, delay_seconds=3600.0)
    enqueued(store, queue="other")
    places = {job_id: row(store, job_id)["ready_at"] for job_id in (first, second)}
    assert worker.session.park(["shop.pack"], ["celery"], most=2) == 2
    for job_id, key in ((first, "rate:shop.pack"), (second, "k")):
        stored = row(store, job_id)
        assert (stored["status"], stored["blocked_reason"], stored["limit_key"]) == ("PENDING", "limit", key)
        assert (stored["held_at"], stored["ready_at"]) == (places[job_id], None)
    assert worker.session.park(["shop.pack"], ["celery"], most=100) == 1
    assert worker.session.park(["shop.pack"], ["celery"], most=100) == 0
    assert count(store, "ready_at IS NOT NULL") == 3
    assert [job.id for job in worker.claim_held().claimed] == [first, second, third]


def test_only_the_keys_that_are_asked_for(store: Store, worker: TestWorker) -> None:
    for key in "abc":
        limits.set_limit(store, key, Limit(running=1))
        for priority in range(2):
            held(store, key, f"{key}{priority}", priority=priority, queue="q" if priority else "celery")
    found = worker.claim_held(keys=["a", "c", "nothing"], queues=["celery", "q"])
    assert [job.id for job in found.claimed] == ["a0", "c0"]
    assert worker.claim_held(keys=["nothing"]).keys == frozenset()


def test_of_a_key_that_is_asked_for_the_urgent_come_first(store: Store, worker: TestWorker) -> None:
    limits.set_limit(store, "k", Limit(running=1))
    for priority in (0, 9, 5):
        held(store, "k", f"p{priority}", priority=priority)
    assert [job.id for job in worker.claim_held(keys=["k"]).claimed] == ["p9"]


def test_what_is_behind_many_levels_that_are_not_due_has_its_turn(store: Store, worker: TestWorker) -> None:
    for number in range(MAX_LEVELS):
        held(store, f"customer-{number:04}", delay_seconds=3600.0)
    behind = held(store, "z")
    first = worker.claim_held()
    assert (first.claimed, first.again_seconds) == ([], 0)
    assert [job.id for job in worker.claim_held(after=first.after).claimed] == [behind]


def test_many_keys_are_looked_at_in_turns(store: Store, worker: TestWorker) -> None:
    keys = [f"customer-{number:04}" for number in range(MAX_LEVELS + 3)]
    for key in keys:
        held(store, key, f"job {key}", queue="celery")
    held(store, "a", queue="first")
    held(store, "z", queue="last")
    assert sorted(worker.session.waiting_queues()) == ["celery", "first", "last"]
    first = worker.claim_held(10_000, policies=Policies({"shop.pack": Limit(running=1, key="{id}")}))
    assert len(first.claimed) == MAX_LEVELS - 1  # and one level of a queue that is not its
    assert first.again_seconds == 0
    rest = worker.claim_held(after=first.after)
    assert [job.id for job in rest.claimed] == [f"job {key}" for key in keys[MAX_LEVELS - 1 :]]
    assert rest.after == ("", "", 0)


def test_an_expired_and_a_revoked_job_are_told(store: Store, worker: TestWorker) -> None:
    held(store, "k", expires_at=datetime(2020, 1, 1, tzinfo=UTC))
    (job,) = worker.claim_held().claimed
    assert job.expired


@pytest.mark.parametrize(
    "columns",
    [
        "permit = 'k'",
        "held_at = created_at",
        "held_at = created_at, ready_at = NULL, blocked_reason = 'limit'",  # of which limit?
        "ready_at = NULL, blocked_reason = 'limit', limit_key = 'k'",
        "status = 'SUCCESS', ready_at = NULL, finished_at = created_at, permit = 'k'",
    ],
)
def test_rows_that_would_lose_a_permit_are_refused(store: Store, columns: str) -> None:
    job_id = enqueued(store)
    with pytest.raises(Exception, match=r"constraint|CHECK|check"):
        run_sql(store, f"UPDATE dbqueue_jobs SET {columns} WHERE id = :id", id=job_id)


def test_leases_are_the_claims(store: Store, worker: TestWorker) -> None:
    held(store, "k")
    (job,) = worker.claim_held().claimed
    assert worker.settle(Succeeded(job.id, str(uuid4()), "1", 0.1)).settled == frozenset()
    assert worker.settle(Succeeded(job.id, job.lease, "1", 0.1)).settled == {job.id}


@pytest.mark.parametrize("at", ["infinity", "-infinity", "294276-12-31"])
def test_held_jobs_of_any_time(postgres_url: str, at: str) -> None:
    with opened(postgres_url) as store, closing(TestWorker(store)) as worker:
        job_id, innocent = held(store, "k"), held(store, "l")
        run_sql(store, "UPDATE dbqueue_jobs SET held_at = CAST(:at AS timestamptz) WHERE id = :id", at=at, id=job_id)
        claimed = {job.id for job in worker.claim_held().claimed}
        assert claimed == {innocent, job_id} if at == "-infinity" else {innocent}


@pytest.mark.parametrize(
    "columns", ["limit_key = x'61ff'", "limit_key = CAST(x'61ff' AS text)", "queue = x'61'", "held_at = 'zzz'"]
)
def test_a_held_row_that_no_look_could_pass_ends(sqlite_url: str, columns: str) -> None:
    with opened(sqlite_url) as store, closing(TestWorker(store)) as worker:
        hostile, innocent = held(store, "k"), held(store, "k")
        run_sql(store, f"UPDATE dbqueue_jobs SET {columns} WHERE id = :id", id=hostile)
        found = worker.claim_held()
        assert [job.id for job in found.claimed] == [innocent]
        assert worker.session.waiting_queues() == []
        assert row(store, hostile)["status"] == "FAILURE"
