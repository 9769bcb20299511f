"""A running job becomes a workflow, or adds headers to the chord that it belongs to."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from dbqueue.errors import DuplicateTaskId
from dbqueue.jobs import BLOCKED_BY_PREDECESSORS, Progress, Released, Replaced, Retried
from dbqueue.limits import Limit
from dbqueue.store import limits
from dbqueue.store.base import Store
from dbqueue.store.revoking import revoke
from dbqueue.store.workflows.changes import add_header, can_add_header
from dbqueue.workflows import APPEND, BODY, ERRBACK, FIRST_ARGUMENT, Edge, Workflow
from tests.contract.workflows import chain, chord, done, edges, failed, statuses
from tests.stores import TestWorker, count, moment, new_job, row, run_sql


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

    @pytest.mark.parametrize("workflow", [chain("n", "x"), chain("x", "n")], ids=["before", "after"])
    def test_by_a_job_that_is_there_already(self, store: Store, worker: TestWorker, workflow: Workflow) -> None:
        """No edge would lead from it to the last, which would wait for ever; nor to a callback from that."""
        store.enqueue_workflow(chain("m", "n") if workflow.first.id == "x" else chain("n", "o"))
        worker.claim_one()
        store.enqueue([new_job("x")])
        job = worker.claim_one()
        before = (row(store, "x"), edges(store))
        with pytest.raises(DuplicateTaskId, match="exist already"):
            worker.settle(Replaced("x", job.lease, workflow, 0.1))
        assert (row(store, "x"), edges(store)) == before

    def test_by_a_job_of_its_own_workflow_that_is_there_already(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chain("n", "x"))
        worker.settle(done(worker.claim_one()))
        job = worker.claim_one()
        with pytest.raises(DuplicateTaskId, match="exist already"):
            worker.settle(Replaced("x", job.lease, chain("n", "x"), 0.1))
        assert row(store, "x")["waits_for"] == 0

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

    def test_an_eta_of_its_own_counts_where_it_waits_for_a_permit_too(self, store: Store, worker: TestWorker) -> None:
        later = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
        store.enqueue([new_job("x")])
        limited = new_job("x", limit_key="k", blocked_reason="limit", eta=later)
        worker.settle(Replaced("x", worker.claim_one().lease, Workflow((limited,)), 0.1))
        assert moment(row(store, "x")["held_at"]) == later

    def test_it_gives_its_permit_back(self, store: Store, worker: TestWorker) -> None:
        """What goes before it may need one of the same limit."""
        limits.set_limit(store, "k", Limit(running=1))
        store.enqueue([new_job("x", limit_key="k", blocked_reason="limit")])
        (job,) = worker.claim_held().claimed
        jobs = [new_job("n", limit_key="k", blocked_reason="limit"), new_job("x", limit_key="k")]
        worker.settle(Replaced("x", job.lease, Workflow.of(jobs, [Edge("n", "x", place="[]")]), 0.1))
        assert row(store, "x")["permit"] is None
        (first,) = worker.claim_held().claimed
        assert first.id == "n"
        worker.settle(done(first))
        assert [each.id for each in worker.claim_held().claimed] == ["x"]

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

    def test_of_a_chain_the_body_waits_for_the_last_alone(self, store: Store, worker: TestWorker) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        jobs = worker.claim()
        links = (Edge("x", "y"), Edge("y", BODY, place=APPEND))
        steps = (new_job("x"), new_job("y", waits_for=1, blocked_reason=BLOCKED_BY_PREDECESSORS))
        assert store.add_header(Workflow(steps, links), "a", jobs[0].lease)
        worker.settle(*map(done, jobs))
        for expected in ("x", "y"):
            job = worker.claim_one()
            assert job.id == expected
            worker.settle(done(job))
        assert worker.claim_one().id == "body"

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

    def test_a_body_that_is_passed_results_by_name_is_not_passed_this(self, store: Store, worker: TestWorker) -> None:
        links = [Edge("a", "c", place='"left"'), Edge("b", "c", place='"right"')]
        store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "c")], links))
        jobs = worker.claim()
        assert store.add_header(self.added(), "a", jobs[0].lease)
        worker.settle(*map(done, jobs))
        worker.settle(done(worker.claim_one()))
        inputs = worker.claim_one().inputs
        assert isinstance(inputs, tuple)
        assert {(predecessor, place) for predecessor, place, *_ in inputs} == {("a", '"left"'), ("b", '"right"')}

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

    @pytest.mark.parametrize("others", [["x"], ["x", "y"]], ids=["alone", "with another"])
    def test_a_job_from_elsewhere_is_not_taken_for_one_that_was_added(
        self, store: Store, worker: TestWorker, others: list[str]
    ) -> None:
        """The body would not wait for it, and what was to be added beside it would never run."""
        store.enqueue_workflow(chord(["a", "b"], "body"))
        first, _ = worker.claim()
        store.enqueue([new_job("x")])
        workflow = Workflow(tuple(map(new_job, others)), tuple(Edge(name, BODY, place=APPEND) for name in others))
        with pytest.raises(DuplicateTaskId, match="exist already"):
            store.add_header(workflow, first.id, first.lease)
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

    def test_what_was_promised_is_added_though_the_body_has_failed_meanwhile(
        self, store: Store, worker: TestWorker
    ) -> None:
        store.enqueue_workflow(chord(["a", "b"], "body"))
        job, other = worker.claim()
        worker.settle(failed(other))
        assert store.perform(lambda: add_header(store, self.added(), job.id, job.lease, promised=True))
        assert statuses(store, "new", "body") == ["PENDING", "FAILURE"]
        assert row(store, "body")["waits_for"] == 0

    def test_what_was_promised_is_not_added_to_a_body_that_was_let_go(self, store: Store, worker: TestWorker) -> None:
        """It would not wait for it: as where an operator has cut the edges to it."""
        store.enqueue_workflow(chord(["a", "b"], "body"))
        job, _ = worker.claim()
        run_sql(
            store,
            "UPDATE dbqueue_jobs SET waits_for = 0, blocked_reason = NULL, ready_at = created_at WHERE id = 'body'",
        )
        assert not store.perform(lambda: add_header(store, self.added(), job.id, job.lease, promised=True))
        assert count(store) == 3

    def test_whether_something_can_be_added_is_told_before(self, store: Store, worker: TestWorker) -> None:
        """To a transactional task, which adds it with its end: not once the body has ended, nor by another run."""
        store.enqueue_workflow(chord(["a", "b"], "body"))
        job, _ = worker.claim()

        def told(lease: str) -> bool:
            return store.perform(lambda: can_add_header(store, job.id, lease))

        assert told(job.lease)
        assert not told(str(uuid4()))
        revoke(store, ["body"])
        assert not told(job.lease)

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
