"""Unique calls: the second caller gets the first one's result, on both databases and every way to enqueue."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import dbqueue
from dbqueue import DBQueue
from dbqueue.errors import EncodeError
from dbqueue.jobs import NewJob, Retried
from dbqueue.store import changes, queries
from dbqueue.store.base import Store
from dbqueue.store.transactions.joining import JoinedConnection
from dbqueue.testing import drain
from tests.servers import libpq_url
from tests.stores import TestWorker, count, new_job, row, run_sql


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


def make_app(url: str) -> DBQueue:
    app = DBQueue("unique", broker=url, set_as_current=False)

    @app.task(name="shop.report", unique=True)
    def report(customer: int, kind: str = "daily", **extra: Any) -> str:
        if kind == "broken":
            raise ValueError(kind)
        return f"{customer} {kind}"

    @app.task(name="shop.sync", unique="{customer}-{region}")
    def sync(customer: int, page: int, region: str = "eu") -> int:
        return page

    @app.task(name="shop.cache", unique=lambda key, *rest: key if rest else None)
    def cache(key: str, *rest: int) -> None: ...

    @app.task(name="shop.digest", unique=True, unique_for=3600)
    def digest(customer: int) -> int:
        if customer < 0:
            raise ValueError(customer)
        return customer

    @app.task(name="shop.plain")
    def plain(value: Any) -> Any:
        return value

    return app


def keys(app: DBQueue) -> list[str]:
    with app.database.store.connect() as connection:
        return list(connection.scalars(sa.text("SELECT key FROM dbqueue_unique_keys ORDER BY key")))


def test_the_second_caller_gets_the_first_ones_result(app: DBQueue) -> None:
    report = app.tasks["shop.report"]
    first = report.delay(7)
    same = [
        report.delay(7),
        report.delay(customer=7),
        report.delay(7, "daily"),
        report.apply_async((7,), {"kind": "daily"}, countdown=60, priority=9, task_id="mine"),
        report.enqueue_many([(7,), (7,)])[1],
        app.send_task("shop.report", [7]),
    ]
    assert {each.id for each in same} == {first.id}
    others = [report.delay(8), report.delay(7, "weekly"), report.delay(7, b=[1], a={"y": 1, "x": 2})]
    assert report.delay(7, a={"x": 2, "y": 1}, b=[1]).id == others[2].id
    assert count(app.database.store) == 4
    assert drain(app).counts == {"SUCCESS": 4}
    assert same[0].get(timeout=5) == "7 daily"
    again = report.delay(7)
    assert again.id != first.id
    assert again.state == "PENDING"


def test_values_that_python_calls_equal_are_not_the_same_call(app: DBQueue) -> None:
    flagged = app.task(name="shop.flagged", unique=True)(lambda value=1: value)
    ids = [flagged.delay(*args).id for args in ((), (1,), (True,), (1.0,), ("1",))]
    assert ids[0] == ids[1], "the default, given"
    assert len(set(ids)) == 4


def test_a_key_is_kept_until_its_job_has_ended_for_good(app: DBQueue) -> None:
    store, report = app.database.store, app.tasks["shop.report"]
    first = report.delay(1)
    worker = TestWorker(store)
    job = worker.claim_one()
    assert report.delay(1).id == first.id
    worker.settle(Retried(job.id, job.lease, "{}", None, 0.1, delay_seconds=3600))
    assert report.delay(1).id == first.id
    first.revoke()
    second = report.delay(1)
    assert second.id != first.id
    drain(app)
    second.forget()
    third = report.delay(1)
    assert third.id not in (first.id, second.id)
    app.control.purge()
    assert report.delay(1).id != third.id
    worker.close()


def test_a_failure_frees_the_key(app: DBQueue) -> None:
    report = app.tasks["shop.report"]
    first = report.delay(1, "broken")
    drain(app)
    assert first.failed()
    assert report.delay(1, "broken").id != first.id


def test_a_window_outlasts_a_success_and_no_failure(app: DBQueue) -> None:
    store, digest = app.database.store, app.tasks["shop.digest"]
    good, bad = digest.delay(1), digest.delay(-1)
    drain(app)
    assert digest.delay(1).id == good.id
    assert digest.delay(1).get(timeout=5) == 1
    assert digest.delay(-1).id != bad.id
    run_sql(store, "UPDATE dbqueue_unique_keys SET until = '2020-01-01 00:00:00.000'")
    second = digest.delay(1)
    assert second.id != good.id
    # The window is over before the job has begun: it is still the one.
    run_sql(store, "UPDATE dbqueue_unique_keys SET until = '2020-01-01 00:00:00.000'")
    assert digest.delay(1).id == second.id
    drain(app)
    third = digest.delay(1)
    assert third.id != second.id
    drain(app)
    assert digest.delay(1).id == third.id  # in a window of its own


def test_options_of_the_call_go_before_those_of_the_task(app: DBQueue) -> None:
    plain, report = app.tasks["shop.plain"], app.tasks["shop.report"]
    assert plain.delay(1).id != plain.delay(1).id
    first = plain.apply_async((1,), unique=True)
    assert plain.apply_async((1,), unique=True).id == first.id
    assert plain.apply_async((1,), unique_for=60).id == first.id
    assert plain.delay(1).id != first.id
    named = plain.apply_async((1,), unique="a {name}")
    assert plain.apply_async((2,), unique="a {name}").id == named.id
    assert app.send_task("shop.other", unique="a {name}").id != named.id
    assert report.apply_async((1,), unique=False).id != report.apply_async((1,), unique=False).id
    window = plain.apply_async((5,), unique=True, unique_for=timedelta(minutes=1))
    drain(app)
    assert plain.apply_async((5,), unique=True).id == window.id


def test_keys_of_templates_and_functions(app: DBQueue) -> None:
    sync, cache = app.tasks["shop.sync"], app.tasks["shop.cache"]
    first = sync.delay(1, 1)
    assert sync.delay(1, page=2).id == first.id
    assert sync.delay(customer=1, page=3, region="eu").id == first.id
    assert sync.delay(1, 1, "us").id != first.id
    assert cache.delay("x").id != cache.delay("x").id
    assert cache.delay("x", 1).id == cache.delay("x", 2).id
    long = [app.tasks["shop.plain"].apply_async((0,), unique="k" * 1000 + end) for end in "aba"]
    assert long[0].id == long[2].id != long[1].id


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"unique": ""}, ValueError),
        ({"unique": 3}, ValueError),
        ({"unique": "a\0b"}, ValueError),
        ({"unique": True, "unique_for": 0}, ValueError),
        ({"unique": True, "unique_for": "soon"}, ValueError),
    ],
)
def test_options_that_cannot_work(app: DBQueue, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        app.tasks["shop.plain"].apply_async((1,), **options)


def test_arguments_that_json_cannot_compare(database_url: str) -> None:
    with DBQueue("unique", broker=database_url, set_as_current=False, accept_content=["json", "pickle"]) as app:

        @app.task(name="shop.object", serializer="pickle")
        def take(value: Any) -> None: ...

        with pytest.raises(EncodeError, match="give unique a text"):
            take.apply_async((object,), unique=True)
        assert take.apply_async((object,), unique="it").id == take.apply_async((object,), unique="it").id


def test_a_template_that_does_not_fit_says_so(database_url: str) -> None:
    with DBQueue("unique", broker=database_url, set_as_current=False) as app:

        @app.task(name="shop.wrong", unique="{nobody}")
        def wrong(value: int) -> None: ...

        with pytest.raises(ValueError, match="nobody"):
            wrong.delay(1)


def test_many_at_once_each_get_their_result(app: DBQueue) -> None:
    report = app.tasks["shop.report"]
    first = report.delay(3)
    results = report.enqueue_many([(number % 5,) for number in range(50)])
    assert len({each.id for each in results}) == 5
    assert results[3].id == first.id
    assert [each.id for each in results[:5]] * 10 == [each.id for each in results]
    assert count(app.database.store) == 5


def test_in_the_callers_transaction(app: DBQueue, database_url: str) -> None:
    engine, report = sa.create_engine(database_url), app.tasks["shop.report"]
    with orm.Session(engine) as session, dbqueue.using(session):
        first = report.delay(1)
        assert report.delay(1).id == first.id
        session.rollback()
        second = report.delay(1)
        assert second.id != first.id
        session.commit()
    assert report.delay(1).id == second.id
    assert not first.exists()
    engine.dispose()


def test_on_a_drivers_connection(app: DBQueue, database_url: str) -> None:
    report = app.tasks["shop.report"]
    first = report.delay(1)
    connection: Any
    if database_url.startswith("sqlite"):
        connection = sqlite3.connect(str(sa.make_url(database_url).database))
    else:
        connection = psycopg.connect(libpq_url(database_url))
    assert report.apply_async((1,), connection=connection).id == first.id
    second = report.apply_async((2,), connection=connection)
    connection.rollback()
    assert report.delay(2).id != second.id
    connection.close()


def test_on_asynchronous_connections(app: DBQueue, database_url: str) -> None:
    report = app.tasks["shop.report"]
    first = report.delay(1)
    url = sa.make_url(database_url)

    async def run() -> None:
        assert (await report.adelay(1)).id == first.id
        driver = "sqlite+aiosqlite" if url.get_backend_name() == "sqlite" else "postgresql+psycopg"
        engine = create_async_engine(url.set(drivername=driver))
        async with AsyncSession(engine) as session, session.begin():
            assert (await report.aapply_async((1,), connection=session)).id == first.id
            second = await report.aapply_async((2,), connection=session)
        await engine.dispose()
        assert (await report.aenqueue_many([(2,)]))[0].id == second.id
        if url.get_backend_name() != "sqlite":
            async with await psycopg.AsyncConnection.connect(libpq_url(database_url)) as connection:
                assert (await report.aapply_async((1,), connection=connection)).id == first.id
                new = await report.aapply_async((3,), connection=connection)
                await connection.rollback()
            assert not new.exists()

    asyncio.run(run())


def test_only_written_jobs_are_announced(app: DBQueue) -> None:
    seen: list[str] = []

    def published(headers: Any = None, **_: Any) -> None:
        seen.append(headers["id"])

    dbqueue.signals.after_task_publish.connect(published)
    try:
        first = app.tasks["shop.report"].delay(1)
        app.tasks["shop.report"].delay(1)
    finally:
        dbqueue.signals.after_task_publish.disconnect(published)
    assert seen == [first.id]


def test_eager_calls_run_each(database_url: str) -> None:
    with make_app(database_url) as app:
        app.conf.task_always_eager = True
        assert [app.tasks["shop.report"].delay(1).get() for _ in range(2)] == ["1 daily"] * 2
        assert keys(app) == []


def test_repeating_an_enqueue_is_harmless(store: Store) -> None:
    job = new_job("one", unique_key="k")
    assert store.enqueue([job]) == {}
    assert store.enqueue([job]) == {}
    assert store.enqueue([job, new_job("two", unique_key="k"), new_job("three")]) == {"two": "one"}
    assert count(store) == 2


def test_of_two_who_find_a_spent_key_one_takes_it(store: Store) -> None:
    """On callers' connections in autocommit, where nothing is locked between the look and the taking."""
    store.enqueue([new_job("old", unique_key="k")])
    run_sql(store, "UPDATE dbqueue_jobs SET status = 'FAILURE', ready_at = NULL, finished_at = created_at")
    rivals = [store.inserts.steps([new_job(name, unique_key="k")]) for name in ("first", "second")]
    with store.engine.connect() as connection:
        joined = JoinedConnection(connection)
        looks = [joined.reply(next(rival)) for rival in rivals]
        assert [[tuple(row) for row in look.rows] for look in looks] == [[("k", "old")]] * 2
        takes = [joined.reply(rival.send(look)) for rival, look in zip(rivals, looks, strict=True)]
    assert [[tuple(row) for row in take.rows] for take in takes] == [[("k",)], []]


