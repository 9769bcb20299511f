"""The dead: who is one, and what becomes of the jobs that it held."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.jobs import Failed, Progress, Released, Retried, Succeeded
from dbqueue.store import heartbeats
from dbqueue.store.base import Store
from dbqueue.store.kept import Marks
from dbqueue.store.postgres import liveness
from dbqueue.store.queries import open_workers
from dbqueue.store.records import WorkerInfo
from dbqueue.store.sessions import ELDEST_SECONDS
from dbqueue.store.sqlite import liveness as sqlite_liveness
from dbqueue.store.sqlite.store import SqliteStore
from tests.contract.workflows import chain
from tests.servers import libpq_url
from tests.stores import TestWorker, count, enqueued, held, moment, new_job, opened, row, run_sql

NewWorker = Callable[..., TestWorker]


def later(seconds: float = 60) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


@pytest.fixture
def dead(new_worker: NewWorker) -> TestWorker:
    return new_worker(lease_seconds=5)


@pytest.fixture
def rescuer(new_worker: NewWorker) -> TestWorker:
    return new_worker(lease_seconds=3600)


def test_nobody_is_dead(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    enqueued(store)
    dead.claim_one()
    assert rescuer.session.rescue(max_losses=3) == []
    assert count(store, "status = 'STARTED'") == 1


def test_the_jobs_of_the_dead_wait_again_and_a_loss_is_counted(
    store: Store, dead: TestWorker, rescuer: TestWorker
) -> None:
    job_id = enqueued(store)
    before = row(store, job_id)
    job = dead.claim_one()
    dead.session.report([Progress(job_id, job.lease, "PACKING", "1")])
    (rescued,) = rescuer.session.rescue(max_losses=3, now=later())
    assert (rescued.worker_id, rescued.requeued, rescued.failed) == (dead.id, 1, 0)
    stored = row(store, job_id)
    assert (stored["status"], stored["losses"], stored["retries"], stored["lease"]) == ("PENDING", 1, 0, None)
    assert stored["started_at"] is stored["state"] is stored["meta"] is None
    assert moment(stored["ready_at"]) == moment(before["created_at"])  # its old place
    assert rescuer.session.rescue(max_losses=3, now=later()) == []
    assert rescuer.claim_one().losses == 1


def test_a_job_that_waits_again_keeps_the_error_of_its_last_retry(
    store: Store, dead: TestWorker, rescuer: TestWorker
) -> None:
    """It has not failed with its worker."""
    job_id = enqueued(store)
    job = dead.claim_one()
    dead.settle(Retried(job_id, job.lease, '{"exc_type": "KeyError"}', None, 0.0))
    dead.claim_one(now=later(1))
    rescuer.session.rescue(max_losses=3, now=later())
    record = store.fetch([job_id])[job_id]
    assert (record.status, record.retries, record.result) == ("PENDING", 1, '{"exc_type": "KeyError"}')


def test_what_fails_with_its_worker_has_ended_when_the_rescue_says(
    store: Store, dead: TestWorker, rescuer: TestWorker
) -> None:
    """And so has what can never run after it."""
    store.enqueue_workflow(chain("a", "b"))
    now = later().replace(microsecond=0)
    dead.claim_one(once=["shop.pack"])
    rescuer.session.rescue(max_losses=3, now=now)
    assert [moment(row(store, job_id)["finished_at"]) for job_id in ("a", "b")] == [now, now]


def test_only_its_own_and_only_what_is_started(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    for job_id in ("mine", "done", "waiting", "back"):
        enqueued(store, job_id, queue="q" if job_id == "waiting" else "celery")
    jobs = {job.id: job for job in dead.claim()}
    enqueued(store, "theirs")
    rescuer.claim_one()
    dead.settle(Succeeded("done", jobs["done"].lease, "1", 0.0))
    dead.settle(Released("back", jobs["back"].lease, jobs["back"].ready_at))
    (rescued,) = rescuer.session.rescue(max_losses=3, now=later())
    assert rescued.requeued == 1
    statuses = {job_id: row(store, job_id)["status"] for job_id in ("mine", "done", "waiting", "back", "theirs")}
    assert statuses == {
        "mine": "PENDING",
        "done": "SUCCESS",
        "waiting": "PENDING",
        "back": "PENDING",
        "theirs": "STARTED",
    }


def test_a_job_that_may_not_run_again_fails(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    job_id = enqueued(store, task="shop.charge")
    job = dead.claim_one(once=["shop.charge"])
    (rescued,) = rescuer.session.rescue(max_losses=3, now=later())
    assert (rescued.requeued, rescued.failed) == (0, 1)
    record = store.finished([job_id])[job_id]
    assert record.status == "FAILURE"
    assert json.loads(record.result or "")["exc_type"] == "WorkerLostError"
    assert record.finished_at is not None
    stored = row(store, job_id)
    assert (stored["started_at"] is not None, str(stored["lease"])) == (True, job.lease), "it tells of its last run"


@pytest.mark.parametrize("max_losses", [0, 1, 3])
def test_the_cap_of_losses(store: Store, new_worker: NewWorker, rescuer: TestWorker, max_losses: int) -> None:
    job_id = enqueued(store)
    for loss in range(max_losses + 1):
        assert row(store, job_id)["status"] == "PENDING"
        assert row(store, job_id)["losses"] == loss
        dead = new_worker(lease_seconds=5)
        dead.claim_one()
        rescuer.session.rescue(max_losses=max_losses, now=later())
    assert row(store, job_id)["status"] == "FAILURE"
    assert row(store, job_id)["losses"] == max_losses + 1


def test_an_eta_is_kept(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    eta = datetime(2040, 1, 1, tzinfo=UTC)
    job_id = enqueued(store, eta=eta)
    dead.claim_one(now=eta)
    assert sum(each.requeued for each in rescuer.session.rescue(max_losses=3, now=eta + timedelta(seconds=60))) == 1
    assert moment(row(store, job_id)["ready_at"]) == eta


def test_an_eta_of_a_job_with_a_limit_is_kept(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    eta = datetime(2040, 1, 1, tzinfo=UTC)
    job_id = held(store, "k", eta=eta)
    dead.claim_held(now=eta)
    assert sum(each.requeued for each in rescuer.session.rescue(max_losses=3, now=eta + timedelta(seconds=60))) == 1
    assert moment(row(store, job_id)["held_at"]) == eta


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("way", ["rescued", "handed back"])
def test_a_job_of_before_the_clock_was_put_back_does_not_wait_for_that_time(
    store: Store, dead: TestWorker, rescuer: TestWorker, limited: bool, way: str
) -> None:
    job_id = held(store, "k") if limited else enqueued(store)
    assert (dead.claim_held().claimed if limited else dead.claim())[0].id == job_id
    run_sql(store, "UPDATE dbqueue_jobs SET created_at = '2040-01-01 00:00:00.000'")
    if way == "rescued":
        rescuer.session.rescue(max_losses=3, now=later())
    else:
        dead.session.hand_back(dead.id, {})
    jobs = rescuer.claim_held(now=later(61)).claimed if limited else rescuer.claim(now=later(61))
    assert [job.id for job in jobs] == [job_id]


def test_the_dead_worker_finds_out(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    watch = store.watch_session("test")
    assert watch.heartbeat(dead.id)
    rescuer.session.rescue(max_losses=3, now=later())
    assert not watch.heartbeat(dead.id)
    assert not watch.heartbeat("nobody")
    enqueued(store)
    assert dead.claim() == []
    assert len(rescuer.claim()) == 1
    watch.close()
    watch.close()


def test_a_heartbeat_puts_death_off(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    old = (
        "strftime('%Y-%m-%d %H:%M:%f', 'now', '-4 seconds')" if store.dialect == "sqlite" else "now() - interval '4 s'"
    )
    watch = store.watch_session("test")
    run_sql(store, f"UPDATE dbqueue_workers SET heartbeat_at = {old} WHERE id = :id", id=dead.id)
    watch.heartbeat(dead.id)
    assert rescuer.session.rescue(max_losses=3, now=later(4)) == []
    assert [each.worker_id for each in rescuer.session.rescue(max_losses=3, now=later(7))] == [dead.id]
    watch.close()


def test_a_stopped_worker_is_not_dead(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    dead.session.close_worker(dead.id)
    assert rescuer.session.rescue(max_losses=3, now=later()) == []


def test_a_worker_stops_once(store: Store, dead: TestWorker) -> None:
    """One that was declared dead and comes back does not move its end."""
    dead.session.close_worker(dead.id)
    run_sql(store, "UPDATE dbqueue_workers SET closed_at = '2020-01-01 00:00:00.000' WHERE id = :id", id=dead.id)
    dead.session.close_worker(dead.id)
    with store.connect() as connection:
        closed_at = moment(connection.exec_driver_sql("SELECT closed_at FROM dbqueue_workers").scalar_one())
    assert closed_at is not None
    assert closed_at.year == 2020


def test_the_eldest_lives(store: Store, new_worker: NewWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = new_worker(), new_worker()
    run_sql(store, "UPDATE dbqueue_workers SET started_at = '2020-01-01 00:00:00.000' WHERE id = :id", id=first.id)
    assert second.session.eldest_worker() == first.id
    date_heartbeat(store, first, 2020)  # dead, and not found dead yet
    if store.dialect == "sqlite":  # where it is dead when it has shown nothing else for a lease
        assert second.session.eldest_worker() == first.id
        date_heartbeat(store, second, 2021)
        pass_time(monkeypatch, 31)
        date_heartbeat(store, second, 2022)
    assert second.session.eldest_worker() == second.id
    first.session.close_worker(first.id)
    assert first.session.eldest_worker() == second.id
    second.session.close_worker(second.id)
    assert first.session.eldest_worker() is None


@pytest.mark.parametrize("heartbeat", ["infinity", "2999-01-01 00:00:00.000", "2020-01-01 00:00:00.000"])
def test_a_silent_worker_is_not_the_eldest_for_ever(
    store: Store, new_worker: NewWorker, monkeypatch: pytest.MonkeyPatch, heartbeat: str
) -> None:
    """Whatever its row says of its lease and its heartbeats: nobody else would do what the eldest does."""
    first, second = new_worker(), new_worker()
    old = "started_at = '2000-01-01 00:00:00.000', lease_seconds = 1e20, heartbeat_at = :at"
    run_sql(store, f"UPDATE dbqueue_workers SET {old} WHERE id = :id", id=first.id, at=heartbeat)
    if store.dialect == "sqlite":  # where it has been seen to be silent for so long
        assert second.session.eldest_worker() == first.id
        pass_time(monkeypatch, ELDEST_SECONDS + 1)
        # Not by a heartbeat: on a fast disk it is in the millisecond of the first, and nothing has changed.
        date_heartbeat(store, second, 2022)
    assert second.session.eldest_worker() == second.id
    assert second.session.rescue(max_losses=3) == []


def date_heartbeat(store: Store, worker: TestWorker, year: int) -> None:
    at = f"{year}-01-01 00:00:00.000"
    run_sql(store, "UPDATE dbqueue_workers SET heartbeat_at = :at WHERE id = :id", at=at, id=worker.id)


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """On the steady clock of who looks at heartbeats."""
    at = vars(heartbeats)["monotonic"]() + seconds
    for module in (heartbeats, liveness):
        monkeypatch.setattr(module, "monotonic", lambda: at)


@pytest.mark.parametrize("year", [2001, 2099])
def test_a_heartbeat_is_not_compared_with_the_clock_on_the_wall(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    """On SQLite, where each process has its own: a heartbeat is old when it has stayed the same for a lease."""
    with opened(sqlite_url) as store:
        worker, rescuer = TestWorker(store, lease_seconds=30), TestWorker(store, lease_seconds=3600)
        job_id = enqueued(store)
        worker.claim_one()
        for later in range(3):
            date_heartbeat(store, worker, year + later)
            assert rescuer.session.rescue(max_losses=3) == []
            pass_time(monkeypatch, 29)
            assert rescuer.session.rescue(max_losses=3) == []
        pass_time(monkeypatch, 2)
        assert [(each.worker_id, each.requeued) for each in rescuer.session.rescue(max_losses=3)] == [(worker.id, 1)]
        assert row(store, job_id)["losses"] == 1
        for each in (worker, rescuer):
            each.close()


CLOCK = """
CREATE SCHEMA clock;
CREATE TABLE clock.step (by interval);
INSERT INTO clock.step VALUES ('0');
CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE AS
    'SELECT pg_catalog.now() + by FROM clock.step';
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + by FROM clock.step';
"""
"""A clock of the server's that can be put forward and back, for who has its schema before the system's own."""


def test_the_servers_clock_is_put_forward_and_back(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is dead for that, and who is dead does not live on."""
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        admin.execute(CLOCK)
        admin.execute(f"ALTER DATABASE {admin.info.dbname} SET search_path = clock, pg_catalog, public".encode())
        with opened(postgres_url) as store:
            rescuer, watch = TestWorker(store, lease_seconds=1e6), store.watch_session("test")
            for step in ("1 hour", "0"):
                worker = TestWorker(store, lease_seconds=30)
                job_id = enqueued(store)
                worker.claim_one()
                assert rescuer.session.rescue(max_losses=3) == []
                admin.execute("UPDATE clock.step SET by = %s", [step])
                assert rescuer.session.rescue(max_losses=3) == []
                assert watch.heartbeat(worker.id)
                assert rescuer.session.rescue(max_losses=3) == []
                pass_time(monkeypatch, 29)
                assert rescuer.session.rescue(max_losses=3) == []
                pass_time(monkeypatch, 2)
                dead = rescuer.session.rescue(max_losses=3)
                assert [(each.worker_id, each.requeued) for each in dead] == [(worker.id, 1)]
                assert row(store, job_id)["losses"] == 1
                run_sql(store, "DELETE FROM dbqueue_jobs")
                worker.close()
            for each in (watch, rescuer):
                each.close()


