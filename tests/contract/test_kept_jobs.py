"""Jobs that are kept: read, forgotten, and pruned by their age and their number."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta

import pytest

from dbqueue.jobs import Failed, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.kept import Marks
from tests.stores import TestWorker, count, enqueued, new_job, opened, run_sql


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

    def test_times_and_ids_that_are_bytes(self, sqlite_url: str) -> None:
        """SQLite keeps these in any column, and has them behind all text. They are in nobody's way."""
        with opened(sqlite_url) as store, contextlib.closing(TestWorker(store)) as worker:
            self.ended(store, worker, 10)
            run_sql(store, "UPDATE dbqueue_jobs SET finished_at = CAST(finished_at AS BLOB) WHERE id = '0002'")
            run_sql(store, "UPDATE dbqueue_jobs SET id = CAST(id AS BLOB) WHERE id = '0007'")
            assert self.prune(worker, 3) == 7
            assert count(store, "CAST(id AS TEXT) IN ('0002', '0007', '0009')") == count(store) == 3

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
