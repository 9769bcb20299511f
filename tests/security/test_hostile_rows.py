"""Hostile rows and a real worker: each ends on its own, or waits; their neighbours and the worker go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from tests.security import hostile_rows
from tests.security.hostile_rows import NoText, Row
from tests.servers import libpq_url
from tests.stores import count
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess

Execute = Callable[[str, list[Any]], Any]


@pytest.fixture
def app(database_url: str) -> Iterable[DBQueue]:
    with make_app(database_url) as app:
        yield app


@pytest.fixture
def execute(database_url: str) -> Iterable[Execute]:
    """Runs SQL with `?` for its values, past all that dbqueue does."""
    if database_url.startswith("sqlite"):
        lite = sqlite3.connect(str(sa.make_url(database_url).database), isolation_level=None, timeout=60)
        lite.text_factory = lambda text: text.decode(errors="replace")
        yield lite.execute
        lite.close()
    else:
        with psycopg.connect(libpq_url(database_url), autocommit=True) as server:
            yield lambda sql, values: server.execute(sql.replace("?", "%s").encode(), values)


def insert(execute: Execute, table: str, row: Row) -> None:
    values = [value.data if isinstance(value, NoText) else value for value in row.values()]
    places = ["CAST(? AS text)" if isinstance(value, NoText) else "?" for value in row.values()]
    execute(f"INSERT INTO dbqueue_{table} ({', '.join(row)}) VALUES ({', '.join(places)})", values)


def running_or_due(execute: Execute, dialect: str) -> list[Any]:
    """Rows that have not ended, though their time has come and their queue has a name, or all before them has ended."""
    due = {
        "postgresql": "coalesce(ready_at, held_at) <= now()",
        "sqlite": "coalesce(ready_at, held_at) <= strftime('%Y-%m-%d %H:%M:%f', 'now') AND typeof(queue) = 'text'"
        " AND instr(CAST(queue AS BLOB), x'ff') = 0",
    }[dialect]
    query = f"SELECT id FROM dbqueue_jobs WHERE status = 'STARTED' OR blocked_reason = 'predecessors' OR ({due})"
    return list(execute(query, []).fetchall())


def write_hostile_rows(execute: Execute, dialect: str) -> None:
    for row in hostile_rows.rows(dialect):
        insert(execute, "jobs", row)
    for first, second, event in hostile_rows.workflows(dialect):
        insert(execute, "jobs", second)
        edge = {"predecessor": first["id"], "successor": second["id"], "event": event, "place": "[]"}
        insert(execute, "edges", edge)
        insert(execute, "jobs", first)


def test_hostile_rows_end_and_stop_nothing_else(
    app: DBQueue, execute: Execute, start_worker: Callable[..., WorkerProcess]
) -> None:
    store = app.database.store
    for row in hostile_rows.workers(store.dialect):
        insert(execute, "workers", row)
    worker = start_worker(app.database.url, queues=["*"], task_events=True)
    assert app.control.revoke_by_stamped_headers({"a": "b"}, reply=True, limit=1, timeout=60)  # headers are looked at
    neighbours = [app.tasks["sample.echo"].delay("before") for _ in range(5)]
    write_hostile_rows(execute, store.dialect)
    neighbours += [app.tasks["sample.echo"].apply_async(["after"], countdown=0.2) for _ in range(5)]
    assert [each.get(timeout=60) for each in neighbours] == ["before"] * 5 + ["after"] * 5
    wait_until(lambda: not running_or_due(execute, store.dialect), what="the end of all that is due")
    assert worker.alive
    assert worker.stop() == 0, worker.log
    assert count(store, "status = 'STARTED'") == 0
