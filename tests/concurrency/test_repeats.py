"""An operator lets jobs of a workflow run again while others of it end, or their results are deleted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from dbqueue.jobs import Failed, Outcome, Succeeded
from dbqueue.store import changes
from dbqueue.store.base import Store
from dbqueue.store.changing import changing
from dbqueue.store.steps import run
from dbqueue.store.transactions.joining import JoinedConnection
from dbqueue.store.workflows import operators
from dbqueue.workflows import Edge, Workflow
from tests.servers import libpq_url
from tests.stores import TestWorker, new_job, opened, row
from tests.waiting import wait_until

ERROR = '{"exc_type": "ValueError", "exc_message": ["bad"], "exc_module": "builtins"}'
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
ENDS: dict[str, Callable[[str, str], Outcome]] = {
    "succeeds": lambda job_id, lease: Succeeded(job_id, lease, "1", 0.0),
    "fails": lambda job_id, lease: Failed(job_id, lease, ERROR, None, 0.0),
}


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


class Order:
    """Calls that wait for a row which is locked here, or for each other, until `go`."""

    def __init__(self, url: str, job_id: str) -> None:
        self._rival = psycopg.connect(libpq_url(url))
        self._rival.execute("SET deadlock_timeout = '10min'")  # of a deadlock it is never the victim
        self._rival.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [job_id])
        self._watch = psycopg.connect(libpq_url(url), autocommit=True)
        self._threads: list[threading.Thread] = []
        self.found: dict[str, Any] = {}

    def begin(self, name: str, call: Callable[[], Any]) -> None:
        """Return when it waits, or has ended."""

        def run() -> None:
            self.found[name] = call()

        thread = threading.Thread(target=run)
        thread.start()
        self._threads.append(thread)
        wait_until(lambda: name in self.found or self._waiting() == len(self._threads) - len(self.found), what=name)

    def _waiting(self) -> int:
        (count,) = self._watch.execute(WAITING).fetchone() or (0,)
        return int(count)

    def also_wants(self, job_id: str) -> None:
        """Lock another row, which one of the calls may have locked: return when it has let go."""
        self._rival.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [job_id])

    def go(self) -> None:
        self._rival.close()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        self._watch.close()


@pytest.fixture
def chord(store: Store) -> Iterator[tuple[TestWorker, str]]:
    """One of two headers has failed, and so has the body; the other runs, and another job waits for it. Its lease."""
    worker = TestWorker(store)
    edges = [Edge("a", "body", place="[0]"), Edge("b", "body", place="[1]"), Edge("b", "other")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "body", "other")], edges))
    first, second = worker.claim()
    worker.settle(Failed(first.id, first.lease, ERROR, None, 0.0))
    assert [row(store, name)["status"] for name in ("a", "b", "body")] == ["FAILURE", "STARTED", "FAILURE"]
    yield worker, second.lease
    worker.close()


@pytest.mark.parametrize("first", ["the end", "the repeat"])
@pytest.mark.parametrize("how", ENDS)
def test_a_body_waits_for_no_header_that_ends_at_the_same_time(
    store: Store, postgres_url: str, chord: tuple[TestWorker, str], first: str, how: str
) -> None:
    """Either the repeat sees the end of the header, or the end sees that the body waits again."""
    worker, lease = chord
    order = Order(postgres_url, "other" if first == "the end" else "a")
    calls: dict[str, Callable[[], Any]] = {
        "the end": lambda: worker.settle(ENDS[how]("b", lease)),
        "the repeat": lambda: changes.retry(store, ["a"]),
    }
    for name in sorted(calls, key=lambda name: name != first):
        order.begin(name, calls[name])
    order.go()
    assert "a" in order.found["the repeat"]
    for _ in range(4):
        worker.settle(*(Succeeded(job.id, job.lease, "1", 0.0) for job in worker.claim()))
    assert row(store, "a")["status"] == "SUCCESS"
    assert row(store, "body")["status"] in ("SUCCESS", "FAILURE"), "nothing is left that it could wait for"
    assert (row(store, "body")["status"] == "SUCCESS") == (row(store, "b")["status"] == "SUCCESS")


def test_a_success_that_runs_again_beside_the_end_of_another_header(store: Store, postgres_url: str) -> None:
    worker = TestWorker(store)
    edges = [Edge("a", "body", place="[0]"), Edge("b", "body", place="[1]"), Edge("b", "other")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "b", "body", "other")], edges))
    first, second = worker.claim()
    worker.settle(Succeeded(first.id, first.lease, "1", 0.0))
    order = Order(postgres_url, "other")
    order.begin("the end", lambda: worker.settle(Succeeded("b", second.lease, "2", 0.0)))
    order.begin("the repeat", lambda: changes.retry(store, ["a"]))
    order.go()
    assert order.found["the repeat"] == {"a"}
    for _ in range(2):
        worker.settle(*(Succeeded(job.id, job.lease, "3", 0.0) for job in worker.claim()))
    assert row(store, "body")["status"] == "SUCCESS"
    worker.close()


@pytest.mark.parametrize("limit_key", [None, "bodies"])
def test_a_body_that_waits_again_for_the_header_that_ends(
    store: Store, postgres_url: str, limit_key: str | None
) -> None:
    """The end has begun when the body was revoked still."""
    worker = TestWorker(store)
    jobs = [new_job("a"), new_job("b"), new_job("body", limit_key=limit_key)]
    edges = [Edge("a", "body", place="[0]"), Edge("b", "body", place="[1]")]
    store.enqueue_workflow(Workflow.of(jobs, edges))
    first, second = worker.claim()
    worker.settle(Succeeded(first.id, first.lease, "1", 0.0))
    assert changes.cancel(store, ["body"]) == {"body"}
    order = Order(postgres_url, "a")
    order.begin("the repeat", lambda: changes.retry(store, ["body"]))
    order.begin("the end", lambda: worker.settle(Succeeded("b", second.lease, "2", 0.0)))
    order.go()
    assert order.found["the repeat"] == {"body"}
    assert [job.id for job in (*worker.claim_held().claimed, *worker.claim())] == ["body"]
    worker.close()


@pytest.mark.parametrize("first", ["the repeat", "forget"])
def test_a_result_is_not_deleted_while_its_reader_is_let_run_again(store: Store, postgres_url: str, first: str) -> None:
    """It runs with the result, or not at all."""
    worker = TestWorker(store)
    store.enqueue_workflow(Workflow.of([new_job("a"), new_job("b")], [Edge("a", "b", place="[]")]))
    for _ in range(2):
        run = worker.claim_one()
        worker.settle(Succeeded(run.id, run.lease, "7", 0.0))
    order = Order(postgres_url, "b" if first == "the repeat" else "a")
    calls: dict[str, Callable[[], Any]] = {
        "the repeat": lambda: changes.retry(store, ["b"]),
        "forget": lambda: store.forget("a"),
    }
    for name in sorted(calls, key=lambda name: name != first):
        order.begin(name, calls[name])
    order.go()
    assert bool(order.found["the repeat"]) != order.found["forget"]
    assert [job.inputs for job in worker.claim()] == [(("a", "[]", "7", None),)] * len(order.found["the repeat"])
    worker.close()


def test_a_failure_further_up_sees_what_was_let_wait_again_meanwhile(store: Store, postgres_url: str) -> None:
    """What is between them waits, and may not run any more."""
    worker = TestWorker(store)
    edges = [Edge("first", "middle"), Edge("middle", "s", place="[0]"), Edge("y", "s", place="[1]")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("first", "middle", "s", "y")], edges))
    runs = {job.id: job for job in worker.claim()}
    worker.settle(ENDS["fails"]("y", runs["y"].lease))
    order = Order(postgres_url, "y")
    order.begin("the repeat", lambda: changes.retry(store, ["y"]))
    order.begin("the end", lambda: worker.settle(ENDS["fails"]("first", runs["first"].lease)))
    order.go()
    assert order.found["the repeat"] == {"y", "s"}
    worker.settle(*(ENDS["succeeds"](job.id, job.lease) for job in worker.claim()))
    assert [row(store, name)["status"] for name in ("middle", "s", "y")] == ["FAILURE", "FAILURE", "SUCCESS"]
    worker.close()


def test_a_workflow_that_is_revoked_while_a_part_of_it_is_let_run_again(store: Store, postgres_url: str) -> None:
    worker = TestWorker(store)
    jobs = [new_job("body"), new_job("later", delay_seconds=3600.0), new_job("z")]
    edges = [Edge("later", "body", place="[0]"), Edge("z", "body", place="[1]")]
    store.enqueue_workflow(Workflow.of(jobs, edges))
    worker.settle(ENDS["fails"]("z", worker.claim_one().lease))
    order = Order(postgres_url, "z")
    order.begin("the repeat", lambda: changes.retry(store, ["z"]))
    order.begin("the end", lambda: changes.cancel_workflow(store, "z"))
    order.go()
    assert [row(store, name)["status"] for name in ("body", "later", "z")] == ["REVOKED"] * 3
    worker.close()


def test_what_is_about_to_wait_again_is_not_claimed_meanwhile(store: Store) -> None:
    """It was let go by the success that is to run again, and would run with a result that is none any more."""
    worker = TestWorker(store)
    store.enqueue_workflow(Workflow.of([new_job("a"), new_job("b")], [Edge("a", "b", place="[]")]))
    worker.settle(ENDS["succeeds"]("a", worker.claim_one().lease))
    with changing(store) as connection:
        assert run(operators.to_repeat(store, ["a"]), JoinedConnection(connection).reply) == {"a"}
        assert worker.claim() == []
    assert [job.id for job in worker.claim()] == ["b"]
    worker.close()


def test_a_repeat_that_met_a_deadlock_is_done_again(store: Store, postgres_url: str) -> None:
    worker = TestWorker(store)
    edges = [Edge(name, "body", place=f"[{place}]") for place, name in enumerate("amz")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in ("a", "m", "z", "body")], edges))
    runs = {job.id: job for job in worker.claim()}
    worker.settle(ENDS["fails"]("m", runs["m"].lease))
    order = Order(postgres_url, "z")
    order.begin("the repeat", lambda: changes.retry(store, ["m"]))
    order.also_wants("a")
    order.go()
    assert order.found["the repeat"] == {"m", "body"}
    worker.close()