def ended(store: Store, *job_ids: str, status: str = "FAILURE") -> None:
    sql = "UPDATE dbqueue_jobs SET status = :status, ready_at = NULL, finished_at = created_at WHERE id = :id"
    for job_id in job_ids:
        run_sql(store, sql, status=status, id=job_id)


def test_an_operators_retry_does_not_run_beside_the_job_that_has_its_key(store: Store) -> None:
    store.enqueue([new_job("old", unique_key="k"), new_job("other", options='{"shadow": "x"}')])
    ended(store, "old", "other")
    store.enqueue([new_job("new", unique_key="k")])
    assert changes.retry(store, ["old", "other"]) == {"other"}
    assert changes.retry_workflow(store, "old") == set()
    assert queries.holders(store, ["old", "other", "new"]) == {"old": "new"}
    assert row(store, "old")["status"] == "FAILURE"
    ended(store, "new")
    assert queries.holders(store, ["old"]) == {}
    assert changes.retry(store, ["new", "old"]) == {"new"}, "of two that have ended, one runs again"
    assert store.enqueue([new_job("third", unique_key="k")]) == {"third": "new"}
    ended(store, "new")
    assert changes.retry(store, ["old"]) == {"old"}
    assert store.enqueue([new_job("third", unique_key="k")]) == {"third": "old"}


