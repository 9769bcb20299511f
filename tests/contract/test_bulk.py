"""Many jobs at once, which PostgreSQL takes by COPY: as if each had been enqueued by itself, or none."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from dbqueue import DBQueue, group
from dbqueue.bulk import AlikeJobs
from dbqueue.errors import DuplicateTaskId, EncodeError
from dbqueue.jobs import ClaimedJob
from dbqueue.store.base import Store
from dbqueue.store.postgres import copying
from tests.servers import libpq_url
from tests.stores import TestWorker, count, new_job, row

MANY = 300
STRANGE = ["\\t", "\\N", "\\.", "a\\\\b", "naïve-ключ-鍵🦊", '"quoted"', "\\n", "{}"]


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


def make_app(url: str) -> DBQueue:
    app = DBQueue("bulk", broker=url, set_as_current=False)

    @app.task(name="bulk.add")
    def add(x: Any, y: int = 0) -> Any:
        return x

    return app


def claim(app: DBQueue, **options: Any) -> list[ClaimedJob]:
    with contextlib.closing(TestWorker(app.database.store, **options)) as worker:
        return worker.claim(MANY)


def stored(app: DBQueue) -> int:
    return count(app.database.store)


def test_every_column_is_as_an_insert_has_it(store: Store) -> None:
    fields: dict[str, Any] = {
        "kwargs": '{"z": 1e16}', "headers": '{"trace": "x"}', "options": '{"shadow": "s"}', "priority": -7,
        "content_type": "x", "content": b"\0\xff\t\n\\", "parent_id": "p", "root_id": "r", "group_id": "g",
    }  # fmt: skip
    store.enqueue([new_job("one", **fields)])
    store.enqueue([new_job(f"many-{n}", **fields) for n in range(MANY)])
    one, many = row(store, "one"), row(store, "many-7")
    differing = ("id", "created_at", "ready_at")
    assert {name: many[name] for name in many if name not in differing} == {
        name: one[name] for name in one if name not in differing
    }
    assert many["ready_at"] == many["created_at"]


def test_any_text_arrives_as_it_is(store: Store) -> None:
    jobs = [
        new_job(f"{n}-{text}", args=json.dumps([f"{text}\n\t"], ensure_ascii=False), queue=text)
        for n in range(10)
        for text in STRANGE
    ]
    store.enqueue(jobs)
    found = store.fetch([job.id for job in jobs])
    assert {(each.id, each.args, each.queue) for each in found.values()} == {(j.id, j.args, j.queue) for j in jobs}


@pytest.mark.parametrize("text", STRANGE)
def test_any_text_of_alike_jobs_arrives_as_it_is(store: Store, text: str) -> None:
    content = json.dumps([f"{text}\n\t\r"], ensure_ascii=False)
    named = json.dumps({text: text}, ensure_ascii=False)
    first = new_job("0", queue=text, args=content, kwargs=named, headers=named, parent_id=f"{text}\t\n\r")
    jobs = [first._replace(id=str(n), options=named if n % 2 else None) for n in range(MANY)]
    store.enqueue(AlikeJobs(jobs, MANY))
    found = store.fetch(["0", "7"])
    for job in (jobs[0], jobs[7]):
        names = ("queue", "args", "kwargs", "parent_id", "options")
        assert [getattr(found[job.id], name) for name in names] == [getattr(job, name) for name in names]
        assert count(store, f"id = '{job.id}' AND CAST(headers AS text) = '{named}'") == 1


def test_they_run_in_their_order(app: DBQueue) -> None:
    results = app.tasks["bulk.add"].enqueue_many([(n,) for n in range(MANY)])
    claimed = claim(app)
    assert [job.args for job in claimed] == [f"[{n}]" for n in range(MANY)]
    assert [job.id for job in claimed] == [result.id for result in results]


def test_the_same_jobs_again_change_nothing(store: Store) -> None:
    jobs = [new_job(f"j{n}") for n in range(MANY)]
    store.enqueue(jobs[: MANY // 2])
    store.enqueue(jobs)
    store.enqueue(jobs)
    assert count(store) == MANY


def test_another_job_of_the_same_id_is_refused(store: Store) -> None:
    store.enqueue([new_job("taken", args="[1]")])
    with pytest.raises(DuplicateTaskId, match="'taken'"):
        store.enqueue([*(new_job() for _ in range(MANY)), new_job("taken", args="[2]")])
    assert count(store) == 1


def test_a_call_that_cannot_be_encoded_leaves_none(app: DBQueue) -> None:
    calls = [(n,) for n in range(MANY)]
    with pytest.raises(EncodeError):
        app.tasks["bulk.add"].enqueue_many([*calls, (object(),)])
    assert stored(app) == 0
    app.tasks["bulk.add"].enqueue_many(calls)  # the connection has gone back in order
    assert stored(app) == MANY


def test_a_group(app: DBQueue) -> None:
    add = app.tasks["bulk.add"]
    result = group(add.s(n) for n in range(MANY)).apply_async(queue="q")
    claimed = claim(app, queues=["q"])
    assert [(job.id, job.group_id, job.args, job.options) for job in claimed] == [
        (each.id, result.id, f"[{n}]", f'{{"group_index": {n}}}') for n, each in enumerate(result)
    ]


def test_a_chord_of_many(app: DBQueue) -> None:
    add = app.tasks["bulk.add"]
    result = (group(add.s(n) for n in range(MANY)) | add.s()).apply_async()
    assert stored(app) == MANY + 1
    body = row(app.database.store, result.id)
    assert (body["waits_for"], body["root_id"] is not None) == (MANY, True)


class TestPostgres:
    @pytest.fixture
    def app(self, postgres_url: str) -> Iterator[DBQueue]:
        with make_app(postgres_url) as app:
            yield app

    def test_what_copy_cannot_write(self) -> None:
        plain = [new_job() for _ in range(MANY)]
        assert copying.can_copy(plain)
        assert copying.can_copy(AlikeJobs(plain, MANY))
        assert not copying.can_copy(plain[:10])
        for odd in (new_job(delay_seconds=3.0), new_job(unique_key="k"), new_job(limit_key="k"), new_job(waits_for=1)):
            assert not copying.can_copy([*plain, odd])
            assert not copying.can_copy(AlikeJobs([odd] * MANY, MANY))

    @pytest.mark.parametrize("kind", ["session", "connection", "psycopg", "psycopg in autocommit"])
    def test_a_caller_s_transaction(self, app: DBQueue, postgres_url: str, kind: str) -> None:
        add, calls = app.tasks["bulk.add"], [(n,) for n in range(MANY)]
        with connection_of(kind, postgres_url) as (connection, commit, rollback):
            add.enqueue_many(calls, connection=connection)
            rollback()
            expected = MANY if kind == "psycopg in autocommit" else 0
            assert stored(app) == expected
            add.enqueue_many(calls, connection=connection)
            assert stored(app) == expected * 2
            commit()
        assert stored(app) == expected + MANY

    @pytest.mark.parametrize("kind", ["session", "connection", "psycopg"])
    def test_the_caller_s_transaction_goes_on_after_a_refusal(self, app: DBQueue, postgres_url: str, kind: str) -> None:
        add, calls = app.tasks["bulk.add"], [(n,) for n in range(MANY)]
        store = app.database.store
        jobs = [new_job(f"j{n}") for n in range(MANY)]
        store.enqueue(jobs[:10])
        with connection_of(kind, postgres_url) as (connection, commit, _):
            add.enqueue_many(calls, connection=connection)
            app.database.enqueue(jobs, connection)  # some are there: the same
            with pytest.raises(DuplicateTaskId):
                app.database.enqueue([job._replace(args="[9]") for job in jobs[:100]], connection)
            commit()
        assert stored(app) == 2 * MANY

    def test_a_pipeline_allows_no_copy(self, app: DBQueue, postgres_url: str) -> None:
        with psycopg.connect(libpq_url(postgres_url)) as connection, connection.pipeline():
            app.tasks["bulk.add"].enqueue_many([(n,) for n in range(MANY)], connection=connection)
        assert stored(app) == MANY


@contextlib.contextmanager
def connection_of(kind: str, url: str) -> Iterator[Any]:
    if kind.startswith("psycopg"):
        with psycopg.connect(libpq_url(url), autocommit="autocommit" in kind) as driver:
            yield driver, driver.commit, driver.rollback
        return
    engine = sa.create_engine(url)
    opened = orm.Session(engine) if kind == "session" else engine.connect()
    with opened:
        yield opened, opened.commit, opened.rollback
    engine.dispose()
