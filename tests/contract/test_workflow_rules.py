"""Random graphs with random outcomes, beside a plain evaluator of what must become of each job."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from itertools import count as numbers
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbqueue.jobs import ClaimedJob, Failed, Outcome, Released, Retried, Succeeded
from dbqueue.store.base import Store
from dbqueue.workflows import ERRBACK, Edge, Event, Workflow
from tests.stores import TestWorker, count, new_job

GONE = "deleted"
_examples = numbers()


@dataclass(frozen=True)
class Node:
    """One job: what it waits for, and what its run gives."""

    predecessors: tuple[int, ...]
    event: Event
    passed: str
    """How results travel: `list` (a chord's body), `first` (a chain's next), `none`."""
    outcome: str

    @property
    def joins(self) -> bool:
        return len(self.predecessors) > 1 or self.passed == "list"


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Node, ...]:
    nodes: list[Node] = []
    families: list[int] = []
    """What hangs below an errback goes with it; no job hangs below two."""
    for index in range(draw(st.integers(2, 10))):
        family = draw(st.sampled_from(sorted(set(families)))) if families else -1
        among = [each for each in range(index) if families[each] == family]
        chosen = tuple(sorted(draw(st.sets(st.sampled_from(among), max_size=4)))) if among else ()
        event: Event = draw(st.sampled_from(("success", "success", "success", "error", "error", "end")))
        nodes.append(
            Node(
                chosen,
                event,
                draw(st.sampled_from(("list", "none") if len(chosen) > 1 else ("list", "first", "none"))),
                draw(st.sampled_from(("success",) * 3 + ("failure", "revoked", "retry", "release"))),
            )
        )
        families.append(index if chosen and event == "error" else family if chosen else -1)
    return tuple(nodes)


def expected(nodes: tuple[Node, ...]) -> list[str]:
    """What each job ends as."""
    ends: list[str] = []
    told: list[bool] = []
    for node in nodes:
        before = [(ends[each], told[each]) for each in node.predecessors]
        run = {"failure": "FAILURE", "revoked": "REVOKED"}.get(node.outcome, "SUCCESS")
        if any(end == GONE for end, _ in before):
            end, tells = GONE, False
        elif not before or node.event == "end":
            end, tells = run, run != "SUCCESS"
        elif node.event == "error":
            runs = any(end != "SUCCESS" and heard for end, heard in before)
            end, tells = (run, run != "SUCCESS") if runs else (GONE, False)
        elif all(end == "SUCCESS" for end, _ in before):
            end, tells = run, run != "SUCCESS"
        else:
            end, tells = ("FAILURE", True) if node.joins else (before[0][0], False)
        ends.append(end)
        told.append(tells)
    return ends


def written(nodes: tuple[Node, ...], name: str) -> Workflow:
    edges = []
    for index, node in enumerate(nodes):
        for position, before in enumerate(node.predecessors):
            if node.event != "success":
                place = ERRBACK if node.event == "error" else None
                edges.append(Edge(f"{name}-{before}", f"{name}-{index}", node.event, place))
            else:
                place = {"list": f"[{position}]", "first": "[]", "none": None}[node.passed]
                edges.append(Edge(f"{name}-{before}", f"{name}-{index}", "success", place))
    return Workflow.of([new_job(f"{name}-{index}") for index in range(len(nodes))], edges)


def check_inputs(nodes: tuple[Node, ...], name: str, job: ClaimedJob) -> None:
    node = nodes[int(job.id.rpartition("-")[2])]
    if not node.predecessors or node.event == "end" or (node.passed == "none" and node.event == "success"):
        assert job.inputs is False
        return
    assert isinstance(job.inputs, tuple)
    if node.event == "error":
        ((predecessor, place, text, _),) = job.inputs
        told_of = json.loads(text or "")["id"]
        assert (predecessor, place) == (told_of, ERRBACK)
        assert int(told_of.rpartition("-")[2]) in node.predecessors
        assert job.parent_id == told_of
        return
    found = {place: json.loads(text or "null") for _, place, text, _ in job.inputs}
    ids = [f"{name}-{each}" for each in node.predecessors]
    assert found == ({"[]": ids[0]} if node.passed == "first" else {f"[{n}]": each for n, each in enumerate(ids)})


def outcome_of(nodes: tuple[Node, ...], job: ClaimedJob, seen: set[str]) -> Outcome:
    kind = nodes[int(job.id.rpartition("-")[2])].outcome
    again = job.id in seen
    seen.add(job.id)
    error = json.dumps({"exc_type": "ValueError", "exc_message": [job.id], "exc_module": "builtins"})
    if kind in ("failure", "revoked"):
        return Failed(job.id, job.lease, error, None, 0.0, status="FAILURE" if kind == "failure" else "REVOKED")
    if kind == "retry" and not again:
        return Retried(job.id, job.lease, error, None, 0.0)
    if kind == "release" and not again:
        return Released(job.id, job.lease, job.ready_at, lost=True)
    return Succeeded(job.id, job.lease, json.dumps(job.id), 0.0)


def run(store: Store, workers: list[TestWorker], nodes: tuple[Node, ...], name: str, dice: random.Random) -> None:
    """Let two workers claim and complete in random portions until nothing is due; some outcomes are sent twice."""
    held: list[tuple[TestWorker, ClaimedJob]] = []
    sent: list[tuple[TestWorker, Outcome]] = []
    seen: set[str] = set()
    idle = 0
    while idle < 3:
        worker = dice.choice(workers)
        mine = [pair for pair in held if pair[0] is worker]
        ending = dice.sample(mine, dice.randint(0, len(mine)))
        for pair in ending:
            held.remove(pair)
        outcomes = [outcome_of(nodes, job, seen) for _, job in ending]
        settled = worker.settle_and_claim(
            [*outcomes, *(outcome for owner, outcome in sent if owner is worker and dice.random() < 0.3)],
            limit=dice.randint(1, 4),
        )
        assert settled.settled == {outcome.job_id for outcome in outcomes}
        sent += [(worker, outcome) for outcome in outcomes]
        for job in settled.claimed:
            check_inputs(nodes, name, job)
            held.append((worker, job))
        idle = 0 if held or settled.claimed else idle + 1


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(nodes=graphs(), seed=st.integers(0, 2**32))
def test_every_job_ends_as_the_rules_say(store: Store, nodes: tuple[Node, ...], seed: int) -> None:
    name = f"g{next(_examples)}"
    workers = [TestWorker(store), TestWorker(store)]
    try:
        store.enqueue_workflow(written(nodes, name))
        run(store, workers, nodes, name, random.Random(seed))
        with store.connect() as connection:
            rows: Any = connection.exec_driver_sql("SELECT id, status FROM dbqueue_jobs")
            found = {job_id: status for job_id, status in rows if job_id.startswith(f"{name}-")}
            lost = connection.exec_driver_sql(
                "SELECT count(*) FROM dbqueue_edges e WHERE NOT EXISTS"
                " (SELECT 1 FROM dbqueue_jobs j WHERE j.id = e.successor)"
            ).scalar_one()
        ends = [found.get(f"{name}-{index}", GONE) for index in range(len(nodes))]
        assert ends == expected(nodes)
        assert lost == 0
        assert count(store, "finished_at IS NULL") == 0
    finally:
        for worker in workers:
            worker.session.close_worker(worker.id)
            worker.close()
