"""Workflows under kills and restarts: each body runs after all of its headers, none is lost, none released twice."""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from dbqueue.jobs import NewJob
from dbqueue.workflows import Edge, Workflow
from tests.crash.test_kills import LEASE, await_runs, children_of, ended, runs
from tests.servers import PostgresServer
from tests.waiting import wait_until
from tests.worker.sample import make_app, set_bound
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]

CHORDS = 3
HEADERS = 120
CHAINS = 4
STEPS = 25


def record(path: Path, name: str, *arguments: Any) -> NewJob:
    """A job that notes its name; what its predecessors give it comes first and is noted instead."""
    return NewJob(name, "sample.record_slowly", "celery", args=json.dumps([str(path), *arguments, 0.002]))


def echo(name: str) -> NewJob:
    return NewJob(name, "sample.echo", "celery")


def chords(path: Path) -> Workflow:
    """Chords of recording headers; a body returns the list that it is given, and a last job waits for all bodies."""
    jobs, edges = [], []
    for chord in range(CHORDS):
        for header in range(HEADERS):
            jobs.append(record(path, f"h{chord}-{header}", f"{chord}-{header}"))
            edges.append(Edge(f"h{chord}-{header}", f"body{chord}", place=f"[{header}]"))
        jobs.append(echo(f"body{chord}"))
        edges.append(Edge(f"body{chord}", "last", place=f"[{chord}]"))
    return Workflow.of([*jobs, echo("last")], edges)


def chains(path: Path) -> Workflow:
    jobs, edges = [], []
    for chain in range(CHAINS):
        for step in range(STEPS):
            jobs.append(record(path, f"c{chain}-{step:02}", f"chain {chain}-{step}"))
            if step:
                edges.append(Edge(f"c{chain}-{step - 1:02}", f"c{chain}-{step:02}"))
    return Workflow.of(jobs, edges)


NUMBER = CHORDS * (HEADERS + 1) + 1 + CHAINS * STEPS


def watch_releases(app: DBQueue) -> None:
    """Note each time that a blocked job is let go, in the transaction that does it."""
    on_sqlite = app.database.store.dialect == "sqlite"
    statements = ["CREATE TABLE releases (id text)"]
    if on_sqlite:
        statements.append(
            "CREATE TRIGGER note_release AFTER UPDATE OF blocked_reason ON dbqueue_jobs"
            " WHEN OLD.blocked_reason = 'predecessors' AND NEW.blocked_reason IS NULL"
            " BEGIN INSERT INTO releases VALUES (NEW.id); END"
        )
    else:
        statements += [
            (
                "CREATE FUNCTION note_release() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN INSERT INTO releases VALUES (NEW.id); RETURN NEW; END $$"
            ),
            (
                "CREATE TRIGGER note_release AFTER UPDATE OF blocked_reason ON dbqueue_jobs FOR EACH ROW"
                " WHEN (OLD.blocked_reason = 'predecessors' AND NEW.blocked_reason IS NULL)"
                " EXECUTE FUNCTION note_release()"
            ),
        ]
    with app.database.store.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def check(app: DBQueue, path: Path) -> None:
    assert ended(app) == {"SUCCESS": NUMBER}
    with app.database.store.connect() as connection:
        released = Counter(connection.scalars(sa.text("SELECT id FROM releases")))
        early = connection.execute(
            sa.text(
                "SELECT count(*) FROM dbqueue_edges e JOIN dbqueue_jobs p ON p.id = e.predecessor"
                " JOIN dbqueue_jobs s ON s.id = e.successor WHERE s.finished_at < p.finished_at"
            )
        ).scalar_one()
    waiting = {f"body{n}" for n in range(CHORDS)} | {"last"}
    waiting |= {f"c{chain}-{step:02}" for chain in range(CHAINS) for step in range(1, STEPS)}
    assert released == dict.fromkeys(waiting, 1)
    assert early == 0
    result = app.AsyncResult("last").get(timeout=10)
    assert result == [[f"{chord}-{header}" for header in range(HEADERS)] for chord in range(CHORDS)]
    expected = {f"{chord}-{header}" for chord in range(CHORDS) for header in range(HEADERS)}
    expected |= {"chain"} | {f"{chain}-{step}" for chain in range(CHAINS) for step in range(STEPS)}
    assert set(runs(path)) == expected


