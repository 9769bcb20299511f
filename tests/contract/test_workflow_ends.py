"""What waits for an end of any kind, and ends other than the task's own: losses, revokes, deletions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from dbqueue.errors import DuplicateTaskId
from dbqueue.store import changes
from dbqueue.store.base import Store
from dbqueue.store.revoking import revoke
from dbqueue.workflows import ERRBACK, FIRST_ARGUMENT, Edge, Workflow
from tests.contract.workflows import chain, chord, claimed_ids, done, edges, error_of, failed, statuses
from tests.stores import TestWorker, count, new_job, row, run_sql

NewWorker = Callable[..., TestWorker]


class TestEnds:
    @pytest.mark.parametrize("fails", [(), ("a",), ("a", "b")])
    def test_a_job_that_waits_for_ends_runs_after_all_of_them(
        self, store: Store, worker: TestWorker, fails: tuple[str, ...]
    ) -> None:
        jobs = [new_job(name) for name in ("a", "b", "after-b", "end")]
        edges_ = [Edge("b", "after-b"), *(Edge(name, "end", "end") for name in ("a", "b", "after-b"))]
        store.enqueue_workflow(Workflow.of(jobs, edges_))
        released = False
        for _ in range(3):
            for job in worker.claim():
                assert row(store, "end")["blocked_reason"] == "predecessors"
                released = worker.settle(failed(job) if job.id in fails else done(job)).released
            if row(store, "end")["blocked_reason"] is None:
                break
        assert released
        (last,) = worker.claim()
        assert (last.id, last.inputs) == ("end", False)
        assert row(store, "end")["waits_for"] == 0


class TestOtherEnds:
    """Whatever ends a job sees to what waits for it."""

    def chord_with_errback(self, store: Store) -> None:
        edges_ = [*chord(["a", "b"], "body").edges, Edge("a", "e", "error", ERRBACK)]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "body", "e")], edges_))

    def test_revoke_of_a_waiting_job(self, store: Store, worker: TestWorker) -> None:
        self.chord_with_errback(store)
        assert revoke(store, ["a"]).ended == {"a": "shop.pack"}
        assert statuses(store, "a", "b", "body", "e") == ["REVOKED", "PENDING", "FAILURE", "PENDING"]
        assert error_of(store, "body")[1] == ["Dependency a raised TaskRevokedError('revoked')"]
        assert claimed_ids(worker) == ["b", "e"]

    def test_revoke_of_a_blocked_job(self, store: Store) -> None:
        store.enqueue_workflow(chain("a", "b", "c"))
        revoke(store, ["b"])
        assert statuses(store, "a", "b", "c") == ["PENDING", "REVOKED", "REVOKED"]

    @pytest.mark.parametrize("succeeds", [True, False])
    def test_the_errback_of_what_was_revoked_is_told_though_all_before_it_is_dropped(
        self, store: Store, worker: TestWorker, succeeds: bool
    ) -> None:
        """With an errback goes what waits for it, and nothing else that is below it."""
        links = [
            Edge("x", "a"),
            Edge("a", "e", "error", ERRBACK),
            Edge("e", "after", place=FIRST_ARGUMENT),
            Edge("after", "told", "error", ERRBACK),
        ]
        names = ("x", "a", "e", "after", "told")
        store.enqueue_workflow(Workflow.of([new_job(name) for name in names], links))
        job = worker.claim_one()
        if succeeds:
            worker.settle(done(job))
            job = worker.claim_one()
        revoke(store, ["after"])
        worker.settle(done(job) if succeeds else failed(job))
        assert sorted(store.fetch(names)) == ["a", "after", "told", "x"]
        told = worker.claim_one().inputs
        assert isinstance(told, tuple)
        assert [predecessor for predecessor, *_ in told] == ["after"]

    def test_what_waits_for_the_end_of_others_stays_though_an_errback_above_it_is_dropped(
        self, store: Store, worker: TestWorker
    ) -> None:
        links = [Edge("a", "e", "error"), Edge("e", "off"), Edge("off", "end", "end"), Edge("b", "end", "end")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e", "off", "end")], links))
        revoke(store, ["off"])
        first, second = sorted(worker.claim(), key=lambda job: job.id)
        worker.settle(done(first))
        assert sorted(store.fetch(["e", "off", "end"])) == ["end", "off"]
        worker.settle(done(second))
        assert claimed_ids(worker) == ["end"]

    def test_revoke_before_it_was_enqueued(self, store: Store) -> None:
        revoke(store, ["b"])
        store.enqueue_workflow(chain("a", "b", "c"))
        assert statuses(store, "a", "b", "c") == ["PENDING", "REVOKED", "REVOKED"]

    def test_revoke_of_the_first_job_before_it_was_enqueued(self, store: Store, worker: TestWorker) -> None:
        revoke(store, ["a"])
        for _ in range(2):  # the caller did not hear the answer
            self.chord_with_errback(store)
            assert statuses(store, "a", "b", "body", "e") == ["REVOKED", "PENDING", "FAILURE", "PENDING"]
        assert len({row(store, job_id)["workflow_id"] for job_id in ("a", "b", "body", "e")} - {None}) == 1
        assert claimed_ids(worker) == ["b", "e"]

    def test_revoke_of_all_that_wait_for_nothing_before_they_were_enqueued(self, store: Store) -> None:
        revoke(store, ["a", "b"])
        self.chord_with_errback(store)
        assert statuses(store, "a", "b", "body", "e") == ["REVOKED", "REVOKED", "FAILURE", "PENDING"]
        revoke(store, ["x", "y"])
        store.enqueue_workflow(chain("x", "y"))
        assert statuses(store, "x", "y") == ["REVOKED", "REVOKED"]

    def test_the_first_job_was_revoked_and_another_id_is_in_use(self, store: Store) -> None:
        revoke(store, ["a"])
        store.enqueue([new_job("b", args="[1]")])
        with pytest.raises(DuplicateTaskId):
            store.enqueue_workflow(chain("a", "b", "c"))
        assert (count(store), edges(store), row(store, "a")["workflow_id"]) == (2, 0, None)

    def test_what_was_revoked_before_it_was_enqueued_is_deleted_with_its_workflow(
        self, store: Store, worker: TestWorker
    ) -> None:
        revoke(store, ["b"])
        store.enqueue_workflow(chain("a", "b", "c"))
        later = datetime.now(UTC) + timedelta(seconds=60)
        worker.session.prune(older_than_seconds=0, limit=100, now=later)
        assert statuses(store, "a", "b", "c") == ["PENDING", "REVOKED", "REVOKED"]
        worker.settle(done(worker.claim_one()))
        worker.session.prune(older_than_seconds=0, limit=100, now=later)
        assert (count(store), edges(store)) == (0, 0)

    def test_what_was_revoked_before_it_was_enqueued_is_forgotten_with_its_edges(self, store: Store) -> None:
        revoke(store, ["b"])
        store.enqueue_workflow(chain("a", "b", "c"))
        assert store.forget("b")
        assert edges(store) == 1

    def test_what_was_revoked_before_it_was_enqueued_stays_until_its_errback_was_told(
        self, store: Store, worker: TestWorker
    ) -> None:
        revoke(store, ["a"])
        store.enqueue_workflow(Workflow.of([new_job("a"), new_job("e")], [Edge("a", "e", "error", ERRBACK)]))
        assert not store.forget("a")
        told = worker.claim_one().inputs
        assert isinstance(told, tuple)
        assert [predecessor for predecessor, *_ in told] == ["a"]

    def test_what_was_revoked_before_it_was_enqueued_is_of_the_first_workflow_that_names_it(self, store: Store) -> None:
        revoke(store, ["x"])
        store.enqueue_workflow(chain("a", "x"))
        store.enqueue_workflow(chain("b", "x"))
        assert row(store, "x")["workflow_id"] == row(store, "a")["workflow_id"]

    def test_cancel(self, store: Store) -> None:
        self.chord_with_errback(store)
        assert changes.cancel(store, ["a"]) == {"a"}
        assert statuses(store, "a", "body", "e") == ["REVOKED", "FAILURE", "PENDING"]

    def test_a_job_that_was_lost_too_often(self, store: Store, new_worker: NewWorker) -> None:
        dead, rescuer = new_worker(lease_seconds=5), new_worker(lease_seconds=3600)
        self.chord_with_errback(store)
        assert {job.id for job in dead.claim(limit=1)} == {"a"}
        rescuer.session.rescue(max_losses=0, now=datetime.now(UTC) + timedelta(seconds=60))
        assert statuses(store, "a", "b", "body") == ["FAILURE", "PENDING", "FAILURE"]
        assert error_of(store, "body")[1][0].startswith("Dependency a raised WorkerLostError(")

    def test_a_job_that_is_lost_and_runs_again_ends_nothing(self, store: Store, new_worker: NewWorker) -> None:
        dead, rescuer = new_worker(lease_seconds=5), new_worker(lease_seconds=3600)
        self.chord_with_errback(store)
        assert len(dead.claim(limit=1)) == 1
        rescuer.session.rescue(max_losses=3, now=datetime.now(UTC) + timedelta(seconds=60))
        assert statuses(store, "a", "b", "body", "e") == ["PENDING"] * 4
        assert row(store, "body")["waits_for"] == 2

    def test_purge_deletes_what_waits_in_its_queue_and_revokes_what_hangs_below(self, store: Store) -> None:
        jobs = [new_job("a"), new_job("b"), new_job("c", queue="other"), new_job("e", queue="other"), new_job("plain")]
        edges_ = [Edge("a", "b"), Edge("b", "c"), Edge("b", "e", "error", ERRBACK)]
        store.enqueue_workflow(Workflow.of(jobs, edges_))
        assert changes.purge(store, queues=["celery"]) == 3
        assert statuses(store, "c") == ["REVOKED"]
        assert (count(store), edges(store)) == (1, 0)

    def test_a_result_that_is_still_to_be_read_is_not_forgotten(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        first, second = worker.claim()
        worker.settle(done(first))
        assert not store.forget("a")
        assert changes.delete(store, ["a"]) == set()
        worker.settle(done(second))
        worker.settle(done(worker.claim_one()))
        assert store.forget("a")
        assert changes.delete(store, ["b", "body"]) == {"b", "body"}
        assert (count(store), edges(store)) == (0, 0)

    def test_a_failure_that_is_still_to_be_told_is_not_forgotten(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(Workflow.of([new_job("a"), new_job("e")], [Edge("a", "e", "error", ERRBACK)]))
        worker.settle(failed(worker.claim_one()))
        assert not store.forget("a")
        worker.settle(done(worker.claim_one()))
        assert store.forget("a")
        assert changes.retry(store, ["e"]) == set()
        assert store.forget("e")
        assert edges(store) == 0

    def test_a_success_is_not_kept_for_an_errback_that_waits_for_another_failure(
        self, store: Store, worker: TestWorker
    ) -> None:
        links = [Edge(name, "e", "error", ERRBACK) for name in ("a", "b")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e")], links))
        first, _ = worker.claim()
        worker.settle(done(first))
        assert store.forget("a")

    def test_an_edge_that_passed_nothing_goes_with_its_first_row(self, store: Store, worker: TestWorker) -> None:
        """Whatever its other row takes of others: a later job of that id is none of its own."""
        headers = [Edge("a", "body", place="[0]"), Edge("b", "body")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "body")], headers))
        worker.settle(*map(done, worker.claim()))
        worker.settle(done(worker.claim_one()))
        assert store.forget("b")
        assert edges(store) == 1

    def test_edges_go_with_the_last_of_their_rows(self, store: Store, worker: TestWorker) -> None:
        """Also where somebody else has deleted the first."""
        for gone, forgotten in (("a", "b"), ("b", "a")):
            store.enqueue_workflow(chain("a", "b"))
            for _ in range(2):
                worker.settle(done(worker.claim_one()))
            run_sql(store, "DELETE FROM dbqueue_jobs WHERE id = :id", id=gone)
            assert store.forget(forgotten)
            assert (count(store), edges(store)) == (0, 0)

    def test_an_edge_goes_with_a_row_that_an_eager_call_has_replaced(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        for _ in range(2):
            worker.settle(done(worker.claim_one()))
        assert store.forget("a")
        job = new_job("b")
        changes.record(store, job, status="SUCCESS", result="1", traceback=None, retries=0, worker="eager")
        assert edges(store) == 0