def test_a_worker_that_dies_just_before_the_clock_is_put_back(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat is of the future then."""
    with opened(postgres_url) as store:
        rescuer, dead = TestWorker(store, lease_seconds=1e6), TestWorker(store, lease_seconds=30)
        run_sql(store, "UPDATE dbqueue_workers SET heartbeat_at = now() + interval '1 hour' WHERE id = :id", id=dead.id)
        assert rescuer.session.rescue(max_losses=3) == []
        pass_time(monkeypatch, 31)
        assert [each.worker_id for each in rescuer.session.rescue(max_losses=3)] == [dead.id]
        for each in (dead, rescuer):
            each.close()


class TestLostWorkers:
    """Workers that have jobs and no row: an operator has deleted it, or restored a part of a backup."""

    def look(self, worker: TestWorker) -> list[str]:
        """All of the table, part by part."""
        found, more = worker.session.lost_workers()
        while more:
            others, more = worker.session.lost_workers()
            found += others
        return found

    def reopen(self, worker: TestWorker, lost: str) -> None:
        worker.session.reopen(WorkerInfo(lost, "lost", "", 0, "", 0, (), "0", 5.0))

    @pytest.mark.parametrize("how", ["deleted", "closed"])
    def test_it_has_a_row_again_and_is_found_dead(
        self, store: Store, dead: TestWorker, rescuer: TestWorker, how: str
    ) -> None:
        job_id = enqueued(store)
        dead.claim_one()
        if how == "deleted":
            run_sql(store, "DELETE FROM dbqueue_workers WHERE id = :id", id=dead.id)
        else:
            dead.session.close_worker(dead.id)
            date_heartbeat(store, dead, 2020)
        assert rescuer.session.rescue(max_losses=3, now=later()) == []
        assert self.look(rescuer) == [dead.id]
        self.reopen(rescuer, dead.id)
        assert self.look(rescuer) == []
        if how == "deleted" or store.dialect != "sqlite":  # where who closes a row lets go of the lock
            assert rescuer.session.rescue(max_losses=3) == []  # not before its lease is over
        (rescued,) = rescuer.session.rescue(max_losses=3, now=later())
        assert (rescued.worker_id, rescued.requeued) == (dead.id, 1)
        assert row(store, job_id)["losses"] == 1
        assert self.look(rescuer) == []

    def test_one_that_lives_lives_on(self, store: Store, worker: TestWorker, rescuer: TestWorker) -> None:
        enqueued(store)
        job = worker.claim_one()
        run_sql(store, "DELETE FROM dbqueue_workers WHERE id = :id", id=worker.id)
        assert self.look(rescuer) == [worker.id]
        self.reopen(rescuer, worker.id)
        watch = store.watch_session("test")
        assert watch.heartbeat(worker.id)
        watch.close()
        assert worker.settle(Succeeded(job.id, job.lease, "1", 0.0)).settled == {job.id}
        enqueued(store)
        worker.claim_one()

    def test_nobody_is_lost(self, store: Store, dead: TestWorker, worker: TestWorker, rescuer: TestWorker) -> None:
        store.enqueue([new_job() for _ in range(4)])
        ended, back = dead.claim(2)
        worker.claim(1)
        dead.settle(Succeeded(ended.id, ended.lease, "1", 0.0), Released(back.id, back.lease, back.ready_at))
        run_sql(store, "DELETE FROM dbqueue_workers WHERE id = :id", id=dead.id)
        assert self.look(rescuer) == []
        before = moment_of_heartbeat(store, worker)
        self.reopen(rescuer, worker.id)  # it was found anew meanwhile
        assert moment_of_heartbeat(store, worker) == before

    def test_a_large_table_is_looked_through_in_parts(
        self, store: Store, dead: TestWorker, rescuer: TestWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dbqueue.store.postgres.lost_workers.PAGES_AT_ONCE", 2)
        monkeypatch.setattr("dbqueue.store.sqlite.work_session.ROWS_AT_ONCE", 30)
        store.enqueue([new_job(args=f'["{"x" * 500}"]') for _ in range(100)])  # on some ten pages
        enqueued(store, queue="last")
        dead.claim(1, queues=["last"])
        run_sql(store, "DELETE FROM dbqueue_workers WHERE id = :id", id=dead.id)
        for _ in range(2):
            calls, found, more = 0, list[str](), True
            while more:
                part, more = rescuer.session.lost_workers()
                found, calls = found + part, calls + 1
            assert found == [dead.id]
            assert calls > 3

    def test_no_row_is_passed_by_between_two_parts(
        self, store: Store, rescuer: TestWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dbqueue.store.postgres.lost_workers.PAGES_AT_ONCE", 1)
        monkeypatch.setattr("dbqueue.store.sqlite.work_session.ROWS_AT_ONCE", 3)
        names = sorted(f"lost {number:02}" for number in range(12))
        with ExitStack() as stack:
            for name in names:
                enqueued(store, name, args=f'["{"x" * 3000}"]')  # two on a page
                stack.enter_context(closing(TestWorker(store))).claim_one()
        run_sql(store, "UPDATE dbqueue_jobs SET worker = id")
        assert sorted(self.look(rescuer)) == names

    def test_an_empty_table(self, rescuer: TestWorker) -> None:
        assert self.look(rescuer) == []


def moment_of_heartbeat(store: Store, worker: TestWorker) -> datetime | None:
    with store.connect() as connection:
        query = sa.text("SELECT heartbeat_at FROM dbqueue_workers WHERE id = :id")
        return moment(connection.execute(query, {"id": worker.id}).scalar_one())


class TestHandBack:
    def test_what_the_worker_does_not_know_of_goes_back(self, store: Store, worker: TestWorker) -> None:
        for job_id in ("known", "lost", "ended"):
            enqueued(store, job_id)
        before = row(store, "lost")["ready_at"]
        jobs = {job.id: job for job in worker.claim()}
        worker.settle(Succeeded("ended", jobs["ended"].lease, "1", 0.0))
        assert worker.session.hand_back(worker.id, {"known": jobs["known"].lease}) == 1
        lost = row(store, "lost")
        assert (lost["status"], lost["losses"], lost["worker"], lost["lease"]) == ("PENDING", 0, None, None)
        assert moment(lost["ready_at"]) == moment(before)
        assert row(store, "known")["status"] == "STARTED"
        assert row(store, "ended")["status"] == "SUCCESS"

    def test_nothing_is_left_of_what_the_run_has_shown_of_itself(self, store: Store, worker: TestWorker) -> None:
        job_id = enqueued(store)
        job = worker.claim_one()
        worker.session.report([Progress(job_id, job.lease, "PACKING", "1")])
        assert worker.session.hand_back(worker.id, {}) == 1
        stored = row(store, job_id)
        assert stored["state"] is stored["meta"] is None

    def test_it_keeps_its_eta(self, store: Store, worker: TestWorker) -> None:
        """Which is its place among those that wait, and where the clock was put back meanwhile is still to come."""
        now = datetime.now(UTC).replace(microsecond=0)
        job_id = enqueued(store, eta=now + timedelta(hours=1))
        worker.claim_one(now=now + timedelta(hours=2))
        assert worker.session.hand_back(worker.id, {}) == 1
        assert moment(row(store, job_id)["ready_at"]) == now + timedelta(hours=1)

    def test_other_workers_jobs_are_theirs(self, store: Store, worker: TestWorker, new_worker: NewWorker) -> None:
        other = new_worker()
        enqueued(store)
        other.claim_one()
        assert worker.session.hand_back(worker.id, {}) == 0


class TestReading:
    def test_recorded(self, store: Store, worker: TestWorker) -> None:
        enqueued(store, "waiting", queue="q")
        for job_id in ("running", "done"):
            enqueued(store, job_id)
        jobs = {job.id: job for job in worker.claim()}
        worker.settle(Failed("done", jobs["done"].lease, "{}", None, 0.0))
        recorded = worker.session.recorded(["waiting", "running", "done", "absent"])
        assert recorded == {
            "waiting": ("PENDING", None),
            "running": ("STARTED", jobs["running"].lease),
            "done": ("FAILURE", jobs["done"].lease),
        }
        assert worker.session.recorded([]) == {}

    def test_fetch_and_finished(self, store: Store, worker: TestWorker) -> None:
        enqueued(store, "done")
        worker.settle(Succeeded("done", worker.claim_one().lease, "1", 0.0))
        enqueued(store, "waiting")
        assert sorted(store.fetch(["waiting", "done", "absent", "done"])) == ["done", "waiting"]
        assert sorted(store.finished(["waiting", "done", "absent"])) == ["done"]
        assert [sorted(store.finished([each])) for each in ("waiting", "done", "absent")] == [[], ["done"], []]
        assert store.fetch([]) == {}
        assert store.finished([]) == {}

    def test_forget(self, store: Store, worker: TestWorker) -> None:
        enqueued(store, "a")
        assert not store.forget("a")
        job = worker.claim_one()
        assert not store.forget("a")
        worker.settle(Succeeded("a", job.lease, "1", 0.0))
        assert store.forget("a")
        assert not store.forget("a")
        assert count(store) == 0
        enqueued(store, "a", args="[9]")  # the id is free again

    def test_prune_takes_what_ended_long_ago(self, store: Store, worker: TestWorker) -> None:
        now = datetime(2040, 1, 2, tzinfo=UTC)
        store.enqueue([new_job(f"{n}") for n in range(6)])
        enqueued(store, "waiting", queue="q")
        jobs = {job.id: job for job in worker.claim()}
        for n in range(5):
            outcome = Succeeded(f"{n}", jobs[f"{n}"].lease, "1", 0.0)
            worker.settle(outcome, now=now - timedelta(hours=n))
        prune = worker.session.prune
        assert prune(older_than_seconds=1.5 * 3600, limit=1, now=now) == 1
        assert prune(older_than_seconds=1.5 * 3600, limit=10, now=now) == 2
        assert prune(older_than_seconds=1.5 * 3600, limit=10, now=now) == 0
        assert sorted(store.fetch([*map(str, range(6)), "waiting"])) == ["0", "1", "5", "waiting"]

    def test_prune_goes_through_a_large_table_in_parts(
        self, store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dbqueue.store.postgres.pruning.PAGES_AT_ONCE", 2)
        store.enqueue([new_job(args=f'["{"x" * 500}"]') for _ in range(100)])  # on some ten pages
        kept = {job.id for job in worker.claim(50)}
        worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in worker.claim(50)))
        prune, now = worker.session.prune, datetime.now(UTC) + timedelta(hours=1)
        deleted, calls = prune(older_than_seconds=60, limit=30, now=now), 1
        while worker.session.is_pruning or deleted < 50:
            deleted += prune(older_than_seconds=60, limit=30, now=now)
            calls += 1
        assert (deleted, count(store)) == (50, 50)
        assert set(store.fetch(list(kept))) == kept
        assert calls > 3 or store.dialect == "sqlite"
        assert prune(older_than_seconds=60, limit=30, now=now) == 0

    def test_prune_leaves_no_page_before_all_of_it_is_gone(
        self, store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As upkeep asks: until it has deleted less than it may, and there is no more to look at."""
        monkeypatch.setattr("dbqueue.store.postgres.pruning.PAGES_AT_ONCE", 2)
        store.enqueue([new_job(args=f'["{"x" * 500}"]') for _ in range(50)])
        worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in worker.claim(50)))
        store.enqueue([new_job(args=f'["{"x" * 500}"]') for _ in range(100)])  # on the last pages
        prune, now = worker.session.prune, datetime.now(UTC) + timedelta(hours=1)
        deleted = rows = prune(older_than_seconds=60, limit=5, now=now)
        while rows == 5 or worker.session.is_pruning:
            deleted += (rows := prune(older_than_seconds=60, limit=5, now=now))
        assert deleted == 50


