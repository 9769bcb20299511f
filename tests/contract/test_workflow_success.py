"""A job that has succeeded releases what waits for it, once, with what was left for it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from dbqueue.errors import InvalidTaskError
from dbqueue.jobs import Retried
from dbqueue.limits import Limit
from dbqueue.store import limits
from dbqueue.store.base import Store
from dbqueue.store.records import Claim
from dbqueue.worker.running.inputs import placed
from dbqueue.workflows import FIRST_ARGUMENT, Edge, Workflow
from tests.contract.workflows import chain, chord, claimed_ids, done
from tests.stores import TestWorker, count, moment, new_job, row, run_sql


class TestSuccess:
    def test_a_chain_goes_step_by_step(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b", "c"))
        worker.settle(done(worker.claim_one(), "1"))
        second = worker.claim_one()
        assert (second.id, second.inputs) == ("b", (("a", FIRST_ARGUMENT, "1", None),))
        worker.settle(done(second, '{"ü": 1e16}'))
        third = worker.claim_one()
        assert (third.id, third.inputs) == ("c", (("b", FIRST_ARGUMENT, '{"ü": 1e16}', None),))
        assert not third.successors

    def test_a_result_that_is_gone_is_not_passed_as_none(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "c"))
        worker.settle(*map(done, worker.claim()))
        run_sql(store, "DELETE FROM dbqueue_jobs WHERE id = 'a'")
        assert worker.claim_one().inputs == "a"

    def test_what_takes_a_result_does_not_run_without_where_its_edges_are_gone(
        self, store: Store, worker: TestWorker
    ) -> None:
        """Deleted by plain SQL, or hidden from the worker: it would run with the rest of its arguments."""
        store.enqueue_workflow(chord(["a", "b"], "c"))
        worker.settle(*map(done, worker.claim()))
        run_sql(store, "DELETE FROM dbqueue_edges")
        job = worker.claim_one()
        assert job.inputs == job.id
        with pytest.raises(InvalidTaskError, match="no row of dbqueue_edges says of which"):
            placed(job, None, [], {}, ())

    def test_a_result_that_is_not_there_yet_is_not_passed_as_none(self, store: Store, worker: TestWorker) -> None:
        """Of a job that another one's end releases before its time, by an edge that somebody has inserted."""
        store.enqueue_workflow(chain("a", "b"))
        store.enqueue([new_job("other", successors=True, priority=1)])
        run_sql(store, "INSERT INTO dbqueue_edges (predecessor, successor, event) VALUES ('other', 'b', 'end')")
        (other,) = worker.claim(1)
        worker.settle(done(other))
        assert {job.id: job.inputs for job in worker.claim()} == {"a": False, "b": "a"}

    def test_one_round_ends_a_step_and_claims_the_next(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        result = worker.settle_and_claim([done(worker.claim_one())])
        assert [job.id for job in result.claimed] == ["b"]

    def test_a_release_is_told(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        assert worker.settle(done(worker.claim_one())).released

    def test_a_body_waits_for_all_headers_and_has_their_results_in_order(
        self, store: Store, worker: TestWorker
    ) -> None:
        store.enqueue_workflow(chord([f"h{n}" for n in range(20)], "body"))
        jobs = worker.claim()
        worker.settle(*(done(job, job.id[1:]) for job in jobs[:12]))
        worker.settle(*(done(job, job.id[1:]) for job in jobs[12:19]))
        assert worker.claim() == []
        assert row(store, "body")["waits_for"] == 1
        worker.settle(done(jobs[19], jobs[19].id[1:]))
        body = worker.claim_one()
        assert isinstance(body.inputs, tuple)
        assert {json.loads(place)[0]: json.loads(text or "") for _, place, text, _ in body.inputs} == {
            n: n for n in range(20)
        }

    def test_nothing_is_passed_without_a_place(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b", place=None))
        worker.settle(done(worker.claim_one()))
        assert worker.claim_one().inputs is False

    def test_a_body_takes_nothing_of_a_header_that_is_not_passed(self, store: Store, worker: TestWorker) -> None:
        """Nor does it miss it."""
        headers = [Edge("a", "body", place="[0]"), Edge("b", "body"), Edge("c", "body")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "c", "body")], headers))
        worker.settle(*map(done, worker.claim()))
        assert store.forget("c")
        assert worker.claim_one().inputs == (("a", "[0]", "1", None),)

    def test_an_outcome_that_is_sent_again_moves_nothing(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b", "c"], "body"))
        first, *_ = worker.claim()
        for _ in range(3):
            worker.settle(done(first))
        assert row(store, "body")["waits_for"] == 2

    def test_another_lease_moves_nothing(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        first, _ = worker.claim()
        worker.settle(done(first._replace(lease="00000000-0000-0000-0000-000000000000")))
        assert row(store, "body")["waits_for"] == 2

    def test_a_retry_is_no_end(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        job = worker.claim_one()
        worker.settle(Retried(job.id, job.lease, "{}", None, 0.0))
        assert row(store, "b")["waits_for"] == 1
        worker.settle(done(worker.claim_one()))
        assert claimed_ids(worker) == ["b"]

    def test_a_retry_keeps_its_inputs_unless_it_has_new_arguments(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        worker.settle(done(worker.claim_one(), "7"))
        job = worker.claim_one()
        worker.settle(Retried(job.id, job.lease, "{}", None, 0.0))
        job = worker.claim_one()
        assert job.inputs == (("a", FIRST_ARGUMENT, "7", None),)
        worker.settle(Retried(job.id, job.lease, "{}", None, 0.0, args="[8]", kwargs="{}"))
        job = worker.claim_one()
        assert (job.inputs, job.args) == (False, "[8]")

    def test_new_arguments_in_another_serializer_are_all_of_them(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b", content=b"\0", content_type="application/x-python-serialize"))
        worker.settle(done(worker.claim_one(), "7"))
        job = worker.claim_one()
        worker.settle(Retried(job.id, job.lease, "{}", None, 0.0, content=b"\1"))
        job = worker.claim_one()
        assert (job.inputs, job.content) == (False, b"\1")

    def test_a_result_that_was_not_kept_is_none(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        worker.settle(done(worker.claim_one(), None))
        assert worker.claim_one().inputs == (("a", FIRST_ARGUMENT, None, None),)

    def test_results_in_another_serializer(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        worker.settle(done(worker.claim_one(), '{"content_type": "x"}', b"\0\x01"))
        assert worker.claim_one().inputs == (("a", FIRST_ARGUMENT, '{"content_type": "x"}', b"\0\x01"),)

    def test_an_eta_holds_after_the_release(self, store: Store, worker: TestWorker) -> None:
        jobs = chain("a", "b").jobs
        store.enqueue_workflow(
            Workflow.of([jobs[0], jobs[1]._replace(delay_seconds=3600.0)], [Edge("a", "b")]),
        )
        assert not worker.settle_and_claim([done(worker.claim_one())]).claimed
        assert row(store, "b")["ready_at"] == row(store, "b")["eta"]

    def test_an_expiry_in_seconds_counts_from_the_release(self, store: Store, worker: TestWorker) -> None:
        at = datetime(2040, 1, 1, tzinfo=UTC)
        jobs = [new_job("a"), new_job("b", options='{"expires_seconds": 60}'), new_job("c", expires_at=at)]
        store.enqueue_workflow(Workflow.of(jobs, [Edge("a", "b"), Edge("a", "c")]))
        worker.settle(done(worker.claim_one()), now=at - timedelta(hours=1))
        expiries = [moment(row(store, job_id)["expires_at"]) for job_id in "bc"]
        assert expiries == [at - timedelta(minutes=59), at]

    def test_a_limited_job_is_held_after_the_release(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(Workflow.of([new_job("a"), new_job("b", limit_key="k")], [Edge("a", "b")]))
        worker.settle(done(worker.claim_one()))
        after = row(store, "b")
        assert (after["blocked_reason"], after["ready_at"], after["waits_for"]) == ("limit", None, 0)
        assert after["held_at"] is not None

    @pytest.mark.parametrize("by_key", [False, True])
    def test_a_limited_job_has_its_inputs_however_it_is_claimed(
        self, store: Store, worker: TestWorker, by_key: bool
    ) -> None:
        limits.set_limit(store, "k", Limit(running=1))
        store.enqueue_workflow(Workflow.of([new_job("a"), new_job("b", limit_key="k")], [Edge("a", "b", place="[]")]))
        worker.settle(done(worker.claim_one(), "7"))
        if by_key:
            claim = Claim(worker.id, str(uuid4()), worker.queues, 1, keys=("k",))
            (job,) = worker.session.round([], claim).claimed
        else:
            (job,) = worker.claim_held().claimed
        assert (job.id, job.inputs) == ("b", (("a", "[]", "7", None),))

    def test_limited_jobs_that_a_batch_has_no_room_for_wait_for_permits_again(
        self, store: Store, worker: TestWorker
    ) -> None:
        limits.set_limit(store, "k", Limit(running=4))
        for n in range(4):
            jobs = [new_job(f"a{n}"), new_job(f"b{n}", limit_key="k")]
            store.enqueue_workflow(Workflow.of(jobs, [Edge(f"a{n}", f"b{n}", place="[]")]))
        worker.settle(*(done(job, json.dumps("x" * 500)) for job in worker.claim()))
        found = worker.claim_held(max_input_bytes=1024).claimed
        assert len(found) == 2
        assert (count(store, "permit = 'k'"), count(store, "held_at IS NOT NULL")) == (2, 2)
        worker.settle(*map(done, found))
        assert len(worker.claim_held(max_input_bytes=1024).claimed) == 2

    def test_one_round_of_many_workflows(self, store: Store, worker: TestWorker) -> None:
        for n in range(5):
            store.enqueue_workflow(chain(f"a{n}", f"b{n}"))
        store.enqueue([new_job(f"plain{n}") for n in range(5)])
        outcomes = [done(job) for job in worker.claim()]
        assert len(outcomes) == 10
        result = worker.settle_and_claim(outcomes)
        assert result.settled == {outcome.job_id for outcome in outcomes}
        assert {job.id for job in result.claimed} == {f"b{n}" for n in range(5)}

    def test_inputs_that_are_too_large_are_not_read(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        worker.settle(*(done(job, json.dumps("x" * 600)) for job in worker.claim()))
        (body,) = worker.claim(max_input_bytes=1024)
        assert body.inputs == 1204

    def test_inputs_are_measured_in_bytes(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        worker.settle(*(done(job, json.dumps("ü" * 600, ensure_ascii=False)) for job in worker.claim()))
        (body,) = worker.claim(max_input_bytes=2048)
        assert body.inputs == 2404

    def test_a_batch_reads_no_more_than_it_may(self, store: Store, worker: TestWorker) -> None:
        for n in range(4):
            store.enqueue_workflow(chain(f"a{n}", f"b{n}"))
        worker.settle(*(done(job, json.dumps("x" * 500)) for job in worker.claim()))
        found = worker.claim(max_input_bytes=1024)
        assert len(found) == 2
        assert count(store, "status = 'PENDING' AND losses = 0") == 2
        worker.settle(*map(done, found))
        assert len(worker.claim(max_input_bytes=1024)) == 2

    def test_bytes_count_among_what_a_batch_reads(self, store: Store, worker: TestWorker) -> None:
        for n in range(4):
            store.enqueue_workflow(chain(f"a{n}", f"b{n}"))
        worker.settle(*(done(job, "{}", b"\0" * 500) for job in worker.claim()))
        assert len(worker.claim(max_input_bytes=1024)) == 2

    def results_of(self, store: Store, worker: TestWorker, *sizes: int) -> None:
        """Jobs that have ended with results of so many bytes, of which `b0`, `b1`, ... have each one to read."""
        for number in range(len(sizes)):
            store.enqueue_workflow(chain(f"a{number}", f"b{number}"))
        jobs = sorted(worker.claim(), key=lambda job: job.id)
        worker.settle(*(done(job, json.dumps("x" * (size - 2))) for job, size in zip(jobs, sizes, strict=True)))

    @pytest.mark.parametrize("sizes", [(1024,), (512, 512)])
    def test_a_batch_reads_all_that_it_may(self, store: Store, worker: TestWorker, sizes: tuple[int, ...]) -> None:
        self.results_of(store, worker, *sizes)
        found = worker.claim(max_input_bytes=1024)
        assert [len(job.inputs[0][2]) for job in found] == list(sizes)  # type: ignore[index, arg-type]

    def test_a_job_that_reads_all_that_a_batch_may_has_one_of_its_own(self, store: Store, worker: TestWorker) -> None:
        self.results_of(store, worker, 100, 1024)
        (first,) = worker.claim(max_input_bytes=1024)
        worker.settle(done(first))
        second = worker.claim_one(max_input_bytes=1024)
        assert (second.id, len(second.inputs[0][2])) == ("b1", 1024)  # type: ignore[index, arg-type]

    @pytest.mark.parametrize("limit_key", [None, "k"])
    def test_what_a_batch_has_no_room_for_keeps_its_place(
        self, store: Store, worker: TestWorker, limit_key: str | None
    ) -> None:
        """Before all that has become due since then."""
        jobs = [new_job("a0"), new_job("a1"), new_job("b0", limit_key=limit_key), new_job("b1", limit_key=limit_key)]
        store.enqueue_workflow(Workflow.of(jobs, [Edge(f"a{n}", f"b{n}", place="[]") for n in range(2)]))
        due = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
        worker.settle(*(done(job, json.dumps("x" * 600)) for job in worker.claim()), now=due)
        claimed = worker.claim_held(max_input_bytes=1024).claimed if limit_key else worker.claim(max_input_bytes=1024)
        assert [job.id for job in claimed] == ["b0"]
        back = row(store, "b1")
        assert (moment(back["ready_at"]), moment(back["held_at"])) == ((None, due) if limit_key else (due, None))

    def test_what_is_too_large_takes_no_room_in_a_batch(self, store: Store, worker: TestWorker) -> None:
        self.results_of(store, worker, 2000, 100)
        too_large, other = sorted(worker.claim(max_input_bytes=1024), key=lambda job: job.id)
        assert too_large.inputs == 2000
        assert len(other.inputs[0][2]) == 100  # type: ignore[index, arg-type]