def test_a_retried_job_takes_a_key_that_was_deleted_meanwhile(store: Store, worker: TestWorker) -> None:
    store.enqueue([new_job("one", unique_key="k", unique_seconds=3600)])
    ended(store, "one")
    assert worker.session.prune_keys(limit=100) == 1
    assert changes.retry(store, ["one"]) == {"one"}
    assert store.enqueue([new_job("two", unique_key="k")]) == {"two": "one"}
    ended(store, "one", status="SUCCESS")
    assert store.enqueue([new_job("two", unique_key="k")]) == {"two": "one"}, "in a window that began anew"


def test_a_retry_is_refused_while_a_success_stands_for_the_key(store: Store) -> None:
    store.enqueue([new_job("old", unique_key="k", unique_seconds=3600)])
    ended(store, "old")
    store.enqueue([new_job("new", unique_key="k", unique_seconds=3600)])
    ended(store, "new", status="SUCCESS")
    assert changes.retry(store, ["old"]) == set()
    assert queries.holders(store, ["old"]) == {"old": "new"}
    run_sql(store, "UPDATE dbqueue_unique_keys SET until = '2020-01-01 00:00:00.000'")
    assert queries.holders(store, ["old"]) == {}
    assert changes.retry(store, ["new"]) == {"new"}, "it has the key itself"


