"""A workflow is written whole, once, or not at all."""

from __future__ import annotations

import pytest

from dbqueue.errors import DuplicateTaskId
from dbqueue.store.base import Store
from dbqueue.store.transactions.joining import enqueue_workflow_in
from dbqueue.workflows import ERRBACK, FIRST_ARGUMENT, Edge, Workflow
from tests.contract.workflows import chain, chord, claimed_ids, done, edges
from tests.stores import TestWorker, count, new_job, row, run_sql


class TestWriting:
    def test_rows_wait_for_their_predecessors(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b", "c"))
        assert {name: row(store, "b")[name] for name in ("status", "waits_for", "blocked_reason", "ready_at")} == {
            "status": "PENDING",
            "waits_for": 1,
            "blocked_reason": "predecessors",
            "ready_at": None,
        }
        assert len({row(store, job_id)["workflow_id"] for job_id in "abc"} - {None}) == 1
        assert [(job.id, job.successors, job.inputs) for job in worker.claim()] == [("a", True, False)]

    def test_without_edges_they_are_plain_jobs(self, store: Store) -> None:
        store.enqueue_workflow(Workflow((new_job("a"), new_job("b"))))
        assert row(store, "a")["workflow_id"] is None

    def test_again_changes_nothing(self, store: Store, worker: TestWorker) -> None:
        workflow = chord(["a", "b"], "c")
        store.enqueue_workflow(workflow)
        worker.settle(done(worker.claim()[0]))
        store.enqueue_workflow(workflow)
        assert (count(store), edges(store), row(store, "c")["waits_for"]) == (3, 2, 1)

    def test_what_was_dropped_since_does_not_come_back(self, store: Store, worker: TestWorker) -> None:
        links = [Edge("a", "e", "error", ERRBACK), Edge("e", "f", place=FIRST_ARGUMENT)]
        workflow = Workflow.of([new_job("a"), new_job("e"), new_job("f")], links)
        store.enqueue_workflow(workflow)
        worker.settle(done(worker.claim_one()))
        store.enqueue_workflow(workflow)
        assert (count(store), edges(store)) == (1, 0)

    @pytest.mark.parametrize("taken", ["a", "b", "c"])
    def test_an_id_of_another_job_refuses_all_of_it(self, store: Store, taken: str) -> None:
        store.enqueue([new_job(taken, task="other.task")])
        with pytest.raises(DuplicateTaskId):
            store.enqueue_workflow(chain("a", "b", "c"))
        assert (count(store), edges(store)) == (1, 0)

    def test_a_refusal_leaves_nothing_in_a_callers_transaction(self, store: Store) -> None:
        """Which goes on after it, and is committed."""
        store.enqueue([new_job("c", task="other.task")])
        with store.connect() as connection:
            with pytest.raises(DuplicateTaskId):
                enqueue_workflow_in(store, connection, chain("a", "b", "c"))
            enqueue_workflow_in(store, connection, chain("x", "y"))
        assert (count(store), edges(store)) == (3, 1)

    @pytest.mark.parametrize("place", [None, FIRST_ARGUMENT])
    def test_a_refusal_leaves_what_an_earlier_enqueue_wrote(
        self, store: Store, worker: TestWorker, place: str | None
    ) -> None:
        """Though its first job is gone; also in a transaction of the caller's, who goes on and commits."""
        workflow = chain("a", "b", "c", place=place)
        store.enqueue_workflow(workflow)
        worker.settle(done(worker.claim_one()))
        running = worker.claim_one()
        run_sql(store, "DELETE FROM dbqueue_jobs WHERE id = 'a'")
        run_sql(store, "DELETE FROM dbqueue_edges WHERE predecessor = 'a'")
        with store.connect() as connection, pytest.raises(DuplicateTaskId):
            enqueue_workflow_in(store, connection, workflow)
        assert (count(store), edges(store)) == (2, 1)
        worker.settle(done(running))
        assert claimed_ids(worker) == ["c"]

    def test_a_part_that_is_there_already_refuses_all_of_it(self, store: Store, worker: TestWorker) -> None:
        """A job that waits for what has been would wait for ever."""
        store.enqueue_workflow(chain("a", "b"))
        worker.settle(done(worker.claim_one()))
        before = (count(store), edges(store))
        for ids in (("c", "a", "d"), ("a", "c"), ("c", "b"), ("b", "c")):
            with pytest.raises(DuplicateTaskId, match="enqueued before"):
                store.enqueue_workflow(chain(*ids))
        assert (count(store), edges(store)) == before
        store.enqueue_workflow(chain("a", "b"))
        assert (count(store), edges(store)) == before

    def test_bytes_travel_too(self, store: Store, worker: TestWorker) -> None:
        workflow = chain("a", "b", content=b"\0\xff", content_type="application/x-python-serialize")
        store.enqueue_workflow(workflow)
        worker.settle(done(worker.claim_one()))
        assert worker.claim_one().content == b"\0\xff"

    def test_a_job_waits_for_one_kind_of_event(self) -> None:
        with pytest.raises(ValueError, match="one kind of event"):
            Workflow.of([new_job("a"), new_job("b")], [Edge("a", "b"), Edge("a", "b", "error")])
