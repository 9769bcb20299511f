"""Jobs of workers whose row is gone, and jobs of which their worker does not know."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from dbqueue.jobs import Progress, Released, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.records import WorkerInfo
from tests.contract.heartbeats import date_heartbeat, later
from tests.stores import TestWorker, enqueued, moment, new_job, row, run_sql

NewWorker = Callable[..., TestWorker]


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
        monkeypatch.setattr("dbqueue.store.postgres.looks.PAGES_AT_ONCE", 2)
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
        monkeypatch.setattr("dbqueue.store.postgres.looks.PAGES_AT_ONCE", 1)
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
