"""What one connection has done and not committed yet: whether another waits for it, passes it by, or has lost."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, cast
from uuid import uuid4

import pytest
import sqlalchemy as sa

from dbqueue.jobs import ClaimedJob, Failed, Succeeded
from dbqueue.limits import Limit
from dbqueue.store import heartbeats, limits, revoking
from dbqueue.store.base import Store
from dbqueue.store.held import BUSY_SECONDS
from dbqueue.store.postgres.watch_session import PostgresWatchSession
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.records import Claim, Rescued
from dbqueue.store.sqlite.work_session import SqliteWorkSession
from dbqueue.store.transactions.completing import Recorded, recorded_at_last, recorded_now
from dbqueue.workflows import Edge, Workflow
from tests.concurrency.test_revoke_and_prune import LATER, WAITING, Gate, pruned
from tests.stores import TestWorker, count, enqueued, held, new_job, opened, row, run_sql
from tests.waiting import wait_until

KEY = "key"


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


def open_transaction(worker: TestWorker) -> AbstractContextManager[Any]:
    """What the worker does in it is there for others when it ends."""
    return cast(PostgresWorkSession, worker.session)._driver.transaction()


def waiting(store: Store) -> int:
    """How many sessions wait for a lock."""
    with store.connect() as connection:
        return int(connection.execute(sa.text(WAITING)).scalar_one())


class Waiting:
    """A call in a thread of its own that must wait for somebody's transaction; `found` is what it came to."""

    def __init__(self, store: Store, call: Callable[[], Any]) -> None:
        self.found: Any = None

        def run() -> None:
            try:
                self.found = call()
            except BaseException as error:  # noqa: BLE001
                self.found = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

        wait_until(lambda: waiting(store) or not self._thread.is_alive(), what="the call to wait")
        assert self._thread.is_alive(), f"it did not wait, and came to {self.found!r}"

    def result(self) -> Any:
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.found


def claim_keys(worker: TestWorker) -> Sequence[ClaimedJob]:
    """As a round does whose outcomes have freed permits."""
    claim = Claim(worker.id, str(uuid4()), worker.queues, 10, keys=(KEY,))
    return [*worker.session.round([], claim).claimed]


CLAIMS: dict[str, Callable[[TestWorker], Sequence[ClaimedJob]]] = {
    "plain": lambda worker: worker.claim(),
    "behind the last": lambda worker: worker.claim(),
    "held": lambda worker: worker.claim_held().claimed,
    "of freed permits": claim_keys,
}


def a_job(store: Store, worker: TestWorker, how: str) -> str:
    """A job for this kind of claim."""
    if how == "behind the last":  # where the first claim has ended, the second begins
        first = enqueued(store)
        worker.settle(Succeeded(first, worker.claim_one().lease, "1", 0.0))
        cast(PostgresWorkSession, worker.session)._floors._bottom_at = math.inf
    if how in ("plain", "behind the last"):
        return enqueued(store)
    limits.set_limit(store, KEY, Limit(running=5))
    return held(store, KEY)


@pytest.fixture
def dead(store: Store) -> Iterator[TestWorker]:
    worker = TestWorker(store, lease_seconds=5)
    yield worker
    worker.close()


@pytest.fixture
def rescuer(store: Store) -> Iterator[TestWorker]:
    worker = TestWorker(store, lease_seconds=3600)
    yield worker
    worker.close()


def rescue(worker: TestWorker) -> list[tuple[str, int]]:
    found = worker.session.rescue(max_losses=5, now=datetime.now(UTC) + LATER)
    return [(each.worker_id, each.requeued) for each in found]


def test_a_round_calls_back_while_the_server_works(store: Store, postgres_url: str, rescuer: TestWorker) -> None:
    """It has begun, and has not ended: it waits for the test's own lock, which only the call-back lets go."""
    job_id = enqueued(store)
    job = rescuer.claim_one()
    gate = Gate(store, postgres_url, job_id)
    claim = Claim(rescuer.id, str(uuid4()), rescuer.queues, 5)

    def go_on() -> None:
        wait_until(lambda: waiting(store), what="the server to begin")
        gate.open()

    result = rescuer.session.round([Succeeded(job_id, job.lease, "1", 0.0)], claim, meanwhile=go_on)
    gate.close()
    assert result.settled == {job_id}


