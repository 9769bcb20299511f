"""How often a worker rescues and prunes: soon again while there is more to delete, else once a minute."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.errors import SchemaError
from dbqueue.jobs import Succeeded
from dbqueue.limits import Limit, Policies
from dbqueue.store import kept, limits
from dbqueue.store.base import Store
from dbqueue.store.postgres import sql
from dbqueue.store.trouble import LOCK_SECONDS
from dbqueue.worker.claiming.upkeep import (
    ELDEST_EVERY_SECONDS,
    GONE_SECONDS,
    LOOK_EVERY_SECONDS,
    NEXT_PAGES_SECONDS,
    NEXT_ROWS_SECONDS,
    OVERDUE_EVERY_SECONDS,
    PRUNE_EVERY_SECONDS,
    Upkeep,
)
from dbqueue.worker.config import WorkerConfig
from dbqueue.workflows import ERRBACK, Edge, Workflow
from tests.servers import libpq_url
from tests.stores import TestWorker, count, held, new_job, opened, run_sql


def test_what_has_expired_goes_soon_and_not_at_once(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Portions follow each other closely until nothing is left: a thousand rows each ten seconds would not keep up."""
    monkeypatch.setattr("dbqueue.worker.claiming.upkeep.PRUNE_ROWS", 40)
    monkeypatch.setattr("dbqueue.store.postgres.pruning.PAGES_AT_ONCE", 4)
    store.enqueue([new_job(args=f'["{"x" * 400}"]') for _ in range(150)])
    long_ago = datetime.now(UTC) - timedelta(days=2)
    worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in worker.claim(150)), now=long_ago)
    store.enqueue([new_job() for _ in range(3)])

    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
    upkeep._overdue_at = math.inf
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pauses: list[float] = []
    while count(store) > 3 or not pauses or pauses[-1] < PRUNE_EVERY_SECONDS / 2:
        now = max(now, upkeep.due_at)
        began = now
        upkeep.run(worker.session, worker.id)
        pauses.append(round(upkeep.due_at - began, 3))
    assert count(store) == 3
    assert set(pauses[1:-1]) <= {NEXT_ROWS_SECONDS, NEXT_PAGES_SECONDS}
    assert NEXT_ROWS_SECONDS in pauses
    assert pauses[-1] == PRUNE_EVERY_SECONDS


def test_only_the_eldest_prunes(store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    store.enqueue([new_job()])
    long_ago = datetime.now(UTC) - timedelta(days=2)
    worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in worker.claim()), now=long_ago)
    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1.0)
    now = time.monotonic() + 2 * PRUNE_EVERY_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: now)
    upkeep.run(worker.session, "another")
    assert count(store) == 1
    now += 2 * PRUNE_EVERY_SECONDS
    upkeep.run(worker.session, worker.id)
    assert count(store) == 0


def test_no_more_than_so_many_are_kept(store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    store.enqueue([new_job() for _ in range(30)])
    worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in worker.claim(30)))
    config = WorkerConfig("w", ("celery",), "solo", 1, result_expires_seconds=None, result_max_kept=12)
    upkeep = Upkeep(config, every_seconds=1e6)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pause = 0.0
    while count(store) > 12 or pause < PRUNE_EVERY_SECONDS / 2:
        now = max(now, upkeep.due_at)
        began = now
        upkeep.run(worker.session, worker.id)
        pause = upkeep.due_at - began
    assert count(store) == 12


def test_the_newest_stay_where_a_mark_stands_for_more_than_may_be_kept() -> None:
    """Of a large table one in six is remembered: the last six of twelve stay, though only three may."""
    marks = kept.Marks(1)
    total = 5 * kept.MARKS
    marks.add([(1.0, "a", 6, total), (2.0, "b", 12, total)])
    assert marks.newest_surplus(3) == (1.0, "a")
    assert marks.newest_surplus(12) is None


def test_only_the_eldest_looks_for_lost_workers(
    store: Store, worker: TestWorker, new_worker: Callable[..., TestWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = new_worker()
    store.enqueue([new_job()])
    lost.claim_one()
    run_sql(store, "DELETE FROM dbqueue_workers WHERE id = :id", id=lost.id)
    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1, lease_seconds=7.0), every_seconds=1e6)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    watch = store.watch_session("test")
    upkeep.run(worker.session, "another")
    assert not watch.heartbeat(lost.id)
    now += LOOK_EVERY_SECONDS
    upkeep.run(worker.session, worker.id)
    assert watch.heartbeat(lost.id)
    watch.close()
    with store.connect() as connection:
        query = sa.text("SELECT name, lease_seconds FROM dbqueue_workers WHERE id = :id")
        assert connection.execute(query, {"id": lost.id}).one() == (lost.id.partition("#")[0], 7.0), "dead soon again"