def enqueue(app: DBQueue, path: Path) -> None:
    watch_releases(app)
    app.database.enqueue_workflow(chords(path))
    app.database.enqueue_workflow(chains(path))


def total(path: Path) -> int:
    return sum(runs(path).values())


def test_supervisors_killed_in_mid_workflow(database_url: str, tmp_path: Path, start_worker: Start) -> None:
    path = tmp_path / "runs"
    set_bound(path, 0)
    with make_app(database_url) as app:
        enqueue(app, path)
        for kill in range(3):
            worker = start_worker(database_url, settings=LEASE)
            await_runs(path, 30)
            worker.kill()
            wait_until(lambda worker=worker: worker.family() == [], what=f"the children's end after kill {kill}")  # type: ignore[misc]
        assert ended(app)["SUCCESS"] < NUMBER
        set_bound(path, None)
        survivor = start_worker(database_url, settings=LEASE)
        wait_until(lambda: ended(app)["SUCCESS"] == NUMBER, timeout=120)
        check(app, path)
        assert survivor.stop() == 0


def test_children_killed_in_mid_workflow(database_url: str, tmp_path: Path, start_worker: Start) -> None:
    path = tmp_path / "runs"
    set_bound(path, 0)
    with make_app(database_url) as app:
        enqueue(app, path)
        worker = start_worker(database_url, settings=LEASE)
        kills = 0
        while ended(app)["SUCCESS"] < NUMBER * 3 // 4:
            await_runs(path, 10)
            victims = [child for pid in children_of(worker.pid) for child in children_of(pid)]
            if victims:
                os.kill(random.choice(victims), signal.SIGKILL)
                kills += 1
        assert kills
        set_bound(path, None)
        wait_until(lambda: ended(app)["SUCCESS"] == NUMBER, timeout=120)
        check(app, path)
        assert worker.stop() == 0


def test_workers_killed_beside_others(database_url: str, tmp_path: Path, start_worker: Start) -> None:
    path = tmp_path / "runs"
    set_bound(path, 0)
    with make_app(database_url) as app:
        watch_releases(app)
        survivor, *victims = [start_worker(database_url, settings=LEASE) for _ in range(3)]
        app.database.enqueue_workflow(chords(path))
        app.database.enqueue_workflow(chains(path))
        for victim in victims:
            await_runs(path, 30)
            victim.end()
        assert ended(app)["SUCCESS"] < NUMBER
        set_bound(path, None)
        wait_until(lambda: ended(app)["SUCCESS"] == NUMBER, timeout=120)
        check(app, path)
        assert survivor.stop() == 0


@pytest.fixture
def server(postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    yield postgres_server
    postgres_server.start()


@pytest.mark.parametrize("mode", ["immediate", "kill"])
def test_a_database_restart_in_mid_workflow(
    server: PostgresServer, postgres_url: str, tmp_path: Path, start_worker: Start, mode: str
) -> None:
    path = tmp_path / "runs"
    settings = LEASE | {"worker_lease_seconds": 20.0, "worker_heartbeat_interval": 1.0}
    with make_app(postgres_url, database_connect_timeout=2) as app:
        enqueue(app, path)
        worker = start_worker(postgres_url, settings=settings)
        for _ in range(2):
            before = total(path)
            wait_until(lambda before=before: total(path) > before + 40, timeout=60)  # type: ignore[misc]
            server.restart(mode)
            app.database.close()  # this test must not stumble over its own dead connections
        wait_until(lambda: ended(app)["SUCCESS"] == NUMBER, timeout=120)
        check(app, path)
        assert worker.stop() == 0, worker.log[-3000:]
