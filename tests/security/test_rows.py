"""Whatever stands in a row, its run comes to an outcome: no row ends a worker. `make fuzz` tries for longer."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from dbqueue import task_events
from dbqueue.jobs import Failed, Succeeded
from dbqueue.services.workers import make_executor
from dbqueue.store.base import Store
from dbqueue.worker import log
from dbqueue.worker.limits import Limits, TimeLimits
from tests.stores import TestWorker, claimed_job, enqueued, opened, row, run_sql
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


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "line\nbreak", "\x1b[31m", "\ud800"])
@pytest.mark.parametrize("option", ["queue", "task_id"])
def test_names_that_are_none_are_refused(sqlite_url: str, name: str, option: str) -> None:
    with make_app(sqlite_url) as app, pytest.raises(ValueError, match=r"must be (a text of|printable)"):
        app.send_task("sample.echo", ["x"], **{option: name})  # type: ignore[arg-type]


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
        other.execute("LISTEN dbqueue")
        app.tasks["sample.echo"].delay("secret")
        (heard,) = other.notifies(timeout=30, stop_after=1)
        assert heard.payload == ""
        count = "SELECT (SELECT count(*) FROM trap.dbqueue_jobs), (SELECT count(*) FROM public.dbqueue_jobs)"
        assert other.execute(count).fetchone() == (0, 1)


def _rows(store: Store) -> Any:
    from dbqueue.store import queries

    return queries.find_jobs(store, limit=20)
