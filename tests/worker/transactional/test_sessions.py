"""A transactional task's session and connection: what a run writes and its SUCCESS are there together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm

import dbqueue
from dbqueue import signals, testing
from dbqueue.jobs import Outcome
from dbqueue.services.workers import make_executor
from dbqueue.worker.claiming.settling import settle
from tests.servers import libpq_url
from tests.stores import TestWorker, count, row, run_sql
from tests.waiting import wait_until
from tests.worker.transactional.effects import call, effects
from tests.worker.transactional.tasks import EFFECTS, App, make_app


@pytest.mark.parametrize("name", ["write", "write_by_connection", "awrite", "awrite_by_connection", "write_unbound"])
def test_what_was_written_and_the_success_are_there_together(app: App, name: str) -> None:
    result = call(app, name, "a")
    (run,) = testing.drain(app)
    assert run.state == "SUCCESS", run.result
    assert effects(app) == ["a"]
    assert result.get(timeout=0) == ("a" if name == "write_unbound" else "wrote a")
    assert row(app.database.store, result.id)["permit"] is None


@pytest.mark.parametrize("eagerly", [False, True])
def test_what_the_driver_s_own_connection_wrote(app: App, eagerly: bool) -> None:
    """psycopg's COPY, say, which SQLAlchemy does not see."""
    if app.database.store.dialect == "sqlite":
        pytest.skip("sqlite3's connection begins no transaction by itself")
    if eagerly:
        app.tasks["t.write_by_driver"].apply(["a"]).get()
    else:
        call(app, "write_by_driver", "a")
        assert testing.drain(app).counts == {"SUCCESS": 1}
    assert effects(app) == ["a"]


def test_an_ignored_run_is_a_success_without_a_result(app: App) -> None:
    told: list[str] = []

    def heard(result: Any, **_: Any) -> None:
        told.append("a success")

    signals.task_success.connect(heard)
    try:
        result = call(app, "write_and_ignore", "a")
        testing.drain(app)
    finally:
        signals.task_success.disconnect(heard)
    assert (effects(app), told) == (["a"], [])
    assert (result.status, result.result) == ("SUCCESS", None)


@pytest.mark.parametrize("name", ["begin_anew", "abegin_anew"])
def test_a_rollback_of_the_connection_undoes_all_and_the_session_goes_on(app: App, name: str) -> None:
    call(app, name, "a")
    (run,) = testing.drain(app)
    assert run.state == "SUCCESS", run.result
    assert effects(app) == ["a-kept"]


def test_a_task_that_touches_nothing_ends_as_any_other(app: App) -> None:
    result = call(app, "touch_nothing")
    testing.drain(app)
    assert result.get(timeout=0) == "nothing"


def test_a_session_s_own_commit_and_rollback_are_savepoints(app: App) -> None:
    call(app, "undo_a_part", "a")
    testing.drain(app)
    assert effects(app) == ["a-kept", "a-last"]


@pytest.mark.parametrize("within", [False, True], ids=["a job", "a call inside"])
def test_an_object_that_was_only_added_is_written(app: App, within: bool) -> None:
    class Effect(orm.declarative_base()):  # type: ignore[misc]
        __table__ = sa.Table("effects", sa.MetaData(), sa.Column("name", sa.Text, primary_key=True))

    @app.task(name="t.add_object", bind=True, transactional=True)
    def add_object(self: Any) -> None:
        self.session.add(Effect(name="a"))

    @app.task(name="t.outer", transactional=True)
    def outer() -> None:
        add_object.apply()

    (outer if within else add_object).delay()
    assert testing.drain(app).counts == {"SUCCESS": 1}
    assert effects(app) == ["a"]


def run_on_a_loop(app: App) -> None:
    """Run the job that waits as the pool asyncio does."""
    executor, worker = make_executor(app, hostname="test"), TestWorker(app.database.store)
    job = worker.claim_one()

    async def run() -> Outcome:
        try:
            return await executor.run_async(job)
        finally:
            assert executor.transactions is not None
            await executor.transactions.leave_loop()

    settle(worker.session, [asyncio.run(run())], None, ())
    worker.close()


@pytest.mark.parametrize("run", [testing.drain, run_on_a_loop])
@pytest.mark.parametrize("is_async", [False, True], ids=["a function", "a coroutine"])
def test_the_transaction_is_there_before_the_task_begins(
    app: App, is_async: bool, run: Callable[[App], object]
) -> None:
    class Effect(orm.declarative_base()):  # type: ignore[misc]
        __table__ = sa.Table("effects", sa.MetaData(), sa.Column("name", sa.Text, primary_key=True))

    class Prepared(dbqueue.Task[Any, Any]):
        def before_start(self, *_: Any) -> None:
            self.session.add(Effect(name="before"))

    async def coroutine(name: str) -> None:
        await asyncio.sleep(0)

    def function(name: str) -> None:
        pass

    app.task(name="t.prepared", base=Prepared, transactional=True)(coroutine if is_async else function)
    result = call(app, "prepared", "a")
    run(app)
    assert result.state == "SUCCESS"
    assert effects(app) == ["before"]


def test_the_connection_is_not_the_task_s_to_commit(app: App) -> None:
    result = call(app, "commit_it_oneself", "a")
    testing.drain(app)
    assert effects(app) == []
    assert "cannot be committed by the task" in repr(result.result)


def test_the_other_serializers_results_are_written_too(database_url: str) -> None:
    with make_app(database_url, result_serializer="msgpack", accept_content=["json", "msgpack"]) as app:
        run_sql(app.database.store, EFFECTS)
        result = call(app, "write", "a")
        testing.drain(app)
        assert result.get(timeout=0) == "wrote a"
        app.extra["engine"].dispose()


def test_outside_of_a_job_there_is_no_session(app: App) -> None:
    with pytest.raises(AttributeError, match="while a job of a task with transactional=True runs"):
        app.tasks["t.write"].session  # noqa: B018
    assert not hasattr(app.tasks["t.complete_oneself"], "session")
    app.tasks["t.write"].session = "its own"
    assert app.tasks["t.write"].session == "its own"


def test_the_connections_of_a_thread_s_loop_end_with_it(postgres_app: App, postgres_url: str) -> None:
    app, store = postgres_app, postgres_app.database.store
    result = call(app, "awrite", "a")
    executor, worker = make_executor(app, hostname="test"), TestWorker(store)
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        query = """
            SELECT array_agg(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> ALL(%s)"""
        before = admin.execute("SELECT array_agg(pid) FROM pg_stat_activity WHERE pid IS NOT NULL").fetchone()
        assert before is not None
        worker.settle(executor.run(worker.claim_one()))
        assert result.state == "SUCCESS"
        executor.close()
        count(store)  # by now no wake-up has one of the store's any more
        store.engine.dispose()
        wait_until(lambda: admin.execute(query, before).fetchone() == (None,), what="the end of its connections")
    worker.close()