def test_a_look_for_lost_workers_that_has_not_seen_all_goes_on_soon(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs of one whose row was deleted may be at the end of a large table."""
    monkeypatch.setattr("dbqueue.store.postgres.looks.PAGES_AT_ONCE", 4)
    monkeypatch.setattr("dbqueue.store.sqlite.work_session.ROWS_AT_ONCE", 40)
    store.enqueue([new_job(args=f'["{"x" * 400}"]') for _ in range(150)])
    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pauses: list[float] = []
    while not pauses or pauses[-1] < LOOK_EVERY_SECONDS:
        now = max(now, upkeep._look_at)
        upkeep.run(worker.session, worker.id)
        pauses.append(round(upkeep._look_at - now, 3))
    assert len(pauses) > 2
    assert set(pauses[:-1]) == {NEXT_PAGES_SECONDS}


def test_a_look_for_lost_workers_that_fails_is_not_made_again_at_once(store: Store, worker: TestWorker) -> None:
    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
    upkeep.rescue_at = time.monotonic() + 1e6
    run_sql(store, "ALTER TABLE dbqueue_workers RENAME TO away")
    try:
        with pytest.raises(SchemaError):
            upkeep.run(worker.session, worker.id)
    finally:
        run_sql(store, "ALTER TABLE away RENAME TO dbqueue_workers")
    assert upkeep._look_at > time.monotonic()


def test_an_overdue_job_is_let_go_once_it_was_found_twice(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was only hidden for a moment, in the middle of a restore for one, is seen by then."""
    store.enqueue_workflow(Workflow.of([new_job("a"), new_job("b")], [Edge("a", "b")]))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
    upkeep._prune_at = now + 1e6
    upkeep.run(worker.session, worker.id)
    assert upkeep._overdue_at <= now + OVERDUE_EVERY_SECONDS
    let_go = []
    ended, waits = "'SUCCESS', ready_at = NULL, finished_at", "'PENDING', finished_at = NULL, ready_at"
    for status in (ended, waits, ended, ended, ended):
        run_sql(store, f"UPDATE dbqueue_jobs SET status = {status} = CURRENT_TIMESTAMP WHERE id = 'a'")
        now = upkeep._overdue_at
        let_go.append(upkeep.run(worker.session, worker.id))
        assert upkeep._overdue_at == now + OVERDUE_EVERY_SECONDS
    assert let_go == [False, False, False, True, False]
    assert [record.message.partition(" waited")[0] for record in caplog.records] == ["Job b"]
    assert worker.claim_one().id == "b"


def test_an_overdue_job_waits_for_a_row_that_may_be_there_again(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a restore, or of work on a partition; and while this worker is not the eldest nothing counts."""
    store.enqueue_workflow(Workflow.of([new_job("a"), new_job("b")], [Edge("a", "b")]))
    run_sql(store, "DELETE FROM dbqueue_jobs WHERE id = 'a'")
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
    upkeep._prune_at = now + 1e6

    def look(worker_id: str) -> bool:
        nonlocal now
        now = upkeep._overdue_at
        return upkeep.run(worker.session, worker_id)

    assert not look(worker.id)
    assert not look("another")
    assert not look(worker.id)
    found_at = now
    while now < found_at + GONE_SECONDS - 1.5 * OVERDUE_EVERY_SECONDS:
        assert not look(worker.id)
    assert look(worker.id) or look(worker.id)  # by the rounding of the clock
    assert worker.claim_one().id == "b"


def test_only_the_eldest_looks_for_overdue_jobs_and_takes_its_time(
    store: Store, worker: TestWorker, new_worker: Callable[..., TestWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a large table after the other; the pause is a hundred times as long as the look."""
    monkeypatch.setattr("dbqueue.store.postgres.looks.OVERDUE_PAGES_AT_ONCE", 4)
    monkeypatch.setattr("dbqueue.store.sqlite.work_session.OVERDUE_ROWS_AT_ONCE", 40)
    store.enqueue([new_job(args=f'["{"x" * 400}"]') for _ in range(150)])
    now, seconds = time.monotonic(), 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
    upkeep._prune_at = upkeep._look_at = upkeep.rescue_at = now + 1e6
    look: Callable[[], tuple[dict[str, bool], bool]] = worker.session.overdue

    def slow_look() -> tuple[dict[str, bool], bool]:
        nonlocal now
        now += seconds
        return look()

    monkeypatch.setattr(worker.session, "overdue", slow_look)
    now = upkeep._overdue_at
    upkeep.run(worker.session, new_worker().id)
    assert upkeep._overdue_at == now + ELDEST_EVERY_SECONDS
    for look_seconds, pause in ((0.0, NEXT_PAGES_SECONDS), (0.12, 12.0), (2.0, 200.0)):
        seconds = look_seconds
        upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
        upkeep._prune_at = upkeep._look_at = upkeep.rescue_at = now + 1e6
        now = upkeep._overdue_at
        upkeep.run(worker.session, worker.id)
        assert round(upkeep._overdue_at - now, 6) == pause
        while worker.session.overdue()[1]:
            pass


def test_an_overdue_job_is_remembered_while_the_rest_of_a_large_table_is_looked_at(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbqueue.store.postgres.looks.OVERDUE_PAGES_AT_ONCE", 4)
    monkeypatch.setattr("dbqueue.store.sqlite.work_session.OVERDUE_ROWS_AT_ONCE", 40)
    overdue_jobs(store, 1)
    store.enqueue([new_job(args=f'["{"x" * 400}"]', delay_seconds=3600.0) for _ in range(150)])
    look = looks_for_overdue(worker, monkeypatch)
    looks = 1
    while not look():
        looks += 1
        assert looks < 100
    assert looks > 4, "two, and of several parts each"
    assert worker.claim_one().id == "b0"


def test_no_more_than_so_many_overdue_jobs_are_let_go_at_once(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others follow."""
    monkeypatch.setattr("dbqueue.worker.claiming.upkeep.MOST_OVERDUE", 2)
    overdue_jobs(store, 3)
    look = looks_for_overdue(worker, monkeypatch)
    assert [look() for _ in range(4)] == [False, True, False, True]
    assert {job.id for job in worker.claim()} == {"b0", "b1", "b2"}


def overdue_jobs(store: Store, number: int) -> None:
    for each in range(number):
        store.enqueue_workflow(Workflow.of([new_job(f"a{each}"), new_job(f"b{each}")], [Edge(f"a{each}", f"b{each}")]))
    ended = "status = 'SUCCESS', ready_at = NULL, finished_at = CURRENT_TIMESTAMP"
    run_sql(store, f"UPDATE dbqueue_jobs SET {ended} WHERE id LIKE 'a%'")


def looks_for_overdue(worker: TestWorker, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """One look, or a part of one, with each call; whether some were let go."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
    upkeep._prune_at = upkeep._look_at = upkeep.rescue_at = now + 1e6

    def look() -> bool:
        nonlocal now
        now = upkeep._overdue_at
        return upkeep.run(worker.session, worker.id)

    return look


@pytest.mark.parametrize("overdue_too", [False, True], ids=["alone", "with a look that finds nothing"])
def test_what_waits_for_a_job_that_its_dead_worker_fails_is_looked_for(
    store: Store, worker: TestWorker, new_worker: Callable[..., TestWorker], overdue_too: bool
) -> None:
    store.enqueue_workflow(Workflow.of([new_job("lost"), new_job("then")], [Edge("lost", "then", "error", ERRBACK)]))
    dead = new_worker(lease_seconds=0.0)
    dead.claim_one(once=["shop.pack"])
    dead.close()
    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
    upkeep._overdue_at = time.monotonic() + (0.0 if overdue_too else 1e6)
    assert upkeep.run(worker.session, worker.id)
    assert count(store, "status = 'FAILURE'") == 1
    assert worker.claim_one().id == "then"


def test_dead_workers_are_looked_for_at_its_pace_and_by_its_own_rules(
    store: Store, worker: TestWorker, new_worker: Callable[..., TestWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.enqueue([new_job()])
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1, max_losses=0), every_seconds=5.0)
    upkeep._prune_at = upkeep._overdue_at = now + 1e6
    dead = new_worker(lease_seconds=0.0)
    dead.claim_one()
    dead.close()
    for ended in (True, False):
        assert upkeep.run(worker.session, worker.id) == ended
        assert 4.0 <= upkeep.due_at - now <= 6.0
        assert count(store, "status = 'FAILURE'") == 1
        now = upkeep.due_at


@pytest.mark.parametrize("locks", ["all jobs", "what waits for one that may not run again"])
def test_a_rescue_that_meets_a_lock_is_put_off(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, locks: str
) -> None:
    """Not for long: the jobs wait for it. And what else is due is done."""
    monkeypatch.setitem(sql.SESSION, "lock_timeout", "100ms")
    monkeypatch.setattr(sql, "READ_ALL", sql.READ_ALL.replace(f"{LOCK_SECONDS}s", "100ms"))
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as somebody:
        worker, dead = TestWorker(store), TestWorker(store, lease_seconds=0.0)
        edges = [Edge("lost", "then", "error", ERRBACK)]
        store.enqueue_workflow(Workflow.of([new_job("lost"), new_job("then")], edges))
        dead.claim_one(once=["shop.pack"])
        dead.close()
        upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
        upkeep._prune_at = 0.0
        if locks == "all jobs":
            somebody.execute("LOCK TABLE dbqueue_jobs IN SHARE MODE")
        else:
            somebody.execute("SELECT FROM dbqueue_jobs WHERE id = 'then' FOR UPDATE")
        began = time.monotonic()
        assert not upkeep.run(worker.session, worker.id)
        assert [record.message.partition(" of ")[0] for record in caplog.records][-1:] == ["Jobs"]
        assert began + 1.0 < upkeep.rescue_at < time.monotonic() + 30.0
        assert upkeep._prune_at > began
        somebody.rollback()
        upkeep.rescue_at = 0.0
        assert upkeep.run(worker.session, worker.id)
        assert worker.claim_one().id == "then"
        worker.close()


def test_a_job_in_a_transaction_of_its_own_follows_at_the_next_look_without_a_word(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a worker that is dead to others and writes on: each look meets it again."""
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as its_own:
        worker, dead = TestWorker(store), TestWorker(store, lease_seconds=0.0)
        store.enqueue([new_job("a"), new_job("b")])
        dead.claim()
        dead.close()
        its_own.execute("SELECT FROM dbqueue_jobs WHERE id = 'a' FOR UPDATE")
        upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
        did = []
        for _ in range(3):
            upkeep.rescue_at = 0.0
            did.append(upkeep.run(worker.session, worker.id))
            assert upkeep.rescue_at > time.monotonic() + 1e5, "it is not put off"
        assert did == [True, False, False]
        (record,) = caplog.records
        assert record.message.endswith(". Others are in a transaction that is still open, and follow")
        its_own.rollback()
        upkeep.rescue_at = 0.0
        assert upkeep.run(worker.session, worker.id)
        assert count(store, "status = 'PENDING'") == 2
        worker.close()


def test_an_overdue_job_that_meets_a_lock_is_put_off(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the next look: the rounds go on."""
    monkeypatch.setitem(sql.SESSION, "lock_timeout", "100ms")
    monkeypatch.setattr(sql, "READ_ALL", sql.READ_ALL.replace(f"{LOCK_SECONDS}s", "100ms"))
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as somebody:
        worker = TestWorker(store)
        overdue_jobs(store, 1)
        look = looks_for_overdue(worker, monkeypatch)
        assert not look()
        somebody.execute("SELECT FROM dbqueue_jobs WHERE id = 'b0' FOR UPDATE")
        assert not look()
        somebody.rollback()
        assert look()
        assert worker.claim_one().id == "b0"
        worker.close()


def test_a_prune_that_meets_a_lock_is_put_off(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounds go on: were it tried until it is done, they would wait for as long as somebody has the lock."""
    monkeypatch.setitem(sql.SESSION, "lock_timeout", "100ms")
    with opened(postgres_url) as store, psycopg.connect(libpq_url(postgres_url)) as somebody:
        worker = TestWorker(store)
        upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
        upkeep._prune_at = 0.0
        somebody.execute("LOCK TABLE dbqueue_limits")
        upkeep.run(worker.session, worker.id)
        assert upkeep._prune_at > time.monotonic()
        worker.close()


def test_what_limits_and_keys_leave_behind_is_deleted(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys in portions, soon one after the other, though no job has expired."""
    monkeypatch.setattr("dbqueue.worker.claiming.upkeep.PRUNE_ROWS", 2)
    policies = Policies({"shop.pack": Limit(running=1, key="{id}")})
    limits.declare(store, policies)
    job_id = held(store, "old")
    (job,) = worker.claim_held(policies=policies).claimed
    assert job.id == job_id
    worker.settle(Succeeded(job.id, job.lease, "1", 0.0))
    run_sql(store, "UPDATE dbqueue_limits SET updated_at = '2020-01-01 00:00:00.000'")
    store.enqueue([new_job(f"{number}", unique_key=f"{number}") for number in range(5)])
    run_sql(store, "DELETE FROM dbqueue_jobs WHERE id <> 'old'")
    upkeep = Upkeep(WorkerConfig("w", ("celery",), "solo", 1), every_seconds=1e6)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    upkeep._prune_at = now
    for _ in range(3):
        upkeep.run(worker.session, worker.id)
        now += 2 * NEXT_ROWS_SECONDS
    with store.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM dbqueue_unique_keys")) == 0
        assert connection.scalar(sa.text("SELECT count(*) FROM dbqueue_limits")) == 0
