"""Hostile rows and a real worker: each ends on its own, or waits; their neighbours and the worker go on."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, Final

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from dbqueue.cli.events import Dumper
from dbqueue.cli.run import run
from dbqueue.errors import DBQueueError
from dbqueue.result import AsyncResult, GroupResult
from dbqueue.services.beats import make_beat
from dbqueue.store import events, queries
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


FAR: Final = dict.fromkeys(("eta", "ready_at"), "2099-01-01 00:00:00.000")


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
    for row in hostile_rows.commands(store.dialect):
        insert(execute, "control", row)
    neighbours += [app.tasks["sample.echo"].apply_async(["after"], countdown=0.2) for _ in range(5)]
    assert [each.get(timeout=60) for each in neighbours] == ["before"] * 5 + ["after"] * 5
    wait_until(lambda: not running_or_due(execute, store.dialect), what="the end of all that is due")
    asked = app.control.inspect(timeout=60, limit=1)
    for method in ("scheduled", "revoked", "active", "reserved", "stats"):
        assert getattr(asked, method)(), method
    assert worker.alive
    assert worker.stop() == 0, worker.log
    assert count(store, "status = 'STARTED'") == 0


@pytest.mark.parametrize("depth", [399, 460, 500])
def test_arguments_that_are_nested_deeply_spoil_no_reply(
    app: DBQueue, execute: Execute, start_worker: Callable[..., WorkerProcess], depth: int
) -> None:
    """Readable, but not with the reply around them: they are shown as their text."""
    args = "[" * depth + "]" * depth
    insert(execute, "jobs", {"task": "sample.echo", "args": args, **FAR})
    start_worker(app.database.url)
    answers = app.control.inspect(timeout=60, limit=1).scheduled()
    assert answers is not None
    (shown,) = answers.values()
    assert [entry["request"]["name"] for entry in shown] == ["sample.echo"]


TOLD: Final = (
    "state", "result", "traceback", "date_done", "name", "args", "kwargs", "worker", "retries", "queue", "children",
    "graph",
)  # fmt: skip


def read_result(app: DBQueue, job_id: str) -> None:
    """All that a program may ask of a job: dbqueue's own errors say what is wrong with the row."""
    result: AsyncResult[Any] = app.AsyncResult(job_id)
    for name in TOLD:
        with contextlib.suppress(DBQueueError):
            getattr(result, name)
    assert result.ready() in (True, False)
    with contextlib.suppress(DBQueueError):
        result.get(timeout=0, propagate=False)
    with contextlib.suppress(DBQueueError):
        app.backend.get_task_meta(job_id)


def operators_commands(job_ids: list[str]) -> Iterable[tuple[str, ...]]:
    for options in ((), ("--json",)):
        yield "jobs", "list", "-n", "100000", *options
        for command in ("queues", "doctor", "report"):
            yield command, *options
        yield "limits", "list", *options
        yield "status", "--timeout", "0", *options
        yield "schedule", "list", *options
        yield "schedule", "next", *options
        for job_id in job_ids:
            yield "jobs", "show", *options, "--", job_id
            yield "jobs", "tree", *options, "--", job_id
            yield "result", "--timeout", "0", *options, "--", job_id
    yield "jobs", "retry", "--", *job_ids
    yield "jobs", "cancel", "--", *job_ids
    yield "jobs", "delete", "--", *job_ids


def test_whoever_reads_hostile_rows_is_told_what_they_are(
    app: DBQueue, execute: Execute, capsys: pytest.CaptureFixture[str]
) -> None:
    dialect = app.database.store.dialect
    execute("BEGIN", [])
    write_hostile_rows(execute, dialect)
    for table in ("workers", "schedules"):
        for row in getattr(hostile_rows, table)(dialect):
            insert(execute, table, row)
    for row in hostile_rows.taken(dialect):
        insert(execute, "jobs", row)
    for value in hostile_rows.TIMES[dialect]:
        insert(execute, "paused_queues", {"queue": f"paused since {value!r}", "paused_at": value})
    group_ids = [f"group {number}" for number, _ in enumerate(hostile_rows.JSON)]
    for group_id, text in zip(group_ids, hostile_rows.JSON, strict=True):
        insert(execute, "groups", {"id": group_id, "result": text})
    execute("COMMIT", [])
    found = [job_id for (job_id,) in execute("SELECT id FROM dbqueue_jobs ORDER BY id", []).fetchall()]
    job_ids = [job_id for job_id in found if job_id and isinstance(job_id, str)]
    for job_id in job_ids:
        read_result(app, job_id)
    assert "sound" not in app.schedules
    list(app.schedules)
    for group_id in group_ids:
        with pytest.raises(DBQueueError, match=r"no group|data"):
            GroupResult.restore(group_id, app=app)
    # Each command takes as long as a hundred looks: those of single jobs for some.
    for words in operators_commands(["", *job_ids[::40]]):
        assert run(app, words) in (0, 1, 69), words
    shown = capsys.readouterr()
    assert "Traceback (" not in shown.err


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Adak"])
def test_times_out_of_the_calendar_are_its_ends(app: DBQueue, execute: Execute, zone: str) -> None:
    """Whatever the zone of the server's sessions, and of the program that asks."""
    if app.database.store.dialect == "postgresql":
        database = execute("SELECT current_database()", []).fetchone()[0]
        execute(f"ALTER DATABASE \"{database}\" SET TimeZone = '{zone}'", [])
    app.conf.update(timezone=zone, enable_utc=False)
    ends = {"9999-12-31 23:59:59.999": 9999, "0001-01-01 00:00:00.000": 1, "infinity": 9999}
    ends["-infinity" if app.database.store.dialect == "postgresql" else "-"] = 1
    for text, year in ends.items():
        row = {"id": text, "task": "x", "status": "SUCCESS", "ready_at": None, "finished_at": text}
        insert(execute, "jobs", row)
        done = app.AsyncResult(text).date_done
        assert done is not None
        assert done.year == year
        found = queries.find_job(app.database.store, text)
        assert found is not None
        assert found.finished_at == done


def test_a_beat_goes_on_beside_hostile_rows(app: DBQueue, execute: Execute) -> None:
    store = app.database.store
    for row in hostile_rows.schedules(store.dialect):
        insert(execute, "schedules", row)
    every = {"schedule": "every 0.01 seconds"}
    insert(execute, "schedules", {"name": "sound", "task": "sample.add", "args": "[1, 2]"} | every)
    beat = make_beat(app)

    def fired() -> int:
        beat.turn()
        return count(store, "task = 'sample.add'")

    wait_until(fired, what="a job of the sound entry")


def test_monitors_go_on_beside_hostile_events(
    app: DBQueue, execute: Execute, capsys: pytest.CaptureFixture[str]
) -> None:
    state, dumper = app.events.State(), Dumper()

    def take_in(event: dict[str, Any]) -> None:
        state.event(event)
        dumper.show(event)
        for task in state.tasks.values():
            task.as_dict(), task.children, task.origin, repr(task)
        for worker in state.workers.values():
            worker.alive, repr(worker)
        list(state.tasks_by_time()), state.task_types()

    reader = events.Reader(app.database.store)
    reader.start()
    execute("BEGIN", [])
    for row in hostile_rows.events(app.database.store.dialect):
        insert(execute, "events", row)
    insert(execute, "events", {"body": '{"type": "task-sent", "uuid": "the last"}'})
    execute("COMMIT", [])
    while "the last" not in state.tasks:
        for event in reader.read():
            take_in(event)
    assert "the last" in capsys.readouterr().out