class TestKeepingSoMany:
    """`result_max_kept`: of more finished jobs the oldest go."""

    NOW = datetime(2040, 1, 2, tzinfo=UTC)

    def ended(self, store: Store, worker: TestWorker, jobs: int, *, args: str = "[]") -> list[str]:
        """Jobs that ended one after another; the last ones of each ten in the same instant. Oldest first."""
        names = [f"{n:04}" for n in range(jobs)]
        store.enqueue([new_job(name, args=args) for name in reversed(names)])
        claimed = {job.id: job for job in worker.claim(jobs)}
        for first in range(0, jobs, 10):
            for name in names[first : first + 10]:
                outcome = Succeeded(name, claimed[name].lease, "1", 0.0)
                worker.settle(outcome, now=self.NOW + timedelta(seconds=first + min(5, int(name) % 10)))
        return names

    def prune(self, worker: TestWorker, keep: int, *, limit: int = 30, age: float | None = None) -> int:
        """All that is to be deleted, in portions; how many were."""
        session, now = worker.session, self.NOW + timedelta(days=1)
        deleted = session.prune(older_than_seconds=age, keep=keep, limit=limit, now=now)
        while session.is_pruning:
            count = session.prune(older_than_seconds=age, keep=keep, limit=limit, now=now)
            assert count <= limit
            deleted += count
        return deleted

    def test_the_newest_stay(self, store: Store, worker: TestWorker) -> None:
        names = self.ended(store, worker, 50)
        enqueued(store, "waiting")
        assert self.prune(worker, 60) == 0
        assert self.prune(worker, 50) == 0
        assert self.prune(worker, 22) == 28  # two of those of one instant
        assert sorted(store.fetch([*names, "waiting"])) == [*names[-22:], "waiting"]
        assert self.prune(worker, 22) == 0
        assert self.prune(worker, 1) == 21
        assert sorted(store.fetch(names)) == names[-1:]

    def test_age_and_number_together(self, store: Store, worker: TestWorker) -> None:
        names = self.ended(store, worker, 40)
        age = timedelta(days=1) - timedelta(seconds=20)  # the first twenty are older
        assert self.prune(worker, 100, age=age.total_seconds()) == 20
        assert self.prune(worker, 15, age=age.total_seconds()) == 5
        assert sorted(store.fetch(names)) == names[-15:]

    def test_a_large_table_is_counted_in_parts_by_some_of_its_rows(
        self, store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dbqueue.store.postgres.pruning.PAGES_AT_ONCE", 2)
        monkeypatch.setattr("dbqueue.store.postgres.pruning.COUNTED_AT_ONCE", 2)
        monkeypatch.setattr("dbqueue.store.sqlite.pruning.ROWS_AT_ONCE", 30)
        monkeypatch.setattr("dbqueue.store.kept.MARKS", 1)
        monkeypatch.setattr("dbqueue.store.kept.FEWEST_MARKS", 8)  # for 30 or so rows: each fourth one
        names = self.ended(store, worker, 300, args=f'["{"x" * 500}"]')
        kept = 300 - self.prune(worker, 100)
        assert 90 <= kept <= 100
        assert sorted(store.fetch(names)) == names[-kept:]

    def test_an_empty_table(self, store: Store, worker: TestWorker) -> None:
        assert self.prune(worker, 1) == 0
        assert not worker.session.is_pruning


def test_marks_that_stand_for_more_than_may_be_kept() -> None:
    """Nothing that may be kept is deleted: a second count, of fewer rows, tells more."""
    marks = Marks(10_000)
    marks.add([(n, str(n), n, 1000) for n in (*range(11, 1000, 11), 1000)])  # the last one for ten
    assert marks.newest_surplus(5) == (990, "990")
    assert marks.newest_surplus(30) == (979, "979")
    assert marks.newest_surplus(1000) is None
    assert Marks(1).newest_surplus(1) is None


def test_a_dead_process_is_seen_before_its_heartbeat_grows_old(sqlite_url: str) -> None:
    """On SQLite, where the kernel tells: it has let go of the lock of a worker that is gone, however it went."""
    old_lock_file(sqlite_url)
    with opened(sqlite_url) as store, opened(sqlite_url) as its_own:
        assert isinstance(its_own, SqliteStore)
        rescuer, dead = TestWorker(store, lease_seconds=3600), TestWorker(its_own, lease_seconds=3600)
        if its_own.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        job_id = enqueued(store)
        dead.claim_one()
        assert rescuer.session.rescue(max_losses=3) == []
        os.close(its_own.worker_locks._descriptor)  # as the kernel does when a process ends
        its_own.worker_locks._descriptor = None
        with opened(sqlite_url) as other:  # whoever looks leaves the lock to the next
            assert all(each.worker_is_gone(dead.id) for each in (store, other, store))
        assert {each.id: each.alive for each in open_workers(store)} == {rescuer.id: True, dead.id: False}
        assert [(each.worker_id, each.requeued) for each in rescuer.session.rescue(max_losses=3)] == [(dead.id, 1)]
        assert row(store, job_id)["losses"] == 1
        dead.close()
        rescuer.close()


def test_a_dead_process_is_seen_beside_many_that_live(sqlite_url: str) -> None:
    """No other worker's lock is taken for its own."""
    old_lock_file(sqlite_url)
    with opened(sqlite_url) as store, opened(sqlite_url) as other:
        assert isinstance(store, SqliteStore) and isinstance(other, SqliteStore)  # noqa: PT018
        if store.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        living, dead = ([f"{kind} {number}" for number in range(500)] for kind in ("living", "dead"))
        for worker_id in living:
            store.worker_locks.hold(worker_id)
        assert all(map(other.worker_is_gone, dead))
        assert not any(map(other.worker_is_gone, living))
        for worker_id in living:
            store.worker_locks.drop(worker_id)


def lock_file(sqlite_url: str) -> Path:
    return Path(f"{sa.make_url(sqlite_url).database}-workers")


def old_lock_file(sqlite_url: str) -> None:
    """By one that is new nobody is dead."""
    lock_file(sqlite_url).touch()
    os.utime(lock_file(sqlite_url), (0, 0))


def test_who_lives_is_not_dead_by_a_new_lock_file(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who live hold their locks in it with their next look, and until then it tells of no death."""
    steady = time.monotonic()
    monkeypatch.setattr(sqlite_liveness, "monotonic", lambda: steady)
    old_lock_file(sqlite_url)
    with opened(sqlite_url) as first, opened(sqlite_url) as second:
        assert isinstance(first, SqliteStore) and isinstance(second, SqliteStore)  # noqa: PT018
        if first.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        first.worker_locks.hold("first")
        second.worker_locks.hold("second")
        assert first.worker_locks.released("nobody")
        lock_file(sqlite_url).unlink()
        assert not first.worker_locks.released("second")
        with opened(sqlite_url) as third:
            assert isinstance(third, SqliteStore)
            assert not third.worker_locks.released("second")
            assert not second.worker_locks.released("first")
            steady += sqlite_liveness.SETTLE_SECONDS
            assert not third.worker_locks.released("first")
            assert not third.worker_locks.released("second")
            assert third.worker_locks.released("nobody")
        assert not first.worker_locks.released("second")
        assert not second.worker_locks.released("first")
        assert first.worker_locks.released("nobody")
        lock_file(sqlite_url).unlink()
        with opened(sqlite_url) as third:  # which makes it
            assert isinstance(third, SqliteStore)
            assert not third.worker_locks.released("second")
        assert not first.worker_locks.released("second")
        assert not second.worker_locks.released("first")
        steady += sqlite_liveness.SETTLE_SECONDS
        assert not second.worker_locks.released("first")
        first.worker_locks.drop("first")
        assert second.worker_locks.released("first")
        second.worker_locks.drop("second")


def test_a_lock_file_of_the_future_settles_as_soon_as_one_that_is_new(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine's clock may have been put back since it was made."""
    steady = time.monotonic()
    monkeypatch.setattr(sqlite_liveness, "monotonic", lambda: steady)
    old_lock_file(sqlite_url)
    os.utime(lock_file(sqlite_url), (time.time() + 3600, time.time() + 3600))
    with opened(sqlite_url) as store:
        assert isinstance(store, SqliteStore)
        if store.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        assert not store.worker_locks.released("nobody")
        steady += sqlite_liveness.SETTLE_SECONDS
        assert store.worker_locks.released("nobody")


def test_a_lock_file_is_for_the_workers_of_other_users_too(sqlite_url: str) -> None:
    """As far as the mask of who makes it lets it be, as the database's own file."""
    before = os.umask(0)
    try:
        with opened(sqlite_url) as store:
            assert isinstance(store, SqliteStore)
            if store.worker_locks._descriptor is None:
                pytest.skip("this system has no locks of open files")
            assert lock_file(sqlite_url).stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(before)


def test_a_lock_file_whose_folder_is_gone_ends_no_worker(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    locks = sqlite_liveness.WorkerLocks(tmp_path / "folder" / "jobs.db")
    locks.hold("one")
    shutil.rmtree(tmp_path / "folder")
    locks.hold("two")
    assert not locks.released("one")
    for worker_id in ("one", "two"):
        locks.drop(worker_id)
    locks.close()
    assert locks.closed


def test_a_worker_that_starts_holds_its_lock_where_others_look_for_it(sqlite_url: str) -> None:
    """The lock file that was there when its program opened the database may have been replaced long ago."""
    old_lock_file(sqlite_url)
    with opened(sqlite_url) as its_own:
        assert isinstance(its_own, SqliteStore)
        if its_own.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        lock_file(sqlite_url).unlink()
        old_lock_file(sqlite_url)
        with opened(sqlite_url) as store:
            rescuer, worker = TestWorker(store), TestWorker(its_own)
            assert rescuer.session.rescue(max_losses=3) == []
            for each in (worker, rescuer):
                each.close()


def test_a_lock_file_that_was_deleted(sqlite_url: str) -> None:
    """Who makes it anew finds none of the locks in it: those who live have put them there with their next look."""
    with opened(sqlite_url) as first, opened(sqlite_url) as second:
        assert isinstance(first, SqliteStore)
        if first.worker_locks._descriptor is None:
            pytest.skip("this system has no locks of open files")
        lives = TestWorker(first)
        enqueued(first)
        job = lives.claim_one()
        first.worker_locks._path.unlink()
        descriptors = len(os.listdir("/proc/self/fd"))
        assert lives.session.rescue(max_losses=10) == []
        assert len(os.listdir("/proc/self/fd")) == descriptors
        other = TestWorker(second)
        assert other.session.rescue(max_losses=10) == []
        assert lives.settle(Succeeded(job.id, job.lease, "1", 0.0)).settled == {job.id}
        lives.close()
        other.close()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_a_store_that_is_closed_has_living_workers_still(sqlite_url: str) -> None:
    """Its lock on the file beside the database is theirs, too: to let it go would be their death to others."""
    old_lock_file(sqlite_url)
    with opened(sqlite_url) as store, opened(sqlite_url) as its_own:
        rescuer, worker = TestWorker(store, lease_seconds=3600), TestWorker(its_own, lease_seconds=3600)
        job_id = enqueued(store)
        worker.claim_one()
        its_own.close()
        assert rescuer.session.rescue(max_losses=3) == []
        assert row(store, job_id)["status"] == "STARTED"
        worker.session.close_worker(worker.id)
        its_own.close()
        assert "worker_locks" not in vars(its_own)  # nobody's life hangs on the open file any more
        for each in (rescuer, worker):
            each.close()


@pytest.mark.parametrize("lease", ["1e20", "-1e20", "'infinity'", "'-infinity'", "'NaN'"])
def test_a_lease_of_any_length(postgres_url: str, lease: str) -> None:
    """Of a row that somebody else has written: the others are looked at all the same."""
    with opened(postgres_url) as store, ExitStack() as stack:
        dead, hostile, rescuer = (stack.enter_context(closing(TestWorker(store))) for _ in range(3))
        job_id = enqueued(store)
        dead.claim()
        run_sql(store, "UPDATE dbqueue_workers SET heartbeat_at = now() - interval '1 day' WHERE id = :id", id=dead.id)
        run_sql(store, f"UPDATE dbqueue_workers SET lease_seconds = {lease} WHERE id = :id", id=hostile.id)
        assert dead.id in [each.worker_id for each in rescuer.session.rescue(max_losses=3)]
        assert rescuer.session.eldest_worker() in (hostile.id, rescuer.id)
        assert row(store, job_id)["status"] == "PENDING"


def test_losses_that_cannot_be_counted_any_more(store: Store, new_worker: NewWorker, rescuer: TestWorker) -> None:
    job_id, dead = enqueued(store), new_worker()
    run_sql(store, f"UPDATE dbqueue_jobs SET losses = {2**31 - 1}")
    dead.claim()
    run_sql(store, "UPDATE dbqueue_workers SET lease_seconds = 1 WHERE id = :id", id=dead.id)
    assert rescuer.session.rescue(max_losses=3, now=later())
    assert row(store, job_id)["status"] == "FAILURE"
