"""Workflows are pruned as wholes."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dbqueue.store import changes
from dbqueue.store.base import Store
from dbqueue.store.trouble import ROUND_LOCK_SECONDS
from tests.contract.workflows import chain, claimed_ids, done, edges
from tests.stores import TestWorker, count, new_job, opened, run_sql


class TestPrune:
    def prune(self, worker: TestWorker, hours: float, limit: int = 100) -> int:
        now = datetime.now(UTC) + timedelta(hours=hours)
        return worker.session.prune(older_than_seconds=3600, limit=limit, now=now)

    def test_whole_workflows_go(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        store.enqueue_workflow(chain("c", "d", place=None))
        store.enqueue([new_job("plain")])
        worker.settle(*map(done, worker.claim()))  # the first of each, and the plain one
        assert self.prune(worker, 2) == 1
        worker.settle(done(worker.claim(limit=1)[0]))
        assert self.prune(worker, 2) == 2
        assert count(store) == 2
        worker.settle(done(worker.claim_one()))
        assert self.prune(worker, 0.5) == 0
        assert self.prune(worker, 2) == 2
        assert (count(store), edges(store)) == (0, 0)

    @pytest.mark.parametrize(("limit", "portions"), [(5, [6, 6, 6, 2, 0]), (4, [4, 4, 4, 4, 4, 0])])
    def test_in_portions(self, store: Store, worker: TestWorker, limit: int, portions: list[int]) -> None:
        for n in range(10):
            store.enqueue_workflow(chain(f"a{n}", f"b{n}"))
        worker.settle(*map(done, worker.claim()))
        worker.settle(*map(done, worker.claim()))
        assert [self.prune(worker, 2, limit=limit) for _ in portions] == portions
        assert edges(store) == 0

    def test_other_jobs_count_in_a_portion(self, store: Store, worker: TestWorker) -> None:
        for n in range(3):
            store.enqueue_workflow(chain(f"a{n}", f"b{n}"))
        store.enqueue([new_job() for _ in range(3)])
        for _ in range(2):
            worker.settle(*map(done, worker.claim()))
        assert [self.prune(worker, 2, limit=4) for _ in range(3)] == [5, 4, 0]

    def test_wherever_in_a_large_table_it_was_seen(
        self, store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dbqueue.store.postgres.pruning.PAGES_AT_ONCE", 1)
        store.enqueue_workflow(chain("a", "b"))
        for _ in range(2):
            worker.settle(*map(done, worker.claim()))
        store.enqueue([new_job(args=f'["{"x" * 400}"]') for _ in range(60)])  # on the pages behind it
        deleted = self.prune(worker, 2)
        while worker.session.is_pruning:
            deleted += self.prune(worker, 2)
        assert deleted == 2
        assert count(store) == 60

    def test_one_that_is_to_run_again_meanwhile_stays(self, store: Store, worker: TestWorker) -> None:
        for ids in (("a", "b"), ("c", "d")):
            store.enqueue_workflow(chain(*ids))
        for _ in range(2):
            worker.settle(*map(done, worker.claim()))
        assert self.prune(worker, 2, limit=1) == 2  # the other is known to have expired, too
        (last,) = changes.retry(store, ["b", "d"])
        assert self.prune(worker, 2) == 0
        assert claimed_ids(worker) == [last]
        assert count(store) == 2

    def test_names_that_are_bytes(self, sqlite_url: str) -> None:
        """SQLite keeps these in any column: such a workflow is none, and keeps no other from going."""
        with opened(sqlite_url) as store, contextlib.closing(TestWorker(store)) as worker:
            for ids in (("a", "b"), ("c", "d")):
                store.enqueue_workflow(chain(*ids))
            for _ in range(2):
                worker.settle(*map(done, worker.claim()))
            run_sql(store, "UPDATE dbqueue_jobs SET workflow_id = CAST(workflow_id AS BLOB) WHERE id IN ('a', 'b')")
            run_sql(store, "UPDATE dbqueue_jobs SET id = CAST(id AS BLOB) WHERE id = 'd'")
            assert self.prune(worker, 2) == 2
            assert count(store, "id IN ('a', 'b')") == count(store) == 2

    def test_by_number_whole_workflows_go(self, store: Store, worker: TestWorker) -> None:
        """One that has a job among those that are kept, or one that has not ended, stays whole."""
        now = datetime.now(UTC) - timedelta(minutes=1)
        for n in range(3):
            store.enqueue_workflow(chain(f"a{n}", f"b{n}"))
        first = {job.id: job for job in worker.claim()}
        for n in range(3):
            worker.settle(done(first[f"a{n}"]), now=now + timedelta(seconds=n))
        second = {job.id: job for job in worker.claim()}
        worker.settle(done(second["b0"]), now=now + timedelta(seconds=3))
        worker.settle(done(second["b1"]), now=now + timedelta(seconds=4))

        def prune(keep: int) -> int:
            count = worker.session.prune(older_than_seconds=None, keep=keep, limit=100)
            while worker.session.is_pruning:
                count += worker.session.prune(older_than_seconds=None, keep=keep, limit=100)
            return count

        assert prune(2) == 0  # b0 and b1 are the newest; a2 runs on
        assert prune(1) == 2
        assert sorted(store.fetch(["a0", "b0", "a1", "b1", "a2", "b2"])) == ["a1", "a2", "b1", "b2"]
        assert edges(store) == 2

    def test_what_somebody_has_locked_is_not_waited_for_long(
        self, postgres_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The rounds wait behind it. For the table itself it waits longer, and would read it again in vain."""
        waits: list[object] = []
        with opened(postgres_url) as store, contextlib.closing(TestWorker(store)) as worker:
            session: Any = worker.session
            perform = session._perform

            def noted(steps: Any) -> Any:
                waits.append(session._driver.execute("SHOW lock_timeout").fetchone()[0])
                return perform(steps)

            store.enqueue_workflow(chain("a", "b"))
            for _ in range(2):
                worker.settle(*map(done, worker.claim()))
            monkeypatch.setattr(session, "_perform", noted)
            assert self.prune(worker, 2) == 2
        assert waits == [f"{ROUND_LOCK_SECONDS}s"]
