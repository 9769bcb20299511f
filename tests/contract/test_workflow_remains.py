"""Workflows of which some rows are gone, were called off or never enqueued: what is left, and what may run again."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from dbqueue.jobs import REVOKED, ClaimedJob, Failed, Outcome, Retried
from dbqueue.store import changes
from dbqueue.store.base import Store
from dbqueue.store.changing import changing
from dbqueue.store.revoking import revoke
from dbqueue.store.steps import run
from dbqueue.store.transactions.joining import JoinedConnection
from dbqueue.store.workflows.writing import write
from dbqueue.workflows import ERRBACK, Edge, Workflow
from tests.contract.workflows import chain, claimed_ids, done, edges, failed, statuses
from tests.stores import TestWorker, count, new_job, row, run_sql


def take_away(store: Store, job_id: str, *, forgotten: bool) -> None:
    """The row is forgotten, or somebody else deletes it, who leaves its edges."""
    if forgotten:
        assert store.forget(job_id)
    else:
        assert run_sql(store, "DELETE FROM dbqueue_jobs WHERE id = :id", id=job_id)


@pytest.mark.parametrize("forgotten", [True, False])
def test_an_errback_needs_no_other_failure_than_the_one_it_was_told_of(
    store: Store, worker: TestWorker, *, forgotten: bool
) -> None:
    links = [Edge(name, "e", "error", ERRBACK) for name in ("a", "b")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e")], links))
    first, second = sorted(worker.claim(), key=lambda job: job.id)
    worker.settle(failed(first))
    worker.settle(failed(worker.claim_one()), done(second))
    take_away(store, "b", forgotten=forgotten)
    assert edges(store) == (1 if forgotten else 2)
    assert changes.retry(store, ["e"]) == {"e"}
    told = worker.claim_one().inputs
    assert isinstance(told, tuple)
    assert [predecessor for predecessor, *_ in told] == ["a"]


@pytest.mark.parametrize("revoked", [True, False])
def test_an_errback_that_was_called_off_when_it_had_been_told_runs_after_all(
    store: Store, worker: TestWorker, *, revoked: bool
) -> None:
    """No other failure can come: the one that it was told of is enough, a call that was called off as well."""
    links = [Edge(name, "e", "error", ERRBACK) for name in ("a", "b")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e")], links))
    first, second = sorted(worker.claim(), key=lambda job: job.id)
    worker.settle(Failed("a", first.lease, "{}", None, 0.0, REVOKED) if revoked else failed(first))
    revoke(store, ["e"])
    worker.settle(done(second))
    assert statuses(store, "a", "b", "e") == ["REVOKED" if revoked else "FAILURE", "SUCCESS", "REVOKED"]
    assert changes.retry(store, ["e"]) == {"e"}
    assert claimed_ids(worker) == ["e"]


@pytest.mark.parametrize("forgotten", [True, False])
def test_a_job_with_new_arguments_needs_nothing_of_what_was_before_it(
    store: Store, worker: TestWorker, *, forgotten: bool
) -> None:
    store.enqueue_workflow(chain("a", "b"))
    worker.settle(done(worker.claim_one()))
    job = worker.claim_one()
    worker.settle(Retried("b", job.lease, "{}", None, 0.0, args="[7]", kwargs="{}"))
    worker.settle(failed(worker.claim_one()))
    take_away(store, "a", forgotten=forgotten)
    assert edges(store) == (0 if forgotten else 1)
    assert changes.retry(store, ["b"]) == {"b"}
    again = worker.claim_one()
    assert (again.args, again.inputs) == ("[7]", False)


def test_a_body_needs_no_header_that_passed_it_nothing(store: Store, worker: TestWorker) -> None:
    headers = [Edge("a", "body", place="[0]"), Edge("b", "body")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "body")], headers))
    worker.settle(*map(done, worker.claim()))
    worker.settle(failed(worker.claim_one()))
    take_away(store, "b", forgotten=False)
    assert changes.retry(store, ["body"]) == {"body"}
    assert worker.claim_one().inputs == (("a", "[0]", "1", None),)


def test_a_failure_that_no_errback_reads_runs_again_before_they_do(store: Store, worker: TestWorker) -> None:
    links = [Edge("a", "e", "error"), Edge("b", "f", "error", ERRBACK), Edge("c", "f", "error", ERRBACK)]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in "abcef"], links))
    first, second, third = sorted(worker.claim(), key=lambda job: job.id)
    worker.settle(failed(first), failed(second))
    worker.settle(failed(third))
    assert row(store, "f")["parent_id"] == "b"
    assert changes.retry(store, ["a", "b", "c"]) == {"a", "c"}, "the errback is about to be told of the other"
    assert sorted(claimed_ids(worker)) == ["a", "c", "e", "f"]


@pytest.mark.parametrize("by", ["failure", "revoke"])
def test_an_errback_that_was_called_off_after_it_was_told_waits_for_nothing_more(
    store: Store, worker: TestWorker, by: str
) -> None:
    links = [Edge(name, "e", "error", ERRBACK) for name in ("a", "b")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e")], links))
    if by == "revoke":
        revoke(store, ["a"])
    else:
        worker.settle(failed(worker.claim(limit=1)[0]))
    revoke(store, ["e"])
    assert claimed_ids(worker) == ["b"]
    assert changes.retry(store, ["e"]) == {"e"}, "another that it waited for runs"
    assert claimed_ids(worker) == ["e"]


def test_an_errback_that_was_called_off_before_any_failure_stays_so_while_what_it_waits_for_runs(
    store: Store, worker: TestWorker
) -> None:
    """It may succeed at this moment, and nobody would take away an errback that was not waiting yet."""
    store.enqueue_workflow(Workflow.of([new_job("a"), new_job("e")], [Edge("a", "e", "error", ERRBACK)]))
    running = worker.claim_one()
    revoke(store, ["e"])
    assert changes.retry(store, ["e"]) == set()
    worker.settle(failed(running))
    assert changes.retry(store, ["a", "e"]) == {"a", "e"}


def test_an_errback_that_was_called_off_is_told_of_no_failure_whose_row_is_gone(
    store: Store, worker: TestWorker
) -> None:
    store.enqueue_workflow(Workflow.of([new_job("a"), new_job("e")], [Edge("a", "e", "error")]))
    revoke(store, ["e"])
    worker.settle(failed(worker.claim_one()))
    take_away(store, "a", forgotten=False)
    assert changes.retry(store, ["e"]) == set()


@pytest.mark.parametrize("forgotten", [True, False])
@pytest.mark.parametrize("ends", [done, failed])
@pytest.mark.parametrize("place", [ERRBACK, None])
def test_an_errback_that_was_called_off_stays_so_when_what_it_waited_for_is_gone(
    store: Store,
    worker: TestWorker,
    place: str | None,
    ends: Callable[[ClaimedJob], Outcome],
    *,
    forgotten: bool,
) -> None:
    links = [Edge(name, "e", "error", place) for name in ("a", "b")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "e")], links))
    revoke(store, ["e"])
    worker.settle(*map(ends, worker.claim()))
    for name in ("a", "b"):
        take_away(store, name, forgotten=forgotten)
    assert changes.retry(store, ["e"]) == set()
    assert store.forget("e")
    assert edges(store) == 0


@pytest.mark.parametrize("later_ends", [True, False])
def test_an_errback_that_was_called_off_is_told_of_no_later_job_of_the_same_id(
    store: Store, worker: TestWorker, *, later_ends: bool
) -> None:
    errback = new_job("e", parent_id="a")
    store.enqueue_workflow(Workflow.of([new_job("a"), errback], [Edge("a", "e", "error")]))
    revoke(store, ["e"])
    worker.settle(done(worker.claim_one()))
    assert store.forget("a")
    store.enqueue_workflow(chain("a", "c"))
    if later_ends:
        worker.settle(failed(worker.claim_one()))
    assert changes.retry(store, ["e"]) == set()


def test_a_workflow_runs_again_without_what_came_after_its_errbacks(store: Store, worker: TestWorker) -> None:
    links = [Edge("a", "e", "error", ERRBACK), Edge("e", "after")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "e", "after")], links))
    for _ in range(2):
        worker.settle(failed(worker.claim_one()))
    assert statuses(store, "a", "e", "after") == ["FAILURE"] * 3
    assert changes.retry_workflow(store, "a") == {"a"}


def test_an_errback_is_told_of_all_that_was_called(store: Store, worker: TestWorker) -> None:
    about = {"queue": "other", "priority": 3, "parent_id": "p", "root_id": "r", "group_id": "g"}
    call = new_job("a", **about, content_type="application/x-other", content=b"\x80", headers='{"h": 1}')
    store.enqueue_workflow(Workflow.of([call, new_job("e")], [Edge("a", "e", "error", ERRBACK)]))
    (job,) = worker.claim(queues=["other"])
    worker.settle(Retried("a", job.lease, "{}", None, 0.0))
    worker.settle(*map(failed, worker.claim(queues=["other"])))
    told = worker.claim_one().inputs
    assert isinstance(told, tuple)
    ((_, _, text, content),) = told
    found = json.loads(text or "")
    assert content == b"\x80"
    assert {name: found[name] for name in about} == about
    assert (found["content_type"], found["headers"], found["retries"]) == ("application/x-other", {"h": 1}, 1)


def test_a_job_that_was_given_no_time_has_none_when_it_is_let_go(store: Store, worker: TestWorker) -> None:
    store.enqueue_workflow(chain("a", "b"))
    worker.settle(done(worker.claim_one()))
    assert (worker.claim_one().eta, row(store, "b")["expires_at"]) == (None, None)


def test_a_workflow_that_is_not_compared_ends_with_what_was_revoked_before(store: Store, worker: TestWorker) -> None:
    """As those of a schedule, whose ids are new but for what somebody has revoked before its time."""
    revoke(store, ["b"])
    for _ in range(2):
        with changing(store) as connection:
            run(write(store, chain("a", "b", "c"), check=False), JoinedConnection(connection).reply)
        assert statuses(store, "a", "b", "c") == ["PENDING", "REVOKED", "REVOKED"]
        assert edges(store) == 2
    assert claimed_ids(worker) == ["a"]


def test_a_workflow_that_is_not_compared_is_the_one_whose_first_job_is_there(store: Store, worker: TestWorker) -> None:
    store.enqueue([new_job("a", args="[1]")])
    with changing(store) as connection:
        run(write(store, chain("a", "b"), check=False), JoinedConnection(connection).reply)
    assert (count(store), edges(store)) == (1, 0)


def test_a_workflow_whose_last_job_is_no_older_than_that_stays(store: Store, worker: TestWorker) -> None:
    ended = datetime.now(UTC).replace(microsecond=0)
    store.enqueue_workflow(chain("a", "b"))
    for seconds in (0, 1):
        worker.settle(done(worker.claim_one()), now=ended + timedelta(seconds=seconds))
    hour = timedelta(hours=1)
    for later, deleted in ((timedelta(seconds=1), 0), (timedelta(seconds=1.001), 2)):
        assert worker.session.prune(older_than_seconds=3600, limit=100, now=ended + hour + later) == deleted
