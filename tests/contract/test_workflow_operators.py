"""What operators do to workflows: steps that failed run again, and what waits counts anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dbqueue.jobs import ClaimedJob, Outcome, Released, Retried
from dbqueue.store import changes
from dbqueue.store.base import Store
from dbqueue.store.revoking import revoke, revoked_ids
from dbqueue.workflows import ERRBACK, Edge, Event, Workflow
from tests.contract.workflows import chain, chord, claimed_ids, done, edges, failed, statuses
from tests.stores import TestWorker, count, new_job, row, run_sql


def error_free(store: Store, *ids: str) -> bool:
    rows = [row(store, job_id) for job_id in ids]
    return all(each["result"] is None and each["traceback"] is None and each["finished_at"] is None for each in rows)


class TestOperators:
    def test_a_failed_step_and_what_hangs_below_it_wait_again(self, store: Store, worker: TestWorker) -> None:
        jobs = [new_job(name) for name in ("a", "b", "c", "body", "after")]
        edges_ = [
            Edge("a", "b", place="[]"),
            Edge("b", "body", place="[0]"),
            Edge("c", "body", place="[1]"),
            Edge("body", "after", place="[]"),
        ]
        store.enqueue_workflow(Workflow.of(jobs, edges_))
        first, third = worker.claim()
        worker.settle(done(first, "7"))
        worker.settle(failed(worker.claim_one()))
        assert statuses(store, "b", "body", "after") == ["FAILURE"] * 3
        assert changes.retry(store, ["b"]) == {"b", "body", "after"}
        assert [row(store, name)["waits_for"] for name in ("b", "body", "after")] == [0, 2, 1]
        assert error_free(store, "b", "body", "after")
        again = worker.claim_one()
        assert (again.id, again.inputs) == ("b", (("a", "[]", "7", None),))
        worker.settle(done(again, "8"), done(third, "9"))
        body = worker.claim_one()
        assert sorted(body.inputs) == [("b", "[0]", "8", None), ("c", "[1]", "9", None)]  # type: ignore[arg-type]
        worker.settle(done(body))
        assert claimed_ids(worker) == ["after"]

    def test_retry_of_what_could_not_run_begins_at_what_failed(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b", "c"))
        worker.settle(done(worker.claim_one()))
        worker.settle(failed(worker.claim_one()))
        assert changes.retry(store, ["c"]) == {"b", "c"}
        assert claimed_ids(worker) == ["b"]
        assert row(store, "c")["blocked_reason"] == "predecessors"

    def test_retry_of_what_could_not_run_begins_at_what_was_called_off(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        assert changes.cancel(store, ["a"]) == {"a"}
        assert statuses(store, "a", "b") == ["REVOKED", "REVOKED"]
        assert changes.retry(store, ["b"]) == {"a", "b"}
        worker.settle(done(worker.claim_one()))
        assert claimed_ids(worker) == ["b"]

    def test_what_was_revoked_before_it_was_enqueued_does_not_run(self, store: Store, worker: TestWorker) -> None:
        revoke(store, ["alone", "b"])
        store.enqueue_workflow(chain("a", "b", "c"))
        worker.settle(failed(worker.claim_one()))
        assert changes.retry(store, ["alone", "b", "c"]) == set()
        assert changes.retry_workflow(store, "c") == {"a"}
        assert statuses(store, "alone", "a", "b", "c") == ["REVOKED", "PENDING", "REVOKED", "REVOKED"]
        assert claimed_ids(worker) == ["a"]

    def test_a_body_whose_other_header_was_never_enqueued_does_not_wait_for_it(
        self, store: Store, worker: TestWorker
    ) -> None:
        """It would wait for ever, and could not be retried any more."""
        revoke(store, ["b"])
        store.enqueue_workflow(chord(["a", "b"], "body"))
        worker.settle(failed(worker.claim_one()))
        assert changes.retry(store, ["a"]) == {"a"}
        assert statuses(store, "a", "b", "body") == ["PENDING", "REVOKED", "FAILURE"]

    def test_retry_of_a_success_holds_the_body_back(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        first, second = worker.claim()
        worker.settle(done(first))
        assert changes.retry(store, ["a"]) == {"a"}
        assert row(store, "body")["waits_for"] == 2
        worker.settle(done(second))
        worker.settle(done(worker.claim_one()))
        assert claimed_ids(worker) == ["body"]

    @pytest.mark.parametrize("limit_key", [None, "bodies"])
    def test_retry_of_a_success_holds_back_what_was_let_go(
        self, store: Store, worker: TestWorker, limit_key: str | None
    ) -> None:
        """It has not begun, and would take the result before there is one."""
        jobs = [new_job("a"), new_job("b", limit_key=limit_key)]
        store.enqueue_workflow(Workflow.of(jobs, [Edge("a", "b", place="[]")]))
        worker.settle(done(worker.claim_one(), "7"))
        assert row(store, "b")["blocked_reason"] == (limit_key and "limit")
        assert changes.retry(store, ["a"]) == {"a"}
        again = worker.claim_one()
        assert again.id == "a"
        assert row(store, "b")["blocked_reason"] == "predecessors"
        assert worker.claim_held().claimed == worker.claim() == []
        worker.settle(done(again, "8"))
        (second,) = [*worker.claim_held().claimed, *worker.claim()]
        assert second.inputs == (("a", "[]", "8", None),)

    def test_retry_of_a_success_holds_back_what_waits_for_its_next_attempt(
        self, store: Store, worker: TestWorker
    ) -> None:
        """It comes with the new result, though it is to be retried still."""
        store.enqueue_workflow(chain("a", "b"))
        worker.settle(done(worker.claim_one(), "7"))
        second = worker.claim_one()
        worker.settle(Retried("b", second.lease, "{}", None, 0.0))
        assert changes.retry(store, ["a"]) == {"a"}
        assert (row(store, "b")["status"], row(store, "b")["blocked_reason"]) == ("RETRY", "predecessors")
        again = worker.claim_one()
        assert again.id == "a"
        worker.settle(done(again, "8"))
        assert worker.claim_one().inputs == (("a", "[]", "8", None),)

    def test_a_success_that_a_running_job_takes_is_left_alone(self, store: Store, worker: TestWorker) -> None:
        """Its next run, after a retry or a loss, would take the result before there is one."""
        store.enqueue_workflow(chain("a", "b"))
        worker.settle(done(worker.claim_one(), "7"))
        second = worker.claim_one()
        assert changes.retry(store, ["a"]) == set()
        worker.settle(Retried("b", second.lease, "{}", None, 0.0))
        second = worker.claim_one()
        assert second.inputs == (("a", "[]", "7", None),)
        worker.settle(done(second))
        assert changes.retry(store, ["a"]) == {"a"}

    def test_a_body_runs_again_with_the_last_of_its_headers_that_have_failed(
        self, store: Store, worker: TestWorker
    ) -> None:
        """Before that it would wait for one that has ended."""
        store.enqueue_workflow(chord(["a", "b"], "body"))
        worker.settle(*map(failed, worker.claim()))
        assert changes.retry(store, ["a"]) == {"a"}
        assert statuses(store, "b", "body") == ["FAILURE", "FAILURE"]
        worker.settle(done(worker.claim_one()))
        assert changes.retry(store, ["b"]) == {"b", "body"}
        worker.settle(done(worker.claim_one()))
        assert claimed_ids(worker) == ["body"]

    def test_what_comes_after_a_body_that_is_left_alone_is_left_alone_too(
        self, store: Store, worker: TestWorker
    ) -> None:
        """It would wait for ever."""
        links = [*chord(["a", "b"], "body").edges, Edge("body", "after")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "body", "after")], links))
        worker.settle(*map(failed, worker.claim()))
        assert changes.retry(store, ["a"]) == {"a"}
        assert statuses(store, "body", "after") == ["FAILURE", "FAILURE"]

    def test_what_waited_for_an_end_and_was_let_go_is_not_held_back(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(Workflow.of([new_job("a"), new_job("last")], [Edge("a", "last", "end")]))
        worker.settle(failed(worker.claim_one()))
        assert changes.retry(store, ["a"]) == {"a"}
        assert sorted(claimed_ids(worker)) == ["a", "last"]

    def test_a_whole_workflow_again(self, store: Store, worker: TestWorker) -> None:
        jobs = [new_job(name) for name in ("a", "b", "c", "body", "e")]
        edges_ = [*chord(["a", "b", "c"], "body").edges, *(Edge(name, "e", "error", ERRBACK) for name in "abc")]
        store.enqueue_workflow(Workflow.of(jobs, edges_))
        first, second, third = worker.claim()
        worker.settle(done(first), failed(second), failed(third))
        worker.settle(failed(worker.claim_one()))  # the errback
        assert changes.retry_workflow(store, "a") == {"b", "c", "body"}
        assert row(store, "body")["waits_for"] == 2
        assert row(store, "e")["status"] == "FAILURE"
        worker.settle(*map(done, worker.claim()))
        assert claimed_ids(worker) == ["body"]

    def test_an_errback_that_waits_counts_again(self, store: Store, worker: TestWorker) -> None:
        jobs = [new_job(name) for name in ("a", "b", "e")]
        store.enqueue_workflow(Workflow.of(jobs, [Edge("a", "e", "error"), Edge("b", "e", "error")]))
        first, second = worker.claim()
        worker.settle(done(first))
        changes.retry(store, ["a"])
        assert row(store, "e")["waits_for"] == 2
        worker.settle(done(second))
        worker.settle(failed(worker.claim_one()))
        assert claimed_ids(worker) == ["e"]

    def test_an_errback_that_has_run_waits_for_no_other_failure(self, store: Store, worker: TestWorker) -> None:
        links = [Edge(name, "e", "error", ERRBACK) for name in ("a", "b")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e")], links))
        first, second = worker.claim()
        worker.settle(failed(first))
        worker.settle(failed(worker.claim_one()))
        assert changes.retry(store, ["e"]) == {"e"}
        worker.settle(done(second))
        assert claimed_ids(worker) == ["e"]

    def test_an_errback_waits_for_its_own_failure_that_runs_again_though_another_has_come(
        self, store: Store, worker: TestWorker
    ) -> None:
        """It would be told of a job that has not ended."""
        links = [Edge(name, "e", "error", ERRBACK) for name in ("a", "b")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e")], links))
        first, second = worker.claim()
        worker.settle(failed(first))
        worker.settle(failed(worker.claim_one()))  # the errback
        worker.settle(failed(second))
        assert changes.retry(store, ["a"]) == {"a"}
        assert changes.retry(store, ["e"]) == {"e"}
        again = worker.claim_one()
        assert again.id == "a"
        assert worker.claim() == []
        worker.settle(failed(again))
        assert claimed_ids(worker) == ["e"]

    def test_a_success_runs_again_before_an_errback_that_waits_for_another(
        self, store: Store, worker: TestWorker
    ) -> None:
        """It was told of an earlier failure of the same job, and waits again: it reads nothing now."""
        links = [Edge(name, "e", "error", ERRBACK) for name in ("a", "b")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e")], links))
        first, second = worker.claim()
        worker.settle(failed(first))
        worker.settle(failed(worker.claim_one()))  # the errback
        worker.settle(Released(second.id, second.lease, second.ready_at))
        assert changes.retry(store, ["a"]) == {"a"}
        assert changes.retry(store, ["e"]) == {"e"}
        jobs = {job.id: job for job in worker.claim()}
        worker.settle(done(jobs["a"]))
        assert row(store, "e")["waits_for"] == 1
        assert changes.retry(store, ["a"]) == {"a"}
        assert row(store, "e")["waits_for"] == 2

    @pytest.mark.parametrize("ends", [done, failed])
    def test_an_errback_that_was_called_off_does_not_run_without_a_failure_to_be_told_of(
        self, store: Store, worker: TestWorker, ends: Callable[[ClaimedJob], Outcome]
    ) -> None:
        links = [Edge("a", "e", "error", ERRBACK), Edge("e", "after")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "e", "after")], links))
        revoke(store, ["e"])
        worker.settle(ends(worker.claim_one()))
        assert changes.retry(store, ["e", "after"]) == set()
        assert statuses(store, "e", "after") == ["REVOKED", "REVOKED"]

    @pytest.mark.parametrize("ids", [["e"], ["a", "e"]])
    def test_an_errback_that_was_called_off_waits_again_where_there_may_be_a_failure(
        self, store: Store, worker: TestWorker, ids: list[str]
    ) -> None:
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "e")], [Edge("a", "e", "error", ERRBACK)]))
        revoke(store, ids)
        assert changes.retry(store, ids) == set(ids)
        worker.settle(failed(worker.claim_one()))
        told = worker.claim_one().inputs
        assert isinstance(told, tuple)
        assert [predecessor for predecessor, *_ in told] == ["a"]

    def test_an_errback_that_was_called_off_does_not_run_again_with_its_failure(
        self, store: Store, worker: TestWorker
    ) -> None:
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "e")], [Edge("a", "e", "error", ERRBACK)]))
        revoke(store, ["e"])
        worker.settle(failed(worker.claim_one()))
        assert changes.retry(store, ["a"]) == {"a"}
        assert statuses(store, "a", "e") == ["PENDING", "REVOKED"]

    def test_an_errback_that_has_run_runs_again_though_the_failure_is_forgotten(
        self, store: Store, worker: TestWorker
    ) -> None:
        """The other that it waited for has succeeded: no failure is left, but it was told of one."""
        links = [Edge("a", "e", "error"), Edge("b", "e", "error")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in "abe"], links))
        first, second = sorted(worker.claim(), key=lambda job: job.id)
        worker.settle(failed(first))
        worker.settle(failed(worker.claim_one()), done(second))
        store.forget("a")
        assert changes.retry(store, ["e"]) == {"e"}
        assert claimed_ids(worker) == ["e"]

    def test_a_failure_is_as_it_is_until_its_errback_was_told(self, store: Store, worker: TestWorker) -> None:
        links = [Edge("a", "e", "error", ERRBACK), Edge("a", "f", "error", ERRBACK)]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in "aef"], links))
        worker.settle(failed(worker.claim_one()))
        first, second = worker.claim()
        assert changes.retry(store, ["a"]) == set()
        worker.settle(done(first), Retried(second.id, second.lease, "{}", None, 0.0))
        assert changes.retry(store, ["a"]) == set()
        worker.settle(done(worker.claim_one()))
        assert changes.retry(store, ["a"]) == {"a"}
        (again,) = worker.claim()
        assert changes.retry(store, ["e"]) == set(), "it may be deleted at this moment"
        worker.settle(done(again))
        assert changes.retry(store, ["e"]) == set(), "there is no failure to be told of"

    @pytest.mark.parametrize("event", ["success", "end"])
    def test_nothing_runs_again_before_a_job_that_runs(self, store: Store, worker: TestWorker, event: Event) -> None:
        store.enqueue_workflow(Workflow.of([new_job("a"), new_job("b")], [Edge("a", "b", event)]))
        worker.settle(done(worker.claim_one()))
        running = worker.claim_one()
        assert changes.retry(store, ["a"]) == set()
        worker.settle(done(running))
        assert changes.retry(store, ["a"]) == {"a"}

    def test_cancel_of_a_whole_workflow(self, store: Store, worker: TestWorker) -> None:
        jobs = [new_job(name) for name in ("a", "b", "body", "e")]
        edges_ = [*chord(["a", "b"], "body").edges, Edge("a", "e", "error", ERRBACK)]
        store.enqueue_workflow(Workflow.of(jobs, edges_))
        store.enqueue([new_job("plain")])
        (first,) = worker.claim(limit=1)
        found = changes.cancel_workflow(store, "body")
        assert set(found.ended) == {"b", "body", "e"}
        assert found.running == {"a"}
        assert statuses(store, "a", "b", "body", "e", "plain") == [
            "STARTED",
            "REVOKED",
            "REVOKED",
            "REVOKED",
            "PENDING",
        ]
        assert set(revoked_ids(store)) == {"a", "b", "body", "e"}  # the one that runs is not to run again
        worker.settle(failed(first))
        assert statuses(store, "b", "body", "e") == ["REVOKED"] * 3  # the failure ends none of them once more
        assert claimed_ids(worker) == ["plain"]

    def test_cancel_of_a_whole_workflow_ends_what_is_to_run_again(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        job = worker.claim_one()
        worker.settle(Retried("a", job.lease, "{}", None, 0.0))
        assert set(changes.cancel_workflow(store, "b").ended) == {"a", "b"}
        assert statuses(store, "a", "b") == ["REVOKED", "REVOKED"]
        assert worker.claim() == []

    def test_nothing_of_a_workflow_that_was_cancelled_waits_for_anything(
        self, store: Store, worker: TestWorker
    ) -> None:
        jobs = [new_job("a"), new_job("limited", limit_key="k"), new_job("after")]
        store.enqueue_workflow(Workflow.of(jobs, [Edge("a", "limited"), Edge("limited", "after")]))
        worker.settle(done(worker.claim_one()))
        assert row(store, "limited")["held_at"] is not None
        changes.cancel_workflow(store, "a")
        waits = "held_at IS NOT NULL OR ready_at IS NOT NULL OR blocked_reason IS NOT NULL"
        assert count(store, waits) == 0

    def test_what_waits_for_ends_counts_those_that_have_come(self, store: Store, worker: TestWorker) -> None:
        ends = [Edge(name, "end", "end") for name in ("a", "b", "c")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "c", "end")], ends))
        jobs = {job.id: job for job in worker.claim()}
        worker.settle(failed(jobs["a"]), failed(jobs["b"]))
        assert changes.retry(store, ["b"]) == {"b"}
        assert row(store, "end")["waits_for"] == 2
        worker.settle(done(jobs["c"]), *(done(job) for job in worker.claim()))
        assert claimed_ids(worker) == ["end"]

    def test_what_was_forgotten_had_succeeded(self, store: Store, worker: TestWorker) -> None:
        headers = [Edge(name, "body") for name in ("a", "b")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "body")], headers))
        jobs = {job.id: job for job in worker.claim()}
        worker.settle(done(jobs["a"]), failed(jobs["b"]))
        run_sql(store, "DELETE FROM dbqueue_jobs WHERE id = 'a'")  # its edge may be left
        assert changes.retry(store, ["body"]) == {"b", "body"}
        worker.settle(done(worker.claim_one()))
        assert claimed_ids(worker) == ["body"]

    def test_what_takes_a_result_that_was_forgotten_does_not_run(self, store: Store, worker: TestWorker) -> None:
        """It would run without that argument. What takes its own result, which is there, does."""
        store.enqueue_workflow(chain("a", "b", "c"))
        for _ in range(3):
            worker.settle(done(worker.claim_one()))
        assert store.forget("a")
        assert changes.retry(store, ["b"]) == set()
        assert changes.retry(store, ["b", "c"]) == {"c"}
        again = worker.claim_one()
        assert again.inputs == (("b", "[]", "1", None),)
        worker.settle(done(again))
        assert changes.delete(store, ["b", "c"]) == {"b", "c"}
        assert edges(store) == 0

    def test_an_errback_does_not_run_without_the_failure_that_it_was_told_of(
        self, store: Store, worker: TestWorker
    ) -> None:
        store.enqueue_workflow(Workflow.of([new_job("a"), new_job("e")], [Edge("a", "e", "error", ERRBACK)]))
        for _ in range(2):
            worker.settle(failed(worker.claim_one()))
        assert store.forget("a")
        assert changes.retry(store, ["e"]) == set()

    def test_a_body_does_not_run_without_one_of_its_headers(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        worker.settle(*map(done, worker.claim()))
        worker.settle(failed(worker.claim_one()))
        assert store.forget("a")
        assert changes.retry_workflow(store, "body") == set()
        assert changes.retry(store, ["body", "b"]) == {"b"}
        assert statuses(store, "body") == ["FAILURE"]

    def test_a_later_job_of_the_same_id_left_no_result_for_it(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        for _ in range(2):
            worker.settle(done(worker.claim_one()))
        assert store.forget("a")
        store.enqueue_workflow(chain("a", "c"))
        assert changes.retry(store, ["b"]) == set()

    def test_what_only_waits_for_what_was_forgotten_runs(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b", place=None))
        for _ in range(2):
            worker.settle(done(worker.claim_one()))
        assert store.forget("a")
        assert changes.retry(store, ["b"]) == {"b"}
        assert claimed_ids(worker) == ["b"]

    def test_what_has_run_by_itself_is_left_as_it_is(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        worker.settle(done(worker.claim_one()))
        worker.settle(failed(worker.claim_one()))
        assert changes.retry(store, ["a"]) == {"a"}
        assert statuses(store, "a", "b") == ["PENDING", "FAILURE"]
