"""`dbqueue jobs tree`, and whole workflows retried and cancelled."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from dbqueue.cli.tree import dot_lines, tree_lines
from dbqueue.jobs import Failed, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.workflows.reads import Graph, workflow_of
from dbqueue.workflows import Edge, Workflow
from tests.cli.commands import Commands
from tests.stores import TestWorker, new_job, opened

ERROR = json.dumps({"exc_type": "ValueError", "exc_message": ["bad"], "exc_module": "builtins"})


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    with opened(database_url) as store:
        yield store


def chord(store: Store) -> None:
    """a -> (b, c) -> body -> last, and an errback of c."""
    edges = [
        Edge("a", "b", place="[]"),
        Edge("a", "c", place="[]"),
        Edge("b", "d-body", place="[0]"),
        Edge("c", "d-body", place="[1]"),
        Edge("d-body", "e-last", place="[]"),
        Edge("c", "f-errback", "error"),
    ]
    names = ("a", "b", "c", "d-body", "e-last", "f-errback")
    store.enqueue_workflow(Workflow.of([new_job(name) for name in names], edges))


def found(store: Store, job_id: str) -> Graph:
    graph = workflow_of(store, job_id)
    assert graph is not None
    return graph


def test_the_tree(store: Store) -> None:
    chord(store)
    worker = TestWorker(store)
    job = worker.claim_one()
    worker.settle(Succeeded(job.id, job.lease, "1", 0.0))
    worker.claim(1)
    assert list(tree_lines(found(store, "e-last"))) == [
        "a  shop.pack  \x1b[32mSUCCESS\x1b[0m",
        "├─ b  shop.pack  \x1b[36mSTARTED\x1b[0m  → d-body",
        "└─ c  shop.pack  \x1b[34mPENDING\x1b[0m",
        "   ├─ d-body  shop.pack  \x1b[34mPENDING\x1b[0m, waits for 2",
        "   │  ↓ e-last  shop.pack  \x1b[34mPENDING\x1b[0m, waits for 1",
        "   └─ on error: f-errback  shop.pack  \x1b[34mPENDING\x1b[0m, waits for 1",
    ]
    worker.close()


def test_a_long_chain(store: Store) -> None:
    names = [f"n{number:04}" for number in range(3000)]
    edges = [Edge(names[n], names[n + 1]) for n in range(len(names) - 1)]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in names], edges))
    lines = list(tree_lines(found(store, "n0007")))
    assert len(lines) == 3000
    assert lines[1].startswith("↓ n0001")
    assert lines[-1].startswith("↓ n2999")


def test_a_job_of_no_workflow(store: Store) -> None:
    store.enqueue([new_job("plain")])
    assert [job.id for job in found(store, "plain").jobs] == ["plain"]
    assert workflow_of(store, "absent") is None


def test_the_drawing(store: Store) -> None:
    names = ('a"\\', "b", "c")
    edges = [Edge(names[0], "b"), Edge(names[0], "c", "error")]
    store.enqueue_workflow(Workflow.of([new_job(name) for name in names], edges))
    text = "\n".join(dot_lines(found(store, "b")))
    assert text.startswith("digraph workflow {")
    assert '"a\\"\\\\" -> "b";' in text
    assert '"a\\"\\\\" -> "c" [style=dashed, color=red];' in text
    assert '"b" [label="shop.pack\\nb\\nPENDING", color=blue];' in text


def test_the_command(store: Store, dbqueue: Commands) -> None:
    chord(store)
    shown = dbqueue.here("jobs", "tree", "b")
    assert (shown.returncode, len(shown.stdout.splitlines())) == (0, 6)
    told = json.loads(dbqueue.here("jobs", "tree", "b", "--json").stdout)
    assert (told["jobs"][0]["id"], len(told["edges"])) == ("a", 6)
    assert dbqueue.here("jobs", "tree", "b", "--dot").stdout.startswith("digraph")
    assert dbqueue.here("jobs", "tree", "absent").returncode == 1


def test_whole_workflows_are_retried_and_cancelled(store: Store, dbqueue: Commands) -> None:
    chord(store)
    worker = TestWorker(store)
    job = worker.claim_one()
    worker.settle(Failed(job.id, job.lease, ERROR, None, 0.0))
    retried = json.loads(dbqueue.here("jobs", "retry", "e-last", "--workflow", "--json").stdout)
    assert sorted(retried["retried"]) == ["a", "b", "c", "d-body", "e-last"]
    cancelled = json.loads(dbqueue.here("jobs", "cancel", "a", "--workflow", "--json").stdout)
    assert sorted(cancelled["cancelled"]) == ["a", "b", "c", "d-body", "e-last"]
    again = dbqueue.here("jobs", "cancel", "a", "--workflow")
    assert (again.returncode, again.stderr) == (1, "Error: a: it has ended already (REVOKED)\n")
    worker.close()


def test_a_workflow_that_is_retried_keeps_what_has_succeeded(store: Store, dbqueue: Commands) -> None:
    chord(store)
    worker = TestWorker(store)
    job = worker.claim_one()
    worker.settle(Succeeded(job.id, job.lease, "1", 0.0))
    first, second = worker.claim(2)
    worker.settle(Succeeded(first.id, first.lease, "1", 0.0))
    worker.settle(Failed(second.id, second.lease, ERROR, None, 0.0))
    retried = json.loads(dbqueue.here("jobs", "retry", "a", "--workflow", "--json").stdout)
    assert retried == {"retried": ["c", "d-body", "e-last"], "refused": {}}
    worker.close()