@pytest.mark.parametrize("how", CLAIMS)
def test_a_rescue_passes_by_a_worker_that_is_claiming(
    store: Store, dead: TestWorker, rescuer: TestWorker, how: str
) -> None:
    """Were it declared dead now, the claim would leave a job STARTED that no later rescue looks for."""
    job = a_job(store, dead, how)
    with open_transaction(dead):
        assert [each.id for each in CLAIMS[how](dead)] == [job]
        assert rescue(rescuer) == []
    assert rescue(rescuer) == [(dead.id, 1)]
    assert row(store, job)["status"] == "PENDING"


def test_a_rescue_leaves_what_is_about_to_be_written_and_says_so(
    store: Store, dead: TestWorker, rescuer: TestWorker
) -> None:
    """A worker that was stopped in the middle of it: its row stays open, for a later rescue to look for the rest."""
    later = datetime.now(UTC) + LATER
    store.enqueue([new_job("written"), new_job("lost")])
    job = next(each for each in dead.claim() if each.id == "written")
    with open_transaction(dead):
        dead.settle(Succeeded("written", job.lease, "1", 0.0))
        assert rescuer.session.rescue(max_losses=5, now=later) == [Rescued(dead.id, 1, 0, left=True)]
    assert (row(store, "written")["status"], row(store, "lost")["status"]) == ("SUCCESS", "PENDING")
    assert rescuer.session.rescue(max_losses=5, now=later) == [Rescued(dead.id, 0, 0)]


def test_a_prune_passes_by_limits_that_are_in_use(store: Store, rescuer: TestWorker) -> None:
    """By a claim, or by an operator who has not committed yet: the worker has other things to do."""
    for key in ("used", "unused"):
        limits.set_limit(store, key, Limit(running=5))
    run_sql(store, "UPDATE dbqueue_limits SET source = 'call', updated_at = '2020-01-01'")
    with store.connect() as connection:
        connection.execute(sa.text("SELECT FROM dbqueue_limits WHERE key = 'used' FOR UPDATE"))
        assert rescuer.session.prune_limits() == 1
    assert rescuer.session.prune_limits() == 1


def test_a_look_for_what_is_to_be_parked_passes_by_what_another_has(store: Store, rescuer: TestWorker) -> None:
    taken, other = enqueued(store), enqueued(store)
    with store.connect() as connection:
        connection.execute(sa.text("SELECT FROM dbqueue_jobs WHERE id = :id FOR UPDATE"), {"id": taken})
        assert rescuer.session.park(["shop.pack"], ["celery"], most=10) == 1
    assert [row(store, job_id)["blocked_reason"] for job_id in (taken, other)] == [None, "limit"]


@pytest.mark.parametrize("how", CLAIMS)
def test_a_claim_waits_for_the_rescue_of_its_worker(
    store: Store, dead: TestWorker, rescuer: TestWorker, how: str
) -> None:
    job = a_job(store, dead, how)
    with open_transaction(rescuer):
        assert rescue(rescuer) == [(dead.id, 0)]
        claim = Waiting(store, lambda: CLAIMS[how](dead))
    assert claim.result() == []
    assert row(store, job)["status"] == "PENDING"
    assert [each.id for each in CLAIMS[how](rescuer)] == [job]


def test_a_rescue_passes_by_a_worker_whose_heartbeat_is_under_way(
    store: Store, dead: TestWorker, rescuer: TestWorker
) -> None:
    """What it reads of that worker is old: the heartbeat that counts is the one which is being written."""
    enqueued(store)
    dead.claim_one()
    watch = cast(PostgresWatchSession, store.watch_session("test"))
    with watch._driver.transaction():
        assert watch.heartbeat(dead.id)
        assert rescue(rescuer) == []
    assert watch.heartbeat(dead.id)
    watch.close()


@pytest.mark.parametrize("how", CLAIMS)
def test_a_heartbeat_waits_for_no_claim(store: Store, rescuer: TestWorker, how: str) -> None:
    """A claim may take long, under a slow COMMIT: its worker must not be late for that."""
    job, watch = a_job(store, rescuer, how), store.watch_session("test")
    with open_transaction(rescuer):
        assert [each.id for each in CLAIMS[how](rescuer)] == [job]
        assert watch.heartbeat(rescuer.id)
    watch.close()


