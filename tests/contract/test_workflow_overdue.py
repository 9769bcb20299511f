"""What waits for others that have all ended, though none of them let it go: somebody's hand was in the rows."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from dbqueue.errors import LockTimeout
from dbqueue.jobs import Retried
from dbqueue.store import changes
from dbqueue.store.base import Store
from dbqueue.store.postgres import sql
from dbqueue.store.trouble import LOCK_SECONDS
from dbqueue.store.workflows.overdue import let_go
from dbqueue.workflows import ERRBACK, FIRST_ARGUMENT, Edge, Event, Workflow
from tests.contract.workflows import ERROR, chain, chord, claimed_ids, done, error_of, failed, overdue, statuses
from tests.servers import libpq_url
from tests.stores import TestWorker, count, new_job, opened, row, run_sql


def end(store: Store, job_id: str, status: str = "SUCCESS", result: str = "7") -> None:
    """As an operator may, by plain SQL."""
    run_sql(
        store,
        f"UPDATE dbqueue_jobs SET status = '{status}', result = :result, ready_at = NULL,"
        " finished_at = CURRENT_TIMESTAMP WHERE id = :id",
        result=result,
        id=job_id,
    )


def test_what_waits_for_a_success_runs_with_its_result(store: Store, worker: TestWorker) -> None:
    store.enqueue_workflow(chain("a", "b", "c"))
    assert overdue(worker) == {}
    end(store, "a")
    assert overdue(worker) == {"b": True}
    assert worker.session.let_go(["b", "c", "unknown"]) == {"b": "PENDING"}
    job = worker.claim_one()
    assert (job.id, job.inputs) == ("b", (("a", FIRST_ARGUMENT, "7", None),))
    worker.settle(done(job))
    assert claimed_ids(worker) == ["c"]


def test_a_body_waits_for_what_may_end_yet(store: Store, worker: TestWorker) -> None:
    store.enqueue_workflow(chord(["a", "b"], "body"))
    end(store, "a")
    assert overdue(worker) == {}
    job = worker.claim_one()
    assert overdue(worker) == {}
    assert worker.session.let_go(["body"]) == {}
    worker.settle(done(job))  # counts for one of two
    assert overdue(worker) == {"body": True}
    assert worker.session.let_go(["body"]) == {"body": "PENDING"}
    assert claimed_ids(worker) == ["body"]
    assert worker.session.let_go(["body"]) == {}


def test_what_is_to_be_tried_again_may_end_yet(store: Store, worker: TestWorker) -> None:
    store.enqueue_workflow(chain("a", "b"))
    job = worker.claim_one()
    worker.settle(Retried("a", job.lease, "{}", None, 3600.0))
    assert worker.session.let_go(["b"]) == {}
    assert statuses(store, "a", "b") == ["RETRY", "PENDING"]


@pytest.mark.parametrize("status", ["FAILURE", "REVOKED"])
def test_it_ends_as_what_it_waits_for_has_ended(store: Store, worker: TestWorker, status: str) -> None:
    store.enqueue_workflow(chain("a", "b"))
    end(store, "a", status, ERROR)
    run_sql(store, "UPDATE dbqueue_jobs SET traceback = 'Traceback: ...' WHERE id = 'a'")
    assert worker.session.let_go(["b"]) == {"b": status}
    assert error_of(store, "b") == ("ValueError", ["bad", 3])
    assert row(store, "b")["traceback"] == "Traceback: ..."


@pytest.mark.parametrize(
    ("event", "status", "runs"),
    [
        ("success", "SUCCESS", True),
        ("success", "FAILURE", False),
        ("error", "FAILURE", True),
        ("error", "SUCCESS", False),
    ],
)
def test_whether_any_may_run_is_told(store: Store, event: Event, status: str, *, runs: bool) -> None:
    """Workers are woken for it."""
    store.enqueue_workflow(Workflow.of([new_job("a"), new_job("b")], [Edge("a", "b", event)]))
    end(store, "a", status, ERROR)
    assert store.perform(lambda: let_go(store, ["b"]))[1] == runs


def test_a_job_that_was_deleted_holds_nothing_up(store: Store, worker: TestWorker) -> None:
    """What takes its result fails of that, in the words of one whose result was forgotten."""
    store.enqueue_workflow(chain("a", "b"))
    run_sql(store, "DELETE FROM dbqueue_jobs WHERE id = 'a'")
    assert overdue(worker) == {"b": False}
    assert worker.session.let_go(["b"]) == {"b": "PENDING"}
    assert worker.claim_one().inputs == "a"


def test_a_failure_takes_its_course_where_it_has_not(store: Store, worker: TestWorker) -> None:
    """The errback, and what waits for the end, were told already: that waits for the others alone."""
    names = ("a", "other", "next", "after", "errback", "ends", "late")
    links = [
        Edge("a", "next"),
        Edge("next", "after"),
        Edge("after", "late", "end"),
        Edge("a", "errback", "error", ERRBACK),
        Edge("a", "ends", "end"),
        Edge("next", "ends", "end"),
        Edge("other", "ends", "end"),
    ]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in names], links))
    first, other = worker.claim(2)
    run_sql(store, "UPDATE dbqueue_jobs SET blocked_reason = 'hidden' WHERE id = 'next'")
    worker.settle(failed(first))
    run_sql(store, "UPDATE dbqueue_jobs SET blocked_reason = 'predecessors' WHERE id = 'next'")
    assert overdue(worker) == {"next": True}
    assert row(store, "ends")["waits_for"] == 2
    assert worker.session.let_go(["next"]) == {"next": "FAILURE"}
    assert statuses(store, "next", "after") == ["FAILURE", "FAILURE"]
    assert error_of(store, "after") == ("ValueError", ["bad", 3])
    assert row(store, "ends")["waits_for"] == 1
    assert sorted(claimed_ids(worker)) == ["errback", "late"]
    worker.settle(done(other))
    assert claimed_ids(worker) == ["ends"]


def test_a_body_fails_with_its_header(store: Store, worker: TestWorker) -> None:
    store.enqueue_workflow(chord(["a", "b"], "body"))
    end(store, "a")
    end(store, "b", "FAILURE", ERROR)
    assert overdue(worker) == {"body": True}
    worker.session.let_go(["body"])
    assert error_of(store, "body") == ("ChordError", ["Dependency b raised ValueError('bad', 3)"])


@pytest.mark.parametrize("status", ["SUCCESS", "FAILURE"])
def test_an_errback(store: Store, worker: TestWorker, status: str) -> None:
    jobs = [new_job(name) for name in ("a", "errback", "after")]
    links = [Edge("a", "errback", "error", ERRBACK), Edge("errback", "after", place="[]")]
    store.enqueue_workflow(Workflow.of(jobs, links))
    end(store, "a", status, ERROR)
    assert overdue(worker) == {"errback": True}
    assert worker.session.let_go(["errback"]) == {"errback": "DELETED" if status == "SUCCESS" else "PENDING"}
    if status == "SUCCESS":
        assert count(store) == 1, "it is deleted, with what waits for it"
    else:
        job = worker.claim_one()
        assert (job.id, job.parent_id) == ("errback", "a")


def test_what_waits_for_an_end(store: Store, worker: TestWorker) -> None:
    jobs = [new_job(name) for name in ("a", "b", "ends")]
    store.enqueue_workflow(Workflow.of(jobs, [Edge("a", "ends", "end"), Edge("b", "ends", "end")]))
    end(store, "a", "FAILURE", ERROR)
    end(store, "b")
    assert overdue(worker) == {"ends": True}
    worker.session.let_go(["ends"])
    assert claimed_ids(worker) == ["ends"]


def test_what_an_operator_has_let_run_again_meanwhile(store: Store, worker: TestWorker) -> None:
    store.enqueue_workflow(chain("a", "b"))
    end(store, "a", "FAILURE", ERROR)
    assert overdue(worker) == {"b": True}
    assert changes.retry(store, ["a"]) == {"a"}
    assert worker.session.let_go(["b"]) == {}
    worker.settle(done(worker.claim_one()))
    assert claimed_ids(worker) == ["b"]


def test_a_large_table_is_looked_through_in_parts(
    store: Store, worker: TestWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbqueue.store.postgres.looks.OVERDUE_PAGES_AT_ONCE", 2)
    monkeypatch.setattr("dbqueue.store.sqlite.work_session.OVERDUE_ROWS_AT_ONCE", 30)
    store.enqueue([new_job(args=f'["{"x" * 500}"]') for _ in range(50)])
    store.enqueue_workflow(chain("a", "b"))
    store.enqueue([new_job(args=f'["{"x" * 500}"]') for _ in range(50)])
    end(store, "a")
    assert worker.session.overdue()[1]
    assert overdue(worker) == {"b": True}


def test_a_failure_of_a_job_whose_id_is_bytes(sqlite_url: str) -> None:
    """No errback can be told of it; nor is it to keep others from being let go."""
    with opened(sqlite_url) as store, contextlib.closing(TestWorker(store)) as worker:
        jobs = [new_job(name) for name in ("a", "errback")]
        store.enqueue_workflow(Workflow.of(jobs, [Edge("a", "errback", "error", ERRBACK)]))
        store.enqueue_workflow(chain("b", "c"))
        end(store, "a", "FAILURE", ERROR)
        end(store, "b")
        run_sql(store, "UPDATE dbqueue_jobs SET id = CAST(id AS BLOB) WHERE id = 'a'")
        run_sql(store, "UPDATE dbqueue_edges SET predecessor = CAST(predecessor AS BLOB) WHERE predecessor = 'a'")
        assert overdue(worker) == {"errback": True, "c": True}
        assert worker.session.let_go(["errback", "c"]) == {"errback": "DELETED", "c": "PENDING"}


def test_what_somebody_has_locked_is_not_waited_for_long(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rounds wait behind it."""
    monkeypatch.setitem(sql.SESSION, "lock_timeout", "50ms")
    monkeypatch.setattr(sql, "READ_ALL", sql.READ_ALL.replace(f"{LOCK_SECONDS}s", "0"))
    with opened(postgres_url) as store, contextlib.closing(TestWorker(store)) as worker:
        store.enqueue_workflow(chain("a", "b"))
        end(store, "a")
        with psycopg.connect(libpq_url(postgres_url)) as somebody:
            somebody.execute("SELECT FROM dbqueue_jobs WHERE id = 'b' FOR UPDATE")
            with pytest.raises(LockTimeout):
                worker.session.let_go(["b"])
        assert worker.session.let_go(["b"]) == {"b": "PENDING"}