@pytest.mark.parametrize(
    "key",
    [
        '"k"',
        "[]",
        "[3, null]",
        '["k", "soon"]',
        '["k", -1]',
        '["k", true]',
        '["k", 1e300]',
        r'["\u0000", null]',
        '["", 1]',
    ],
)
def test_a_row_with_a_key_that_cannot_be_is_retried(store: Store, key: str) -> None:
    store.enqueue([new_job("one", options=f'{{"unique_key": {key}}}')])
    ended(store, "one")
    assert queries.holders(store, ["one"]) == {}
    assert changes.retry(store, ["one"]) == {"one"}


def test_rows_whose_windows_are_written_differently_are_retried_together(store: Store) -> None:
    names = ["whole", "half", "none"]
    for name, seconds in zip(names, ("5", "5.5", "null"), strict=True):
        store.enqueue([new_job(name, options=f'{{"unique_key": ["{name}", {seconds}]}}')])
    ended(store, *names)
    assert changes.retry(store, names) == set(names)
    assert store.enqueue([new_job("again", unique_key="whole")]) == {"again": "whole"}


def test_a_job_that_has_succeeded_and_runs_again_begins_its_window_anew(store: Store) -> None:
    store.enqueue([new_job("one", unique_key="k", unique_seconds=3600)])
    ended(store, "one", status="SUCCESS")
    run_sql(store, "UPDATE dbqueue_unique_keys SET until = '2100-01-01 00:00:00.000'")
    assert changes.retry(store, ["one"]) == {"one"}
    with store.connect() as connection:
        until = connection.scalar(sa.text("SELECT until FROM dbqueue_unique_keys"))
    assert not str(until).startswith("2100"), "it is an hour from now"


def test_spent_keys_are_deleted_and_others_kept(store: Store, worker: TestWorker) -> None:
    def enqueue(key: str, seconds: float | None = None) -> NewJob:
        job = new_job(key, unique_key=key, unique_seconds=seconds)
        store.enqueue([job])
        return job

    for key in ("waiting", "ended", "gone", "failed"):
        enqueue(key)
    enqueue("in its window", 3600)
    enqueue("past its window", 3600)
    enqueue("failed in its window", 3600)
    sql = "UPDATE dbqueue_jobs SET status = :status, ready_at = NULL, finished_at = created_at WHERE id LIKE :like"
    run_sql(store, sql, status="SUCCESS", like="%window")
    run_sql(store, sql, status="SUCCESS", like="ended")
    run_sql(store, sql, status="FAILURE", like="failed%")
    run_sql(store, "DELETE FROM dbqueue_jobs WHERE id = 'gone'")
    run_sql(store, "UPDATE dbqueue_unique_keys SET until = '2020-01-01 00:00:00.000' WHERE key LIKE 'past%'")
    assert worker.session.prune_keys(limit=2) == 2
    assert worker.session.prune_keys(limit=100) == 3
    assert worker.session.prune_keys(limit=100) == 0
    with store.connect() as connection:
        left = set(connection.scalars(sa.text("SELECT key FROM dbqueue_unique_keys")))
    assert left == {"waiting", "in its window"}
