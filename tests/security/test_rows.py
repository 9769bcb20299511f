"""Whatever stands in a row, its run comes to an outcome: no row ends a worker. `make fuzz` tries for longer."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import dbqueue
from dbqueue import task_events
from dbqueue.errors import EncodeError, ImproperlyConfigured, PayloadTooLarge
from dbqueue.jobs import Failed, Succeeded
from dbqueue.result import GroupResult
from dbqueue.services.workers import make_executor
from dbqueue.store.base import Store
from dbqueue.store.postgres.sql import CHANNEL, CONTROL_CHANNEL
from dbqueue.worker import log
from dbqueue.worker.supervising.limits import Limits, TimeLimits
from tests.stores import TestWorker, claimed_job, count, enqueued, opened, row, run_sql
from tests.waiting import wait_until
from tests.worker.sample import make_app

COLUMNS = ("args", "kwargs", "headers", "options", "content_type", "content", "parent_id", "group_id")
OPTIONS = ("shadow", "time_limit", "soft_time_limit", "ignore_result", "group_index", "rejections", "argsrepr", "join")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def to_json(value: Any) -> str:
    return json.dumps(value)


texts = (
    json_values.map(to_json)
    | st.dictionaries(st.sampled_from(OPTIONS), json_values).map(to_json)
    | st.text(max_size=20).filter(lambda text: "\0" not in text and text.isprintable())
    | st.sampled_from(["[" * 5000, '{"__type__": "datetime", "__value__": "x"}', "NaN", "1e999", "application/json"])
)
anything = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | texts | st.binary(max_size=20)


@pytest.fixture(scope="module")
def store(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("rows") / "jobs.db"
    path.write_bytes(sqlite_template.read_bytes())
    with opened(f"sqlite:///{path}") as store:
        yield store


@given(st.dictionaries(st.sampled_from(COLUMNS), anything, min_size=1))
@example({"options": b"{}"})
@example({"args": b"\xff", "content": "text", "content_type": "application/json"})
@example({"headers": b"{}", "group_id": b"x"})
@settings(suppress_health_check=list(HealthCheck))
def test_any_values_in_any_columns(store: Store, columns: dict[str, Any]) -> None:
    """SQLite takes any value in any column: its rows are the wildest."""
    columns = {name: value for name, value in columns.items() if value is not None or name not in ("args", "kwargs")}
    job_id = enqueued(store, task="sample.echo")
    for name, value in columns.items():
        run_sql(store, f"UPDATE dbqueue_jobs SET {name} = :value WHERE id = :id", value=value, id=job_id)
    worker = TestWorker(store)
    with make_app("sqlite://") as app:
        executor = make_executor(app, hostname="fuzz")
        for job in worker.claim():
            log.received([job])
            task_events.received(job, "fuzz", levels=3)
            TimeLimits({}, Limits(None, None)).of(job)
            outcome = executor.run(job)
            assert isinstance(outcome, (Succeeded, Failed)), outcome
            assert worker.settle(outcome).settled == {job.id}
        executor.close()
    worker.close()
    assert row(store, job_id)["status"] in ("SUCCESS", "FAILURE")
    run_sql(store, "DELETE FROM dbqueue_jobs")


@pytest.mark.parametrize("value", [1e999, 5, None, [[]], {"a": 1}])
def test_monitors_are_told_texts(value: Any) -> None:
    """Of the others one would be no JSON that PostgreSQL takes: with it, all events of its batch were lost."""
    job = claimed_job(args="[1]", options=to_json({"argsrepr": value, "kwargsrepr": value}))
    told = task_events.received(job, "w@test", levels=3)
    assert (told["args"], told["kwargs"]) == ("(1,)", "{}")


class Bomb:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_a_pickle_is_not_loaded_and_an_import_path_is_no_task(database_url: str, tmp_path: Path) -> None:
    from dbqueue import testing
    from dbqueue.errors import ContentDisallowed, NotRegistered

    mark = tmp_path / "exploded"
    bomb = pickle.dumps(([Bomb(str(mark))], {}))
    with make_app(database_url) as app:
        store = app.database.store
        for content_type in ("application/x-python-serialize", "pickle", "application/json"):
            enqueued(store, task="sample.echo", content_type=content_type, content=bomb)
        paths = [
            enqueued(store, task=name, args=f'["touch {mark}"]') for name in ("os.system", "builtins.exec", "sample")
        ]
        assert testing.drain(app).counts == {"FAILURE": 6}
        assert not mark.exists()
        assert all(isinstance(app.AsyncResult(job_id).result, NotRegistered) for job_id in paths)
        found = {type(run) for run in (app.AsyncResult(each.id).result for each in _rows(store)) if run is not None}
        assert ContentDisallowed in found


def test_an_exception_that_names_a_function_is_only_text(database_url: str, tmp_path: Path) -> None:
    from dbqueue import testing
    from dbqueue.errors import RemoteError

    mark = tmp_path / "exploded"
    error = to_json({"exc_type": "system", "exc_module": "os", "exc_message": [f"touch {mark}"]})
    with make_app(database_url) as app:
        result = app.tasks["sample.fail"].delay("plain")
        testing.drain(app)
        cast = "CAST(:error AS json)" if app.database.store.dialect == "postgresql" else ":error"
        run_sql(app.database.store, f"UPDATE dbqueue_jobs SET result = {cast}", error=error)
        with pytest.raises(RemoteError, match=r"os\.system"):
            result.get(timeout=5)
        assert not mark.exists()


HOSTILE = ["'; DROP TABLE dbqueue_jobs; --", "%s%(id)s:id", '"quoted"', "a\\b", "*", "ünï", "x" * 255]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_only_names(database_url: str, text: str) -> None:
    from dbqueue.store import queries

    with make_app(database_url) as app:
        sent = app.send_task(text, [text], queue=text, task_id=text, shadow=text)
        assert sent.status == "PENDING"
        found = queries.find_jobs(app.database.store, queues=[text], tasks=[text], limit=5)
        assert [job.id for job in found] == [text]
        app.control.revoke(text)
        assert sent.status == "REVOKED"


@pytest.mark.parametrize("schema", ["'; DROP TABLE jobs; --", '"quoted"', "it's", "a\\b", "*", "ünï", "x" * 63])
def test_hostile_schemas_are_only_names(empty_postgres_url: str, schema: str) -> None:
    from dbqueue import testing
    from dbqueue.store import migrate

    with make_app(empty_postgres_url, database_schema=schema) as app:
        migrate.upgrade(app.database.store.engine, schema=schema)
        sent = app.tasks["sample.add"].delay(1, 2)
        many = app.tasks["sample.add"].enqueue_many([(n, n) for n in range(60)])
        assert testing.drain(app).counts == {"SUCCESS": 1 + len(many)}
        assert sent.get(timeout=5) == 3
        with app.database.store.connect() as connection:
            query = "SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_name LIKE 'dbqueue%'"
            assert [*connection.exec_driver_sql(query.replace("%", "%%")).scalars()] == [schema]


@pytest.mark.parametrize("schema", ["", "x" * 64, "ü" * 32, "a.b", "a:b", "a%", "a\0b", "line\nbreak", "\ud800"])
def test_schemas_that_are_none_are_refused(postgres_url: str, schema: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="must be the name of a schema, at most 63 bytes"):
        make_app(postgres_url, database_schema=schema).database.store.ensure_schema()


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "line\nbreak", "\x1b[31m", "\ud800"])
@pytest.mark.parametrize("option", ["queue", "task_id", "shadow", "parent_id", "root_id", "group_id"])
def test_names_that_are_none_are_refused(sqlite_url: str, name: str, option: str) -> None:
    with make_app(sqlite_url) as app, pytest.raises(ValueError, match="must be a text of 1 to 255 printable"):
        app.send_task("sample.echo", ["x"], **{option: name})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["parent_id", "root_id", "group_id", "shadow"])
def test_names_that_are_none_are_refused_of_canvases(sqlite_url: str, option: str) -> None:
    with make_app(sqlite_url) as app:
        calls = [app.tasks["sample.echo"].s(n) for n in range(30)]
        for canvas in (dbqueue.chain(*calls[:2]), dbqueue.group(calls), dbqueue.chord(calls[:2], calls[2])):
            with pytest.raises(ValueError, match=f"{option} must be a text of 1 to 255 printable"):
                canvas.apply_async(**{option: "\ud800"})  # type: ignore[arg-type]
        assert count(app.database.store) == 0


GIANT = "x" * 1024 * 1024
GIANTS: dict[str, Callable[[Any], object]] = {
    "args": lambda echo: echo.delay(GIANT),
    "kwargs": lambda echo: echo.apply_async(kwargs={"value": GIANT}),
    "headers": lambda echo: echo.apply_async(["x"], headers={"giant": GIANT}),
    "one of many": lambda echo: echo.enqueue_many([["x"]] * 60 + [[GIANT]]),
    "one of a chain": lambda echo: dbqueue.chain(echo.s("x"), echo.si(GIANT)).apply_async(),
    "one of a group": lambda echo: dbqueue.group(echo.s("x"), echo.s(GIANT)).apply_async(),
    "a beat's": lambda echo: echo.app.schedules.set("often", echo.name, 60, args=[GIANT]),
}


@pytest.mark.parametrize("what", GIANTS)
def test_giant_payloads_are_refused_at_the_call(database_url: str, what: str) -> None:
    """One MiB by default; nothing of the call is written, and the error says what to do."""
    with make_app(database_url) as app:
        with pytest.raises(PayloadTooLarge, match="more than max_payload_bytes=1048576: store the data elsewhere"):
            GIANTS[what](app.tasks["sample.echo"])
        assert count(app.database.store) == 0
        app.tasks["sample.echo"].delay(GIANT[:-100])


@pytest.mark.parametrize("option", ["argsrepr", "kwargsrepr"])
def test_what_monitors_are_to_see_is_limited_as_the_rest(sqlite_url: str, option: str) -> None:
    with make_app(sqlite_url, max_payload_bytes=1024) as app:
        for value, error in (("x" * 1024, PayloadTooLarge), ("a\0", EncodeError), ("\ud800", EncodeError)):
            with pytest.raises(error):
                app.send_task("sample.echo", ["x"], **{option: value})  # type: ignore[arg-type]
        app.send_task("sample.echo", ["x"], **{option: "x" * 900})  # type: ignore[arg-type]


def test_options_of_a_call_and_of_its_retries_are_limited_together(sqlite_url: str) -> None:
    from dbqueue import testing

    with make_app(sqlite_url, max_payload_bytes=1024) as app:

        @app.task(name="told.anew", bind=True)
        def told_anew(self: Any, length: int) -> int:
            if self.request.retries == 0:
                raise self.retry(countdown=0, argsrepr="x" * length)
            return length

        lengths = (300, 600)
        results = [told_anew.apply_async([length], kwargsrepr="x" * 600) for length in lengths]
        testing.drain(app)
        assert results[0].get(timeout=0) == lengths[0]
        with pytest.raises(PayloadTooLarge, match="the options of the retry"):
            results[1].get(timeout=0)


@pytest.mark.parametrize("key", ["a\0b", "\ud800", "\ud800" * 300])
def test_keys_that_no_database_holds_are_refused(sqlite_url: str, key: str) -> None:
    with make_app(sqlite_url) as app:
        for option in ("unique", "limit_key"):
            with pytest.raises(ValueError, match="key"):
                app.tasks["sample.echo"].apply_async(["x"], **{option: key})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 100_000])
def test_a_job_that_cannot_be_does_not_exist(database_url: str, name: str) -> None:
    from dbqueue.store import changes, queries, revoking
    from dbqueue.store.workflows import reads

    with make_app(database_url) as app:
        result, store = app.AsyncResult(name), app.database.store
        assert (result.status, result.children, result.ready()) == ("PENDING", None, False)
        with pytest.raises(dbqueue.exceptions.TimeoutError):
            result.get(timeout=0)
        app.control.revoke(name)
        result.revoke(terminate=True)
        result.forget()
        app.backend.store_result(name, {}, "SOME")
        assert app.backend.get_state(name) == "PENDING"
        assert GroupResult.restore(name, app=app) is None
        assert queries.find_job(store, name) is None
        assert queries.find_jobs(store, tasks=[name]) == queries.find_jobs(store, queues=[name]) == []
        assert reads.workflow_of(store, name) is None
        assert changes.cancel(store, [name]) == changes.retry(store, [name]) == changes.delete(store, [name]) == set()
        assert revoking.revoke(store, [name]).ended == {}
        assert changes.cancel_workflow(store, name).ended == {}
        assert count(store) == 0
        known = app.send_task("sample.echo", ["x"])
        app.control.revoke([name, known.id])  # what is there beside it is not passed over
        assert known.status == "REVOKED"


@pytest.mark.parametrize(
    "columns",
    [
        {"options": {"shadow": "x\n[2026: CRITICAL/MainProcess] forged"}},
        {"options": {"shadow": "\ud800 forged"}},
        {"options": {"shadow": "forged\x1b[2J" + "x" * 1_000_000}},
        {"id": "x\n[2026: CRITICAL/MainProcess] forged"},
        {"task": "x\r\n[2026: CRITICAL/MainProcess] forged"},
        {"task": "forged" + "x" * 1_000_000},
    ],
)
def test_a_row_forges_no_line_of_the_log(
    database_url: str, start_worker: Callable[..., Any], columns: dict[str, Any]
) -> None:
    """Plain SQL has no limits: what stands in a row is shown on the line that is about it."""
    values = {"id": "id", "task": "sample.echo", "args": ["x"], "options": {}} | columns
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    with make_app(database_url) as app:
        parameters = [f"CAST(:{name} AS json)" if name in ("args", "options") else f":{name}" for name in values]
        sql = f"INSERT INTO dbqueue_jobs ({', '.join(values)}) VALUES ({', '.join(parameters)})"
        if app.database.store.dialect == "sqlite":
            sql = sql.replace("CAST(", "(").replace(" AS json", "")
        run_sql(app.database.store, sql, **values)
        worker = start_worker(
            database_url,
        )
        wait_until(lambda: count(app.database.store, "finished_at IS NOT NULL") == 1, what="the end of the job")
        assert worker.stop() == 0
    lines = [line for line in worker.log.splitlines() if "forged" in line]
    assert lines
    assert all(re.match(r"\d{4}-.* (INFO|WARNING|ERROR) ", line) for line in lines)
    assert "\x1b" not in worker.log
    assert "Logging error" not in worker.log
    assert max(map(len, lines)) < 200_000


def test_notifications_carry_nothing_and_search_path_decides_nothing(postgres_url: str) -> None:
    import psycopg

    from tests.servers import libpq_url

    with (
        make_app(postgres_url, database_schema="public") as app,
        psycopg.connect(libpq_url(postgres_url), autocommit=True) as other,
    ):
        # Of the same names, and before ours on everybody's path.
        database = other.info.dbname
        other.execute("CREATE SCHEMA trap")
        other.execute("CREATE TABLE trap.dbqueue_jobs (LIKE public.dbqueue_jobs INCLUDING ALL)")
        other.execute(f'ALTER DATABASE "{database}" SET search_path = trap, public'.encode())
        for channel in (CHANNEL, CONTROL_CHANNEL):
            other.execute(f"LISTEN {channel}".encode())
        app.tasks["sample.echo"].delay("secret")
        app.control.broadcast("secret", {"secret": "argument"})
        heard = {each.channel: each.payload for each in other.notifies(timeout=30, stop_after=2)}
        assert heard == {CHANNEL: "", CONTROL_CHANNEL: ""}
        count = "SELECT (SELECT count(*) FROM trap.dbqueue_jobs), (SELECT count(*) FROM public.dbqueue_jobs)"
        assert other.execute(count).fetchone() == (0, 1)


def _rows(store: Store) -> Any:
    from dbqueue.store import queries

    return queries.find_jobs(store, limit=20)
