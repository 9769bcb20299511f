"""Random canvases: in place, as rows and edges, and on real workers, they give what a plain evaluator gives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbqueue import DBQueue, signature
from dbqueue.canvas import compiler, sending
from dbqueue.errors import ChordError
from dbqueue.failpoints import VARIABLE
from dbqueue.jobs import BLOCKED_BY_PREDECESSORS
from tests.compat.random_canvases import Failed, evaluate, run, whole
from tests.waiting import wait_until
from tests.worker.canvas_tasks import make_app
from tests.workers import WorkerProcess, starting

EXAMPLES = 150
ON_WORKERS = 80
WITH_CRASHES = 40
CRASHES = {VARIABLE: "start.before=kill%2;run.after=kill%2"}

randoms = st.randoms(use_true_random=False, note_method_calls=False)
configured = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def app() -> Iterator[DBQueue]:
    with make_app("sqlite://") as app:
        yield app


@configured
@given(random=randoms)
def test_in_place(app: DBQueue, random: Random) -> None:
    sig = whole(app.tasks, random)
    assert sig.apply().get() == evaluate(sig)


@configured
@given(random=randoms)
def test_as_rows_and_edges(app: DBQueue, random: Random) -> None:
    sig = whole(app.tasks, random)
    workflow, result = sending.plan(app, sig, (), {}, {})
    assert run(workflow, result) == evaluate(sig)
    ids = [job.id for job in workflow.jobs]
    assert len(set(ids)) == len(ids)
    seen: set[str] = set()
    for job in workflow.jobs:
        before = {edge.predecessor for edge in workflow.edges if edge.successor == job.id}
        assert before <= seen
        assert (job.blocked_reason == BLOCKED_BY_PREDECESSORS) == bool(before)
        assert (job.root_id is None) == (not before)
        assert job.parent_id is None if not before else job.parent_id in before
        seen.add(job.id)


@configured
@given(random=randoms)
def test_with_a_row_between_all_groups(app: DBQueue, random: Random) -> None:
    sig = whole(app.tasks, random)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler, "MAX_EDGES", 1)
        workflow, result = sending.plan(app, sig, (), {}, {})
    assert run(workflow, result) == evaluate(sig)


@configured
@given(random=randoms)
def test_after_json(app: DBQueue, random: Random) -> None:
    sig = whole(app.tasks, random)
    back = signature(json.loads(json.dumps(sig)), app=app)
    assert evaluate(back) == evaluate(sig)
    assert run(*sending.plan(app, back, (), {}, {})) == evaluate(sig)


@configured
@given(random=randoms)
def test_frozen(app: DBQueue, random: Random) -> None:
    sig = whole(app.tasks, random)
    frozen = sig.freeze()
    workflow, result = sending.plan(app, sig, (), {}, {})
    assert result.as_tuple() == frozen.as_tuple()
    assert run(workflow, frozen) == evaluate(sig)


def test_on_workers(canvas_app: DBQueue, canvas_worker: WorkerProcess) -> None:
    random = Random(20261123)
    canvases = [whole(canvas_app.tasks, random) for _ in range(ON_WORKERS)]
    results: list[Any] = [sig.delay() for sig in canvases]
    for sig, result in zip(canvases, results, strict=True):
        assert result.get(timeout=60) == evaluate(sig), sig


def test_on_workers_with_failures_replacements_and_crashes(database_url: str, notes_path: Path) -> None:
    """What is linked runs once after a success, and errbacks only after a failure; nothing waits for ever."""
    random = Random(20261126)
    settings = {"worker_lease_seconds": 2.5, "worker_heartbeat_interval": 0.4, "task_max_losses": 60}
    with make_app(database_url) as app, starting() as start:
        app.set_current()

        def start_worker() -> WorkerProcess:
            return start(database_url, module="tests.worker.canvas_tasks", settings=settings, environment=CRASHES)

        canvases = [whole(app.tasks, random, troubled=True) for _ in range(WITH_CRASHES)]
        expected = [outcome(sig) for sig in canvases]
        assert 5 < expected.count(Failed) < WITH_CRASHES - 5
        record = app.tasks["tasks.record"]
        for number, sig in enumerate(canvases):
            sig.link(record.si(f"after {number}"))
            sig.link_error(record.si(f"error {number}"))
        results = [sig.delay() for sig in canvases]
        victim, _ = start_worker(), start_worker()
        wait_until(lambda: sum(result.ready() for result in results) > WITH_CRASHES // 4)
        victim.kill()
        unfinished = "SELECT id FROM dbqueue_jobs WHERE finished_at IS NULL"
        wait_until(lambda: not read(app, unfinished), what="the end of all jobs")
        told = "SELECT CAST(args AS text) FROM dbqueue_jobs WHERE task = 'tasks.record' AND status = 'SUCCESS'"
        notes = Counter(json.loads(args)[0] for args in read(app, told))
        for number, (sig, result) in enumerate(zip(canvases, results, strict=True)):
            failed = expected[number] is Failed
            if failed:
                with pytest.raises((ValueError, ChordError)):
                    result.get(timeout=10)
            else:
                assert result.get(timeout=10) == expected[number], sig
            assert notes[f"after {number}"] == (not failed), sig
            assert (notes[f"error {number}"] > 0) == failed, sig


def read(app: DBQueue, query: str) -> list[Any]:
    with app.database.store.connect() as connection:
        return list(connection.scalars(sa.text(query)))


def outcome(sig: Any) -> Any:
    """What the canvas gives, or Failed."""
    try:
        return evaluate(sig)
    except Failed:
        return Failed
