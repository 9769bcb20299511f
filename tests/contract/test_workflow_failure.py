"""A failure ends what can never run without it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dbqueue.jobs import Failed
from dbqueue.store.base import Store
from dbqueue.workflows import ERRBACK, Edge, Workflow
from tests.contract.workflows import ERROR, chain, chord, claimed_ids, done, error_of, failed, statuses
from tests.stores import TestWorker, count, moment, new_job, row


class TestFailure:
    def test_the_rest_of_a_chain_ends_with_the_error_itself(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b", "c"))
        worker.settle(failed(worker.claim_one()))
        assert statuses(store, "a", "b", "c") == ["FAILURE"] * 3
        record = store.finished(["c"])["c"]
        assert (record.result, record.traceback) == (ERROR, "Traceback: ...")
        assert (row(store, "c")["blocked_reason"], row(store, "c")["waits_for"]) == (None, 0)
        assert worker.claim() == []

    def test_revoked_stays_revoked_along_a_chain(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b", "c"))
        worker.settle(failed(worker.claim_one(), "REVOKED"))
        assert statuses(store, "a", "b", "c") == ["REVOKED"] * 3

    def test_a_round_that_lets_one_workflow_run_on_ends_the_other(self, store: Store, worker: TestWorker) -> None:
        for first, second in ("ab", "xy"):
            store.enqueue_workflow(chain(first, second))
        jobs = {job.id: job for job in worker.claim()}
        result = worker.settle(done(jobs["a"]), failed(jobs["x"]))
        assert result.released
        assert statuses(store, "a", "b", "x", "y") == ["SUCCESS", "PENDING", "FAILURE", "FAILURE"]
        assert claimed_ids(worker) == ["b"]

    def test_a_body_tells_which_header_failed(self, store: Store, worker: TestWorker) -> None:
        jobs = [new_job(name) for name in ("a", "b", "body", "after")]
        edges_ = [Edge("a", "body", place="[0]"), Edge("b", "body", place="[1]"), Edge("body", "after", place="[]")]
        store.enqueue_workflow(Workflow.of(jobs, edges_))
        first, second = worker.claim()
        worker.settle(failed(second))
        assert error_of(store, "body") == ("ChordError", ["Dependency b raised ValueError('bad', 3)"])
        assert error_of(store, "after") == error_of(store, "body")
        assert row(store, "a")["status"] == "STARTED"
        assert worker.settle(done(first)).settled == {"a"}
        assert statuses(store, "a", "b", "body", "after") == ["SUCCESS", "FAILURE", "FAILURE", "FAILURE"]

    def test_a_header_that_is_a_chain_fails_by_its_last_job(self, store: Store, worker: TestWorker) -> None:
        jobs = [new_job(name) for name in ("a1", "a2", "b", "body")]
        edges_ = [Edge("a1", "a2", place="[]"), Edge("a2", "body", place="[0]"), Edge("b", "body", place="[1]")]
        store.enqueue_workflow(Workflow.of(jobs, edges_))
        worker.settle(failed(worker.claim(limit=1)[0]))
        assert error_of(store, "body")[1] == ["Dependency a2 raised ValueError('bad', 3)"]

    def test_an_outer_body_tells_of_the_inner_one(self, store: Store, worker: TestWorker) -> None:
        jobs = [new_job(name) for name in ("a", "b", "c", "inner", "outer")]
        edges_ = [
            Edge("a", "inner", place="[0]"),
            Edge("b", "inner", place="[1]"),
            Edge("inner", "outer", place="[0]"),
            Edge("c", "outer", place="[1]"),
        ]
        store.enqueue_workflow(Workflow.of(jobs, edges_))
        worker.settle(failed(worker.claim()[0]))
        (text,) = error_of(store, "outer")[1]
        assert text.startswith("Dependency inner raised ChordError(")

    @pytest.mark.parametrize("body", [True, False])
    def test_one_header_that_is_not_passed(self, store: Store, worker: TestWorker, body: bool) -> None:
        options = '{"join": true}' if body else '{"join": false}'
        store.enqueue_workflow(Workflow.of([new_job("a"), new_job("b", options=options)], [Edge("a", "b")]))
        worker.settle(failed(worker.claim_one()))
        assert error_of(store, "b")[0] == ("ChordError" if body else "ValueError")

    def test_many_headers_that_fail_at_once(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord([f"h{n:02}" for n in range(20)], "body"))
        jobs = worker.claim()
        assert len(worker.settle(*map(failed, jobs[:10]), *map(done, jobs[10:])).settled) == 20
        assert error_of(store, "body")[1] == ["Dependency h00 raised ValueError('bad', 3)"]

    def test_a_lost_lease_ends_nothing(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        job = worker.claim_one()
        assert worker.settle(failed(job._replace(lease="00000000-0000-0000-0000-000000000000"))).settled == frozenset()
        assert statuses(store, "a", "b") == ["STARTED", "PENDING"]

    def test_all_that_it_moves_is_moved_at_its_own_time(self, store: Store, worker: TestWorker) -> None:
        """What can never run after it, what is told of it, and what has waited for an end of any kind."""
        links = [Edge("a", "body"), Edge("a", "errback", "error", ERRBACK), Edge("a", "last", "end")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "body", "errback", "last")], links))
        at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        worker.settle(failed(worker.claim_one()), now=at)
        assert [moment(row(store, name)["finished_at"]) for name in ("a", "body")] == [at, at]
        assert [moment(row(store, name)["ready_at"]) for name in ("errback", "last")] == [at, at]

    def test_a_strange_error_ends_it_all_the_same(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        job, _ = worker.claim()
        worker.settle(Failed(job.id, job.lease, '"odd"', None, 0.0))
        assert error_of(store, "body")[1] == ["Dependency a raised Exception()"]

    def test_odd_ids(self, store: Store, worker: TestWorker) -> None:
        name = "a\"\\ü'\n{}%s:x"
        jobs = [new_job(name), new_job(name + "e", priority=-1), new_job(name + "b")]
        store.enqueue_workflow(Workflow.of(jobs, [Edge(name, name + "e", "error", ERRBACK), Edge(name, name + "b")]))
        worker.settle(failed(worker.claim_one()))
        assert statuses(store, name, name + "b") == ["FAILURE"] * 2
        assert worker.claim_one().id == name + "e"

    def test_an_errback_that_cannot_be_reached_any_more_goes_with_all_below_it(
        self, store: Store, worker: TestWorker
    ) -> None:
        """Its job was only kept from running: that is no failure to be told of."""
        links = [*chain("a", "b").edges, Edge("b", "e", "error", ERRBACK), Edge("e", "f"), Edge("f", "g")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in "abefg"], links))
        worker.settle(failed(worker.claim_one()))
        assert (statuses(store, "a", "b"), count(store)) == (["FAILURE", "FAILURE"], 2)

    def test_an_errback_goes_when_the_last_that_it_could_be_told_of_has_succeeded(
        self, store: Store, worker: TestWorker
    ) -> None:
        links = [*chain("a", "b").edges, Edge("b", "e", "error", ERRBACK), Edge("c", "e", "error", ERRBACK)]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in "abce"], links))
        first, other = sorted(worker.claim(), key=lambda job: job.id)
        worker.settle(failed(first))
        assert (statuses(store, "a", "b", "e"), row(store, "e")["waits_for"]) == (["FAILURE", "FAILURE", "PENDING"], 1)
        worker.settle(done(other))
        assert count(store) == 3
