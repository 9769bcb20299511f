"""Claims beside a transaction that stays open: they begin where the last one ended, and miss nothing for long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.jobs import Released, Succeeded
from dbqueue.store import open_store
from dbqueue.store.postgres import sql
from dbqueue.store.postgres.floors import FIRST_LONGEST_SECONDS, FIRST_PATIENCE, LONGEST_SECONDS, PATIENCE, Floors
from dbqueue.store.postgres.store import PostgresStore
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.records import Claim
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, new_job
from tests.waiting import wait_until
from tests.worker.rounds import running_rounds

LOOKS_AGAIN = "dbqueue.store.postgres.floors.PATIENCE"


@pytest.fixture
def store(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresStore]:
    """Each look from the bottom counts as slow, and the next one is a minute off."""
    monkeypatch.setattr("dbqueue.store.postgres.floors.SLOW_SECONDS", 0.0)
    monkeypatch.setattr("dbqueue.store.postgres.floors.SLOW_SECONDS_A_ROW", 0.0)
    monkeypatch.setattr(LOOKS_AGAIN, 1e9)
    monkeypatch.setattr("dbqueue.store.postgres.floors.FIRST_PATIENCE", 1e9)
    monkeypatch.setattr("dbqueue.store.postgres.floors.FIRST_LONGEST_SECONDS", LONGEST_SECONDS)
    store = open_store(postgres_url, shown_url="")
    assert isinstance(store, PostgresStore)
    yield store
    store.close()


@pytest.fixture
def worker(store: PostgresStore) -> Iterator[TestWorker]:
    worker = TestWorker(store, queues=("celery", "mail"))
    for _ in range(2):  # slow looks
        from_the_bottom(worker)
        assert ids(worker) == []
    yield worker
    worker.close()


def from_the_bottom(worker: TestWorker) -> None:
    assert isinstance(worker.session, PostgresWorkSession)
    worker.session._floors._bottom_at = time.monotonic()  # it has come


def ids(worker: TestWorker, limit: int = 100) -> list[str]:
    return [job.id for job in worker.claim(limit)]


def test_claims_go_on_in_order(store: PostgresStore, worker: TestWorker) -> None:
    """Also among jobs that were enqueued together, and have one time."""
    store.enqueue([new_job(f"a{n:02}", queue="celery") for n in range(30)])
    assert ids(worker, 7) == [f"a{n:02}" for n in range(7)]
    assert ids(worker, 7) == [f"a{n:02}" for n in range(7, 14)]
    store.enqueue([new_job(f"b{n}", queue="celery") for n in range(3)])
    assert ids(worker) == [f"a{n:02}" for n in range(14, 30)] + ["b0", "b1", "b2"]
    assert ids(worker) == []


def test_other_priorities_and_queues_are_seen_at_once(store: PostgresStore, worker: TestWorker) -> None:
    store.enqueue([new_job("first", priority=3), new_job("second", priority=3)])
    assert ids(worker, 1) == ["first"]
    store.enqueue([new_job("low", priority=-1), new_job("mail", queue="mail")])
    store.enqueue([new_job(name, priority=priority) for name, priority in (("high", 9), ("above", 4), ("below", 2))])
    assert ids(worker) == ["high", "above", "second", "below", "low", "mail"]
    store.enqueue([new_job("just above a known one", priority=5), new_job("just below one", priority=1)])
    assert ids(worker) == ["just above a known one", "just below one"]


def test_a_job_that_is_not_due_hides_none_of_lower_priority(store: PostgresStore, worker: TestWorker) -> None:
    store.enqueue([new_job("later", priority=9, delay_seconds=3600.0)])
    assert ids(worker) == []
    store.enqueue([new_job("middle", priority=5), new_job("low", priority=0)])
    assert ids(worker) == ["middle", "low"]


def test_what_comes_below_is_found_by_the_next_look(store: PostgresStore, worker: TestWorker) -> None:
    """Late commits, and jobs that were handed back: for those the hint is wrong."""
    store.enqueue([new_job(f"job{n}") for n in range(3)])
    jobs, another = worker.claim(3), TestWorker(store)
    another.settle(*(Released(job.id, job.lease, job.ready_at) for job in jobs[:2]))
    another.close()
    assert ids(worker) == []
    seconds, _ = worker.session.outlook(["celery"])
    assert seconds is not None  # the next look is told of, so that a worker does not sleep through it
    from_the_bottom(worker)
    assert ids(worker, 1) == ["job0"]
    assert ids(worker) == ["job1"]  # a look that found more than it took has moved the floor down


def test_what_a_worker_hands_back_is_found_at_once(store: PostgresStore, worker: TestWorker) -> None:
    """It would be passed over for a minute, where looks from the bottom are that slow."""
    store.enqueue([new_job(f"job{n}", priority=n % 2) for n in range(6)])
    jobs = worker.claim(6)
    worker.settle(*(Released(job.id, job.lease, job.ready_at) for job in jobs[1:3]))
    assert [job.id for job in jobs[1:3]] == ["job3", "job5"]
    assert ids(worker) == ["job3", "job5"]
    assert ids(worker) == []


def test_the_job_at_which_the_last_claim_ended_is_found_again_as_well(store: PostgresStore, worker: TestWorker) -> None:
    """Its place is the hint itself, which is no lower than that."""
    store.enqueue([new_job("first"), new_job("last")])
    jobs = worker.claim(2)
    worker.settle(Released("last", jobs[1].lease, jobs[1].ready_at))
    assert ids(worker) == ["last"]


def test_what_a_worker_takes_back_of_lost_claims_is_found_at_once(store: PostgresStore, worker: TestWorker) -> None:
    store.enqueue([new_job(f"job{n}") for n in range(3)])
    assert ids(worker) == ["job0", "job1", "job2"]
    assert worker.session.hand_back(worker.id, ["job2"]) == 2
    assert ids(worker) == ["job0", "job1"]


def test_what_a_worker_rescues_is_found_at_once(store: PostgresStore, worker: TestWorker) -> None:
    dead = TestWorker(store, lease_seconds=5)
    store.enqueue([new_job(f"job{n}") for n in range(4)])
    assert ids(dead, 2) == ["job0", "job1"]
    assert ids(worker) == ["job2", "job3"]
    with store.connect() as connection:
        connection.execute(
            sa.text("UPDATE dbqueue_workers SET heartbeat_at = now() - interval '1 hour' WHERE id = :id"),
            {"id": dead.id},
        )
    assert [each.requeued for each in worker.session.rescue(max_losses=3)] == [2]
    assert ids(worker) == ["job0", "job1"]
    dead.close()


def test_a_worker_sleeps_no_longer_than_until_the_next_look(store: PostgresStore, worker: TestWorker) -> None:
    store.enqueue([new_job(delay_seconds=3600.0)])
    seconds, _ = worker.session.outlook(["celery"])
    assert seconds is not None
    assert 0 < seconds <= LONGEST_SECONDS


def test_a_worker_that_was_declared_dead_claims_nothing(store: PostgresStore, worker: TestWorker) -> None:
    store.enqueue([new_job("first"), new_job("second")])
    assert ids(worker, 1) == ["first"]
    worker.session.close_worker(worker.id)
    assert ids(worker) == []


def entries_read(driver: psycopg.Connection[Any], store: PostgresStore) -> int:
    driver.execute("SELECT pg_stat_force_next_flush()")
    with store.connect() as connection:
        query = "SELECT idx_tup_read FROM pg_stat_all_indexes WHERE indexrelname = 'dbqueue_jobs_claim'"
        return int(connection.exec_driver_sql(query).scalar_one())


def test_dead_entries_are_not_read_again_and_again(postgres_url: str, store: PostgresStore, worker: TestWorker) -> None:
    assert isinstance(worker.session, PostgresWorkSession)
    driver = worker.session._driver
    with psycopg.connect(libpq_url(postgres_url)) as snapshot:
        snapshot.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        snapshot.execute("SELECT count(*) FROM dbqueue_jobs")
        for _ in range(4):
            store.enqueue([new_job() for _ in range(500)])
            while jobs := worker.claim(250):
                worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in jobs))
        read = []
        for bottom in (False, True):
            store.enqueue([new_job() for _ in range(10)])
            if bottom:
                from_the_bottom(worker)
            before = entries_read(driver, store)
            assert len(worker.claim(10)) == 10
            read.append(entries_read(driver, store) - before)
    assert read[1] > 2000  # the fault is there
    assert read[0] < 100


def test_one_slow_look_may_be_a_chance(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk was slow, or a lock was waited for: no reason not to see late commits for a minute."""
    worker = TestWorker(store)
    assert isinstance(worker.session, PostgresWorkSession)
    floors = worker.session._floors
    store.enqueue([new_job(f"job{n}") for n in range(3)])
    (job,) = worker.claim(1)
    assert floors.seconds_to_bottom > 0
    another = TestWorker(store)
    another.settle(Released(job.id, job.lease, job.ready_at))
    another.close()
    assert ids(worker) == ["job1", "job2"]
    from_the_bottom(worker)
    monkeypatch.setattr("dbqueue.store.postgres.floors.SLOW_SECONDS", 1e9)
    assert ids(worker) == ["job0"]
    assert floors.seconds_to_bottom == 0
    worker.close()


