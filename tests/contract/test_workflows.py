"""Workflows by hand-built rounds: written whole, released in order, once, with what was left for each job."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest

from dbqueue.errors import DuplicateTaskId
from dbqueue.jobs import ClaimedJob, Failed, Progress, Released, Replaced, Retried, Succeeded
from dbqueue.limits import Limit
from dbqueue.store import changes, limits
from dbqueue.store.base import Store
from dbqueue.store.records import Claim
from dbqueue.store.revoking import revoke
from dbqueue.store.transactions.joining import enqueue_workflow_in
from dbqueue.workflows import APPEND, BODY, ERRBACK, FIRST_ARGUMENT, Edge, Workflow
from tests.stores import TestWorker, count, moment, new_job, row, run_sql

NewWorker = Callable[..., TestWorker]


def chain(*ids: str, place: str | None = FIRST_ARGUMENT, **fields: Any) -> Workflow:
    edges = [Edge(before, after, place=place) for before, after in pairwise(ids)]
    return Workflow.of([new_job(job_id, **fields) for job_id in ids], edges)


def chord(headers: Sequence[str], body: str, **fields: Any) -> Workflow:
    edges = [Edge(header, body, place=f"[{index}]") for index, header in enumerate(headers)]
    return Workflow.of([new_job(job_id, **fields) for job_id in [*headers, body]], edges)


def edges(store: Store) -> int:
    with store.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM dbqueue_edges").scalar_one())


def done(job: ClaimedJob, result: str | None = "1", content: bytes | None = None) -> Succeeded:
    return Succeeded(job.id, job.lease, result, 0.0, content)


def claimed_ids(worker: TestWorker) -> list[str]:
    return [job.id for job in worker.claim()]


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

    def test_what_is_too_large_takes_no_room_in_a_batch(self, store: Store, worker: TestWorker) -> None:
        self.results_of(store, worker, 2000, 100)
        too_large, other = sorted(worker.claim(max_input_bytes=1024), key=lambda job: job.id)
        assert too_large.inputs == 2000
        assert len(other.inputs[0][2]) == 100  # type: ignore[index, arg-type]


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


ERROR = json.dumps({"exc_type": "ValueError", "exc_message": ["bad", 3], "exc_module": "builtins"})


def failed(job: ClaimedJob, status: str = "FAILURE") -> Failed:
    return Failed(job.id, job.lease, ERROR, "Traceback: ...", 0.0, status=status)


def statuses(store: Store, *ids: str) -> list[str]:
    return [row(store, job_id)["status"] for job_id in ids]


class TestReplace:
    def test_the_row_becomes_the_last_of_the_workflow(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "x", "z"))
        worker.settle(done(worker.claim_one(), "1"))
        job = worker.claim_one()
        new = [new_job("n1"), new_job("n2"), new_job("x", task="shop.join", args="[5]", queue="other")]
        workflow = Workflow.of(new, [Edge("n1", "x", place="[0]"), Edge("n2", "x", place="[1]")])
        result = worker.settle(Replaced("x", job.lease, workflow, 0.1))
        assert (result.settled, result.released) == (frozenset("x"), True)
        after = row(store, "x")
        assert (after["status"], after["task"], after["queue"], after["waits_for"]) == (
            "PENDING",
            "shop.join",
            "other",
            2,
        )
        assert after["lease"] is None
        assert len({row(store, job_id)["workflow_id"] for job_id in ("a", "x", "z", "n1", "n2")} - {None}) == 1
        worker.settle(*(done(each, json.dumps(each.id)) for each in worker.claim()))
        (tail,) = worker.claim(queues=["other"])
        assert tail.successors
        assert (tail.args, sorted(tail.inputs)) == ("[5]", [("n1", "[0]", '"n1"', None), ("n2", "[1]", '"n2"', None)])  # type: ignore[arg-type]
        worker.settle(done(tail, "9"))
        assert worker.claim_one().inputs == (("x", FIRST_ARGUMENT, "9", None),)

    def test_by_jobs_of_which_the_first_was_revoked_before(self, store: Store, worker: TestWorker) -> None:
        """The last would wait for ever for what was never written."""
        store.enqueue([new_job("x")])
        job = worker.claim_one()
        revoke(store, ["n"])
        with pytest.raises(DuplicateTaskId, match="were revoked before"):
            worker.settle(Replaced("x", job.lease, chain("n", "x"), 0.1))
        assert (statuses(store, "x"), edges(store)) == (["STARTED"], 0)

    def test_by_one_job(self, store: Store, worker: TestWorker) -> None:
        store.enqueue([new_job("x", args="[1]")])
        job = worker.claim_one()
        worker.settle(Retried("x", job.lease, "{}", None, 0.0))
        job = worker.claim_one()
        workflow = Workflow((new_job("x", task="shop.other", args="[2]"),))
        worker.settle(Replaced("x", job.lease, workflow, 0.1))
        again = worker.claim_one()
        assert (again.task, again.args, again.retries) == ("shop.other", "[2]", 0)
        assert row(store, "x")["workflow_id"] is None

    def test_a_job_that_was_alone_is_one_of_the_workflow(self, store: Store, worker: TestWorker) -> None:
        """The edges of rows that belong to none would be there for ever."""
        store.enqueue([new_job("x")])
        worker.settle(Replaced("x", worker.claim_one().lease, chain("n", "x"), 0.1))
        assert len({row(store, job_id)["workflow_id"] for job_id in "nx"} - {None}) == 1

    def test_by_one_job_with_a_callback(self, store: Store, worker: TestWorker) -> None:
        store.enqueue([new_job("x")])
        job = worker.claim_one()
        worker.settle(Replaced("x", job.lease, chain("x", "callback"), 0.1))
        worker.settle(done(worker.claim_one(), "5"))
        assert worker.claim_one().inputs == (("x", FIRST_ARGUMENT, "5", None),)

    def test_it_begins_anew(self, store: Store, worker: TestWorker) -> None:
        """What is left of its runs would be taken for what the replacement has done."""
        store.enqueue([new_job("x")])
        job = worker.claim_one()
        worker.settle(Retried("x", job.lease, "{}", "Traceback: ...", 0.0))
        job = worker.claim_one()
        worker.session.report([Progress("x", job.lease, "PACKING", "1")])
        run_sql(store, "UPDATE dbqueue_jobs SET losses = 1")
        worker.settle(Replaced("x", job.lease, Workflow((new_job("x"),)), 0.1))
        after = row(store, "x")
        assert (after["status"], after["retries"], after["losses"]) == ("PENDING", 0, 0)
        left = ("lease", "worker", "started_at", "state", "meta", "result", "traceback")
        assert {name: after[name] for name in left} == dict.fromkeys(left)

    def test_a_job_that_has_ended_is_not_replaced(self, store: Store, worker: TestWorker) -> None:
        store.enqueue([new_job("x")])
        job = worker.claim_one()
        worker.settle(done(job))
        before = row(store, "x")
        worker.settle(Replaced("x", job.lease, chain("n", "x"), 0.1))
        assert (row(store, "x"), count(store)) == (before, 1)

    def test_a_lost_lease_replaces_nothing(self, store: Store, worker: TestWorker) -> None:
        store.enqueue([new_job("x")])
        job = worker.claim_one()
        worker.settle(Retried("x", job.lease, "{}", None, 0.0))
        workflow = Workflow.of([new_job("n"), new_job("x", task="shop.other")], [Edge("n", "x")])
        assert worker.settle(Replaced("x", job.lease, workflow, 0.1)).settled == frozenset()
        assert (count(store), row(store, "x")["task"]) == (1, "shop.pack")

    def test_a_job_that_runs_elsewhere_by_now_is_not_replaced(self, store: Store, worker: TestWorker) -> None:
        store.enqueue([new_job("x")])
        worker.claim_one()
        before = row(store, "x")
        assert worker.settle(Replaced("x", str(uuid4()), chain("n", "x"), 0.1)).settled == frozenset()
        assert (row(store, "x"), count(store)) == (before, 1)

    def test_sent_again_it_changes_nothing(self, store: Store, worker: TestWorker) -> None:
        store.enqueue([new_job("x")])
        job = worker.claim_one()
        workflow = Workflow.of([new_job("n"), new_job("x", task="shop.other")], [Edge("n", "x")])
        for expected in ({"x"}, set()):
            assert worker.settle(Replaced("x", job.lease, workflow, 0.1)).settled == expected
        assert (count(store), row(store, "x")["waits_for"]) == (2, 1)

    def test_nothing_of_earlier_runs_is_left_but_the_expiry(self, store: Store, worker: TestWorker) -> None:
        store.enqueue([new_job("x", expires_at=datetime.now(UTC) + timedelta(hours=1))])
        job = worker.claim_one()
        worker.settle(Retried("x", job.lease, '{"exc_type": "Oops"}', "tb", 0.0))
        job = worker.claim_one()
        worker.settle(Released("x", job.lease, job.ready_at, lost=True))
        job = worker.claim_one()
        worker.session.report([Progress("x", job.lease, "HALF", "{}")])
        before = row(store, "x")
        assert (before["traceback"], before["state"], before["retries"], before["losses"]) == ("tb", "HALF", 1, 1)
        workflow = Workflow.of([new_job("n"), new_job("x")], [Edge("n", "x")])
        worker.settle(Replaced("x", job.lease, workflow, 0.1))
        after = row(store, "x")
        gone = ("result", "traceback", "state", "meta", "started_at", "worker", "lease")
        assert {name: after[name] for name in gone} == dict.fromkeys(gone)
        assert (after["retries"], after["losses"], after["expires_at"]) == (0, 0, before["expires_at"])

    def test_an_expiry_of_its_own_counts(self, store: Store, worker: TestWorker) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        store.enqueue([new_job("x", expires_at=now + timedelta(hours=1))])
        workflow = Workflow((new_job("x", expires_at=now + timedelta(hours=2)),))
        worker.settle(Replaced("x", worker.claim_one().lease, workflow, 0.1))
        assert moment(row(store, "x")["expires_at"]) == now + timedelta(hours=2)

    def test_an_eta_in_the_past_takes_no_precedence(self, store: Store, worker: TestWorker) -> None:
        """Over what is due by now."""
        store.enqueue([new_job("x")])
        job = worker.claim_one()
        store.enqueue([new_job("other")])
        run_sql(store, "UPDATE dbqueue_jobs SET ready_at = created_at WHERE id = 'other'")
        past = datetime(2001, 1, 1, tzinfo=UTC)
        worker.settle(Replaced("x", job.lease, Workflow((new_job("x", eta=past),)), 0.1))
        assert moment(row(store, "x")["eta"]) == past
        found = worker.claim(now=datetime.now(UTC) + timedelta(minutes=1))
        assert [job.id for job in found] == ["other", "x"]

    def test_a_failure_before_it_ends_it(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("x", "z"))
        job = worker.claim_one()
        workflow = Workflow.of([new_job("n"), new_job("x")], [Edge("n", "x", place="[]")])
        worker.settle(Replaced("x", job.lease, workflow, 0.1))
        worker.settle(failed(worker.claim_one()))
        assert statuses(store, "n", "x", "z") == ["FAILURE"] * 3


class TestAddHeader:
    def added(self, name: str = "new") -> Workflow:
        return Workflow((new_job(name),), (Edge(name, BODY, place=APPEND),))

    def test_the_body_waits_for_it_too(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        first, second = worker.claim()
        assert store.add_header(self.added(), first.id, first.lease)
        assert store.add_header(self.added(), first.id, first.lease)  # again: once
        assert row(store, "body")["waits_for"] == 3
        worker.settle(done(first, "1"), done(second, "2"))
        worker.settle(done(worker.claim_one(), "3"))
        body = worker.claim_one()
        assert sorted(body.inputs) == [("a", "[0]", "1", None), ("b", "[1]", "2", None), ("new", "[2]", "3", None)]  # type: ignore[arg-type]

    def test_the_body_waits_for_each_of_several(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        jobs = worker.claim()
        edges_ = tuple(Edge(name, BODY, place=APPEND) for name in ("x", "y"))
        assert store.add_header(Workflow((new_job("x"), new_job("y")), edges_), "a", jobs[0].lease)
        worker.settle(*(done(job, json.dumps(job.id)) for job in jobs))
        first, second = worker.claim()
        worker.settle(done(first, json.dumps(first.id)))
        assert worker.claim() == []
        worker.settle(done(second, json.dumps(second.id)))
        body = worker.claim_one()
        assert isinstance(body.inputs, tuple)
        assert {place: text for _, place, text, _ in body.inputs} == {
            "[0]": '"a"',
            "[1]": '"b"',
            "[2]": '"x"',
            "[3]": '"y"',
        }

    def test_through_the_rest_of_a_chain(self, store: Store, worker: TestWorker) -> None:
        jobs = [new_job(name) for name in ("a", "b", "c", "body")]
        edges_ = [Edge("a", "b", place="[]"), Edge("b", "body", place="[0]"), Edge("c", "body", place="[1]")]
        store.enqueue_workflow(Workflow.of(jobs, edges_))
        job = worker.claim_one(limit=1)
        assert store.add_header(self.added(), job.id, job.lease)
        assert row(store, "body")["waits_for"] == 3
        assert row(store, "new")["workflow_id"] == row(store, "body")["workflow_id"] is not None

    def test_a_body_that_is_passed_nothing_is_not_passed_this(self, store: Store, worker: TestWorker) -> None:
        links = [Edge("a", "c"), Edge("b", "c")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "c")], links))
        first, second = worker.claim()
        assert store.add_header(self.added(), first.id, first.lease)
        worker.settle(done(first), done(second))
        worker.settle(done(worker.claim_one()))
        assert store.forget("new")
        assert (worker.claim_one().id, row(store, "c")["inputs"]) == ("c", False)

    @pytest.mark.parametrize("place", [None, FIRST_ARGUMENT])
    def test_a_body_of_one_header_that_is_passed_no_list(
        self, store: Store, worker: TestWorker, place: str | None
    ) -> None:
        """As a step of a chain, but that it is said to be a body."""
        jobs = [new_job("a"), new_job("c", options='{"join": true}')]
        store.enqueue_workflow(Workflow.of(jobs, [Edge("a", "c", place=place)]))
        job = worker.claim_one()
        assert store.add_header(self.added(), job.id, job.lease)
        assert row(store, "c")["waits_for"] == 2

    def test_an_id_of_another_call_is_refused(self, store: Store, worker: TestWorker) -> None:
        """It would count as there already, and never run."""
        store.enqueue_workflow(chord(["a", "b"], "body"))
        first, _ = worker.claim()
        store.enqueue([new_job("new", args="[1]")])
        with pytest.raises(DuplicateTaskId, match="with other content"):
            store.add_header(self.added(), first.id, first.lease)
        assert (row(store, "body")["waits_for"], edges(store)) == (2, 2)

    def test_nothing_is_added_where_a_part_is_there(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        first, _ = worker.claim()
        store.enqueue([new_job("y")])
        several = Workflow((new_job("x"), new_job("y")), tuple(Edge(name, BODY, place=APPEND) for name in "xy"))
        with pytest.raises(DuplicateTaskId, match="exist already"):
            store.add_header(several, first.id, first.lease)
        assert (row(store, "body")["waits_for"], edges(store), count(store)) == (2, 2, 4)

    def test_a_job_that_does_not_run_adds_nothing(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        first, _ = worker.claim()
        assert not store.add_header(self.added(), first.id, str(uuid4()))  # it runs elsewhere by now
        worker.settle(done(first))
        assert not store.add_header(self.added(), first.id, first.lease)
        assert count(store) == 3

    def test_a_body_that_has_ended_waits_for_nothing_more(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        job, _ = worker.claim()
        revoke(store, ["body"])
        assert not store.add_header(self.added(), job.id, job.lease)
        assert count(store) == 3

    def test_the_chord_of_an_errback_is_not_the_jobs_own(self, store: Store, worker: TestWorker) -> None:
        edges_ = [Edge("a", "e", "error", ERRBACK), Edge("e", "body", place="[0]"), Edge("b", "body", place="[1]")]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e", "body")], edges_))
        job, _ = worker.claim()
        assert not store.add_header(self.added(), job.id, job.lease)
        assert row(store, "body")["waits_for"] == 2

    def test_without_a_chord_there_is_nothing_to_add_to(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b"))
        job = worker.claim_one()
        assert not store.add_header(self.added(), job.id, job.lease)
        assert count(store) == 2


def error_of(store: Store, job_id: str) -> tuple[str, list[Any]]:
    value = row(store, job_id)["result"]
    value = json.loads(value) if isinstance(value, str) else value
    return value["exc_type"], value["exc_message"]


class TestFailure:
    def test_the_rest_of_a_chain_ends_with_the_error_itself(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("a", "b", "c"))
        worker.settle(failed(worker.claim_one()))
        assert statuses(store, "a", "b", "c") == ["FAILURE"] * 3
        record = store.finished(["c"])["c"]
        assert (record.result, record.traceback) == (ERROR, "Traceback: ...")
        assert row(store, "c")["blocked_reason"] is None
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

    def test_after_all_succeeded_it_is_gone(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(self.workflow())
        for _ in range(3):
            worker.settle(done(worker.claim_one()))
        assert (count(store), edges(store)) == (3, 2)


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
