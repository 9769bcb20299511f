"""Errbacks run once, when something has failed, and are told of it."""

from __future__ import annotations

import json

import pytest

from dbqueue.jobs import Replaced, Retried
from dbqueue.store.base import Store
from dbqueue.workflows import ERRBACK, Edge, Workflow
from tests.contract.workflows import ERROR, chain, chord, claimed_ids, done, edges, failed
from tests.stores import TestWorker, count, new_job, row


class TestErrbacks:
    def test_one_that_nothing_can_reach_is_deleted_with_what_waits_for_it(
        self, store: Store, worker: TestWorker
    ) -> None:
        jobs = [new_job(job_id) for job_id in ("a", "b", "e", "after")]
        edges_ = [
            Edge("a", "b"),
            Edge("a", "e", "error", ERRBACK),
            Edge("b", "e", "error", ERRBACK),
            Edge("e", "after", place="[]"),
        ]
        store.enqueue_workflow(Workflow.of(jobs, edges_))
        worker.settle(done(worker.claim_one()))
        assert row(store, "e")["waits_for"] == 1
        worker.settle(done(worker.claim_one()))
        assert count(store) == 2
        assert edges(store) == 1
        assert worker.claim() == []


class TestErrbackCalls:
    def workflow(self) -> Workflow:
        jobs = [
            new_job("a", args="[1]", kwargs='{"k": 2}', headers='{"h": 1}'),
            new_job("b"),
            new_job("c"),
            new_job("e"),
        ]
        return Workflow.of(
            jobs,
            [
                Edge("a", "b", place="[]"),
                Edge("b", "c", place="[]"),
                *(Edge(name, "e", "error", ERRBACK) for name in "abc"),
            ],
        )

    def test_it_runs_once_and_is_told_of_the_failure(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(self.workflow())
        assert worker.settle(failed(worker.claim_one())).released
        job = worker.claim_one()
        assert (job.id, job.parent_id) == ("e", "a")
        assert isinstance(job.inputs, tuple)
        ((predecessor, place, text, content),) = job.inputs
        assert (predecessor, place, content) == ("a", ERRBACK, None)
        call = json.loads(text or "")
        assert (call["id"], call["task"], call["args"], call["kwargs"]) == ("a", "shop.pack", [1], {"k": 2})
        assert (call["error"], call["traceback"], call["headers"]) == (json.loads(ERROR), "Traceback: ...", {"h": 1})
        worker.settle(done(job))
        assert worker.claim() == []

    def test_it_is_not_told_of_what_a_failure_kept_from_running(self, store: Store, worker: TestWorker) -> None:
        jobs = [new_job(name) for name in ("a", "b", "e")]
        store.enqueue_workflow(Workflow.of(jobs, [Edge("a", "b"), Edge("b", "e", "error", ERRBACK)]))
        worker.settle(failed(worker.claim_one()))
        assert count(store) == 2
        assert edges(store) == 1

    def test_of_two_steps_the_one_that_failed_is_told_of(self, store: Store, worker: TestWorker) -> None:
        """The other can fail no more, and takes nothing away from a call that is due."""
        links = [Edge("a", "b"), Edge("a", "e", "error", ERRBACK), Edge("b", "e", "error", ERRBACK)]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e")], links))
        worker.settle(failed(worker.claim_one()))
        assert (row(store, "e")["waits_for"], row(store, "e")["parent_id"]) == (0, "a")
        assert claimed_ids(worker) == ["e"]

    def test_of_a_header_and_its_body_the_header_is_told_of(self, store: Store, worker: TestWorker) -> None:
        """The failure itself, not what it led to."""
        links = [*chord(["a", "b"], "body").edges, *(Edge(name, "e", "error", ERRBACK) for name in ("a", "body"))]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "body", "e")], links))
        worker.settle(failed(worker.claim()[0]))
        assert row(store, "e")["parent_id"] == "a"

    def test_a_bodys_errback_is_told_of_the_chord_error(self, store: Store, worker: TestWorker) -> None:
        edges_ = [*chord(["a", "b"], "body").edges, Edge("body", "e", "error", ERRBACK)]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "body", "e")], edges_))
        worker.settle(failed(worker.claim()[0]))
        job = worker.claim_one()
        assert isinstance(job.inputs, tuple)
        call = json.loads(job.inputs[0][2] or "")
        assert (call["id"], call["error"]["exc_type"], call["traceback"]) == ("body", "ChordError", "Traceback: ...")

    def test_the_errback_of_a_replaced_job_is_told(self, store: Store, worker: TestWorker) -> None:
        jobs = [new_job(name) for name in ("x", "e")]
        store.enqueue_workflow(Workflow.of(jobs, [Edge("x", "e", "error", ERRBACK)]))
        job = worker.claim_one()
        worker.settle(Replaced("x", job.lease, chain("n", "x"), 0.1))
        worker.settle(failed(worker.claim_one()))
        assert (worker.claim_one().id, row(store, "e")["parent_id"]) == ("e", "x")

    @pytest.mark.parametrize("runs", [True, False])
    def test_one_that_was_told_stays_when_another_succeeds(self, store: Store, worker: TestWorker, runs: bool) -> None:
        """While it runs, and while it waits for its next attempt."""
        links = [Edge(name, "e", "error", ERRBACK) for name in ("a", "b")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e")], links))
        first, second = sorted(worker.claim(), key=lambda job: job.id)
        worker.settle(failed(first))
        errback = worker.claim_one()
        if not runs:
            worker.settle(Retried("e", errback.lease, "{}", None, 0.0, 3600.0))
        before = row(store, "e")
        assert not worker.settle(done(second)).released
        assert row(store, "e") == before

    def test_after_all_succeeded_it_is_gone(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(self.workflow())
        for _ in range(3):
            worker.settle(done(worker.claim_one()))
        assert (count(store), edges(store)) == (3, 2)