def test_one_slow_look_is_believed_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that starts beside millions of dead entries walks past them once, and then has work to do."""
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    floors = Floors()
    claim = Claim("worker", str(uuid4()), ("celery",), 1)
    floors.learn(claim, (), hinted=False, seconds=1.0, rows=1)
    assert floors.seconds_to_bottom == FIRST_PATIENCE
    floors.learn(claim, (), hinted=True, seconds=0.001, rows=1)  # a quick claim behind the floor says nothing of it
    floors.learn(claim, (), hinted=False, seconds=1.0, rows=1)
    assert floors.seconds_to_bottom == PATIENCE
    floors.learn(claim, (), hinted=False, seconds=0.001, rows=1)
    assert floors.seconds_to_bottom == 0
    floors.learn(claim, (), hinted=False, seconds=30.0, rows=1)
    assert floors.seconds_to_bottom == FIRST_LONGEST_SECONDS


@contextmanager
def another_claims(store: PostgresStore, url: str, *, table: str | None = None) -> Iterator[None]:
    with psycopg.connect(libpq_url(url)) as connection:
        turn = connection.execute(sql.TURN.encode(), {"table": table or store.names["jobs"]}).fetchone()
        assert turn == ("true",)
        yield


@pytest.mark.parametrize("just_taken", [False, True])
def test_where_claims_are_slow_one_worker_at_a_time_claims(
    postgres_url: str, store: PostgresStore, worker: TestWorker, monkeypatch: pytest.MonkeyPatch, just_taken: bool
) -> None:
    """What has ended is written all the same; also where the other took the turn between the question and the claim."""
    store.enqueue([new_job(f"job{n}") for n in range(2)])
    (job,) = worker.claim(1)
    with another_claims(store, postgres_url), monkeypatch.context() as patch:
        if just_taken:
            patch.setattr(PostgresWorkSession, "_turn_is_free", lambda session: True)
        found = worker.settle_and_claim([Succeeded(job.id, job.lease, "1", 0.0)], 1)
        assert found.refused
        assert (list(found.claimed), set(found.settled)) == ([], {job.id})
    found = worker.settle_and_claim([], 1)
    assert (found.refused, [each.id for each in found.claimed]) == (False, ["job1"])


def test_a_claim_that_is_refused_is_not_sent(postgres_url: str, store: PostgresStore, worker: TestWorker) -> None:
    """Most are, where many workers wait for their turns: each would cost four times as much."""
    assert isinstance(worker.session, PostgresWorkSession)
    driver = worker.session._driver

    def has_claimed_behind() -> bool:
        texts = driver.execute("SELECT statement FROM pg_prepared_statements").fetchall()
        return any("AS k(position, queue" in text for (text,) in texts)

    with another_claims(store, postgres_url):
        assert worker.settle_and_claim([], 1).refused
        assert not has_claimed_behind()
    assert ids(worker) == []
    assert has_claimed_behind()


def test_who_was_refused_too_often_claims_all_the_same(
    postgres_url: str, store: PostgresStore, worker: TestWorker
) -> None:
    """The other one may have been stopped in the middle of its claim."""
    store.enqueue([new_job("job")])
    with another_claims(store, postgres_url):
        assert worker.settle_and_claim([], 1).refused  # of which nothing is left on the connection
        claim = Claim(worker.id, str(uuid4()), worker.queues, 1, yielding=False)
        found = worker.session.round([], claim)
        assert (found.refused, [each.id for each in found.claimed]) == (False, ["job"])


def test_a_claim_that_was_refused_tells_nothing_of_how_long_claims_take(
    postgres_url: str, store: PostgresStore, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It found nothing, and was quick: turns would end with each."""
    store.enqueue([new_job("job")])
    from_the_bottom(worker)
    monkeypatch.setattr("dbqueue.store.postgres.floors.SLOW_SECONDS", 1e9)
    with another_claims(store, postgres_url):
        assert [worker.settle_and_claim([], 1).refused for _ in range(2)] == [True, True]