def test_a_heartbeat_waits_for_the_rescue_and_hears_of_it(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    watch = store.watch_session("test")
    with open_transaction(rescuer):
        assert rescue(rescuer) == [(dead.id, 0)]
        heartbeat = Waiting(store, lambda: watch.heartbeat(dead.id))
    assert heartbeat.result() is False
    watch.close()


def test_of_two_rescues_the_second_waits_for_nothing(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    job = enqueued(store)
    dead.claim_one()
    other = TestWorker(store, lease_seconds=3600)
    with open_transaction(rescuer):
        assert rescue(rescuer) == [(dead.id, 1)]
        assert rescue(other) == []
    assert rescue(other) == []
    assert (row(store, job)["status"], row(store, job)["losses"]) == ("PENDING", 1)
    other.close()


def test_a_completion_waits_for_the_rescue_and_is_refused(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    job = enqueued(store)
    run = dead.claim_one()
    with open_transaction(rescuer):
        assert rescue(rescuer) == [(dead.id, 1)]
        completion = Waiting(store, lambda: dead.settle(Succeeded(job, run.lease, "1", 0.0)).settled)
    assert completion.result() == frozenset()
    assert row(store, job)["status"] == "PENDING"


def test_a_rescue_passes_by_a_completion_under_way(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    job = enqueued(store)
    run = dead.claim_one()
    with open_transaction(dead):
        assert dead.settle(Succeeded(job, run.lease, "1", 0.0)).settled == {job}
        rescue(rescuer)
    rescue(rescuer)
    assert (row(store, job)["status"], row(store, job)["losses"]) == ("SUCCESS", 0)


def test_a_key_of_which_another_admits_is_passed_by_and_looked_at_soon(
    store: Store, dead: TestWorker, rescuer: TestWorker
) -> None:
    for key in (KEY, "free"):
        limits.set_limit(store, key, Limit(running=1))
        for _ in range(2):
            held(store, key)
    with open_transaction(dead):
        assert [job.permit for job in dead.claim_held(keys=[KEY]).claimed] == [KEY]
        assert [job.permit for job in rescuer.claim_held().claimed] == ["free"]
        assert rescuer.claim_held().again_seconds == BUSY_SECONDS


def test_a_revoke_waits_for_the_claim_and_marks_the_run(store: Store, rescuer: TestWorker) -> None:
    job = enqueued(store)
    with open_transaction(rescuer):
        (run,) = rescuer.claim()
        revoke = Waiting(store, lambda: revoking.revoke(store, [job]))
    assert (revoke.result().ended, revoke.result().running) == ({}, {job})
    assert row(store, job)["revoked_at"] is not None
    assert rescuer.settle(Succeeded(job, run.lease, "1", 0.0)).settled == {job}


def test_of_two_headers_that_fail_at_once_the_first_ends_the_body(
    store: Store, dead: TestWorker, rescuer: TestWorker
) -> None:
    """The second has read the body as one that waits: it is asked again under its lock, and is not ended twice."""
    edges = [Edge("first", "body"), Edge("second", "body")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("first", "second", "body")], edges))
    (first,), (second,) = dead.claim(1), rescuer.claim(1)
    dead.linked, rescuer.linked = {first.id}, {second.id}
    with open_transaction(dead):
        dead.settle(Failed(first.id, first.lease, "{}", None, 0.0))
        later = Waiting(store, lambda: rescuer.settle(Failed(second.id, second.lease, "{}", None, 0.0)).settled)
    assert later.result() == {second.id}
    ended = row(store, "body")
    assert (ended["status"], first.id in str(ended["result"]), second.id in str(ended["result"])) == (
        "FAILURE",
        True,
        False,
    )


def test_the_fate_of_a_commit_is_known_when_it_is_over(store: Store, rescuer: TestWorker) -> None:
    """What it was before is there for all to read meanwhile."""
    job = enqueued(store)
    run = rescuer.claim_one()
    with open_transaction(rescuer):
        rescuer.settle(Succeeded(job, run.lease, "1", 0.0))
        assert recorded_now(store, job) == Recorded("STARTED", run.lease)
        fate = Waiting(store, lambda: recorded_at_last(store, job))
    assert fate.result() == Recorded("SUCCESS", run.lease)


def test_a_claim_passes_by_what_is_being_pruned(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    ended, waiting = enqueued(store), ""
    run = dead.claim_one()
    dead.settle(Succeeded(ended, run.lease, "1", 0.0))
    waiting = enqueued(store)
    with open_transaction(rescuer):
        assert pruned(rescuer) == 1
        assert [job.id for job in dead.claim()] == [waiting]
    assert count(store) == 1


def test_a_prune_passes_by_what_is_claimed_or_run_again(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    """An operator lets a failed job run again: it is not to be deleted as one that has ended long ago."""
    failed, waiting, done = (enqueued(store) for _ in range(3))
    jobs = {job.id: job for job in dead.claim()}
    dead.settle(
        Failed(failed, jobs[failed].lease, "{}", None, 0.0),
        Succeeded(done, jobs[done].lease, "1", 0.0),
    )
    with store.connect() as operator:
        again = """UPDATE dbqueue_jobs SET status = 'PENDING', ready_at = now(), started_at = NULL, finished_at = NULL,
            lease = NULL, worker = NULL WHERE id = :id"""
        operator.execute(sa.text(again), {"id": failed})
        assert pruned(rescuer) == 1
    assert pruned(rescuer) == 0
    assert {job_id: row(store, job_id)["status"] for job_id in (failed, waiting)} == {
        failed: "PENDING",
        waiting: "STARTED",
    }


@pytest.mark.parametrize("order", [("prune", "claim"), ("claim", "prune")], ids="-".join)
def test_prune_and_claim_on_one_file(sqlite_url: str, order: tuple[str, str]) -> None:
    with opened(sqlite_url) as store:
        worker, pruner = TestWorker(store), TestWorker(store)
        ended = enqueued(store)
        worker.settle(Succeeded(ended, worker.claim_one().lease, "1", 0.0))
        waiting = enqueued(store)
        calls: dict[str, Callable[[], Any]] = {
            "prune": lambda: pruned(pruner),
            "claim": lambda: [job.id for job in worker.claim()],
        }
        gate = Gate(store, sqlite_url, waiting)
        try:
            for name in order:
                gate.queue(name, calls[name])
            gate.open()
        finally:
            gate.close()
        assert gate.found == {"prune": 1, "claim": [waiting]}
        assert count(store) == count(store, "status = 'STARTED'") == 1
        for each in (worker, pruner):
            each.close()


@pytest.mark.parametrize("order", [("heartbeat", "revoke"), ("revoke", "heartbeat")], ids="-".join)
def test_heartbeat_and_revoke_on_one_file(sqlite_url: str, order: tuple[str, str]) -> None:
    with opened(sqlite_url) as store:
        worker, watch = TestWorker(store), store.watch_session("test")
        job = enqueued(store)
        calls: dict[str, Callable[[], Any]] = {
            "heartbeat": lambda: watch.heartbeat(worker.id),
            "revoke": lambda: revoking.revoke(store, [job]).ended,
        }
        gate = Gate(store, sqlite_url, job)
        try:
            for name in order:
                gate.queue(name, calls[name])
            gate.open()
        finally:
            gate.close()
        assert gate.found == {"heartbeat": True, "revoke": {job: "shop.pack"}}
        assert worker.claim() == []
        watch.close()
        worker.close()


def test_a_heartbeat_just_before_the_rescue_on_one_file(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rescue looks before it asks for the lock, and again when it has it: by then the worker has shown its life."""
    with opened(sqlite_url) as store:
        worker, rescuer = TestWorker(store, lease_seconds=5), TestWorker(store, lease_seconds=3600)
        watch, session = store.watch_session("test"), cast(SqliteWorkSession, rescuer.session)
        job = enqueued(store)
        worker.claim_one()
        run_sql(
            store, "UPDATE dbqueue_workers SET heartbeat_at = '2020-01-01 00:00:00.000' WHERE id = :id", id=worker.id
        )
        assert session.rescue(max_losses=3) == []  # it has seen this heartbeat
        later = time.monotonic() + 6
        monkeypatch.setattr(heartbeats, "monotonic", lambda: later)
        beats: list[bool] = []

        def beat(statement: str) -> None:
            if statement.startswith("BEGIN"):  # it is about to
                beats.append(watch.heartbeat(worker.id))

        session._driver.set_trace_callback(beat)
        assert session.rescue(max_losses=3) == []
        session._driver.set_trace_callback(None)
        assert beats == [True]
        assert row(store, job)["status"] == "STARTED"
        watch.close()
        for each in (worker, rescuer):
            each.close()