def test_turns_end_when_claims_are_quick_again(
    postgres_url: str, store: PostgresStore, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_the_bottom(worker)
    monkeypatch.setattr("dbqueue.store.postgres.floors.SLOW_SECONDS", 1e9)
    assert ids(worker) == []
    store.enqueue([new_job("job")])
    with another_claims(store, postgres_url):
        assert ids(worker) == ["job"]


def test_a_round_that_ends_many_jobs_may_take_longer(
    postgres_url: str, store: PostgresStore, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That says nothing of its claim."""
    store.enqueue([new_job("job")])
    (job,) = worker.claim(1)
    from_the_bottom(worker)
    monkeypatch.setattr("dbqueue.store.postgres.floors.SLOW_SECONDS_A_ROW", 1e9)
    worker.settle_and_claim([Succeeded(job.id, job.lease, "1", 0.0)])
    store.enqueue([new_job("next")])
    with another_claims(store, postgres_url):
        assert ids(worker) == ["next"]


def test_turns_are_those_of_one_table(postgres_url: str, store: PostgresStore, worker: TestWorker) -> None:
    """Of the queues that one database may have."""
    store.enqueue([new_job("job")])
    with another_claims(store, postgres_url, table="another.dbqueue_jobs"):
        assert ids(worker) == ["job"]


def test_a_worker_that_is_refused_again_and_again_does_not_wait_for_ever(
    postgres_url: str, store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that claims has been stopped."""
    monkeypatch.setattr("dbqueue.worker.claiming.claim_clock.MOST_REFUSALS", 3)
    with running_rounds(store) as rounds, another_claims(store, postgres_url):
        rounds.rounds.want(1)
        slow = rounds.rounds._session
        wait_until(lambda: isinstance(slow.current, PostgresWorkSession) and slow.current._floors.slow, what="a look")
        job_id = enqueued(store)
        assert rounds.take().id == job_id


def test_where_claims_are_quick_nobody_waits_for_a_turn(postgres_url: str) -> None:
    store = open_store(postgres_url, shown_url="")
    assert isinstance(store, PostgresStore)
    worker = TestWorker(store)
    store.enqueue([new_job("job")])
    with another_claims(store, postgres_url):
        assert ids(worker) == ["job"]
    worker.close()
    store.close()


def test_a_look_that_is_quick_is_made_each_time(postgres_url: str) -> None:
    store = open_store(postgres_url, shown_url="")
    worker = TestWorker(store)
    assert isinstance(worker.session, PostgresWorkSession)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dbqueue.store.postgres.floors.SLOW_SECONDS", 1e9)
        store.enqueue([new_job(f"job{n}") for n in range(3)])
        (job,) = worker.claim(1)
        worker.settle(Released(job.id, job.lease, job.ready_at))
        assert ids(worker) == ["job0", "job1", "job2"]
        assert worker.session.outlook(["celery"])[0] is None
    worker.close()
    store.close()
