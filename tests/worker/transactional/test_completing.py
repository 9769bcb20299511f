"""`dbqueue.complete`: a job's SUCCESS in a transaction of the task's own."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import dbqueue
from dbqueue import testing
from dbqueue.errors import Ignore, LeaseLost, Reject
from tests.servers import libpq_url
from tests.stores import moment, row, run_sql
from tests.worker.transactional.effects import call, effects
from tests.worker.transactional.tasks import App


def test_a_job_completed_in_the_task_s_own_session(app: App) -> None:
    result = call(app, "complete_oneself", "a")
    assert testing.drain(app).counts == {"SUCCESS": 1}
    assert effects(app) == ["a"]
    assert result.get(timeout=0) == {"completed": "a"}


def test_a_completion_tells_how_long_the_run_took(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row's `started_at` is reckoned back from the end by it."""
    monkeypatch.setattr("dbqueue.task.transactions.time", SimpleNamespace(monotonic=lambda: time.monotonic() + 60.0))
    result = call(app, "complete_oneself", "a")
    testing.drain(app)
    found = row(app.database.store, result.id)
    began, ended = moment(found["started_at"]), moment(found["finished_at"])
    assert began is not None
    assert ended is not None
    took = ended - began
    assert timedelta(seconds=60) <= took < timedelta(seconds=600)


def test_a_job_completed_in_an_asynchronous_session(app: App) -> None:
    result = call(app, "acomplete_oneself", "a")
    assert testing.drain(app).counts == {"SUCCESS": 1}
    assert effects(app) == ["a"]
    assert result.get(timeout=0) == {"completed": "a"}


def test_what_comes_next_takes_a_result_that_nobody_else_is_to_have(app: App) -> None:
    taken: list[Any] = []

    @app.task(name="t.first", ignore_result=True)
    def first() -> None:
        with orm.Session(app.extra["engine"]) as session, session.begin():
            dbqueue.complete(session, "completed")

    @app.task(name="t.second")
    def second(value: Any) -> None:
        taken.append(value)

    (first.s() | second.s()).delay()
    assert testing.drain(app).counts == {"SUCCESS": 2}
    assert taken == ["completed"]


@pytest.mark.parametrize("how", ["rollback", "leave"])
def test_a_completion_that_was_not_committed_is_a_failure(app: App, how: str) -> None:
    result = app.tasks["t.complete_oneself"].apply_async(["a"], {"how": how})
    assert testing.drain(app).counts == {"FAILURE": 1}
    assert effects(app) == []
    assert "was not committed before the task returned" in repr(result.result)


def test_a_completion_on_a_connection_that_the_task_has_closed_is_a_failure_that_says_so(
    app: App, database_url: str
) -> None:
    @app.task(name="t.close_at_once")
    def close_at_once() -> None:
        sqlite = database_url.startswith("sqlite")
        path = sa.make_url(database_url).database or ""
        connection: Any = sqlite3.connect(path) if sqlite else psycopg.connect(libpq_url(database_url))
        dbqueue.complete(connection)
        connection.close()

    result = close_at_once.delay()
    assert testing.drain(app).counts == {"FAILURE": 1}
    assert "was not committed before the task returned" in repr(result.result)


def test_an_asynchronous_completion_that_was_left_open_holds_nothing_any_more(app: App) -> None:
    """The worker's own write of the failure would wait for it."""

    @app.task(name="t.leave_open")
    async def leave_open() -> None:
        engine = create_async_engine(app.extra["async_url"])
        session = AsyncSession(engine)

        async def close_with_the_loop() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await session.close()
                await engine.dispose()

        app.extra["closing"] = asyncio.create_task(close_with_the_loop())
        await session.execute(sa.text("INSERT INTO effects VALUES ('a')"))
        await dbqueue.acomplete(session)

    result = leave_open.delay()
    assert testing.drain(app).counts == {"FAILURE": 1}
    assert effects(app) == []
    assert "was not committed before the task returned" in repr(result.result)


@pytest.mark.parametrize("how", ["raise", "retry", "reject", "ignore", "replace"])
@pytest.mark.parametrize("is_async", [False, True], ids=["a function", "a coroutine"])
def test_what_is_raised_after_the_commit_changes_nothing(
    app: App, caplog: pytest.LogCaptureFixture, how: str, is_async: bool
) -> None:
    """The job is the success that its row says, also to those who are told of its end."""
    told: list[tuple[str, Any]] = []

    class Telling(dbqueue.Task[Any, Any]):
        def on_success(self, retval: Any, *_: Any) -> None:
            told.append(("on_success", retval))

        def on_failure(self, error: BaseException, *_: Any) -> None:
            told.append(("on_failure", error))

        def on_retry(self, error: BaseException, *_: Any) -> None:
            told.append(("on_retry", error))

        def after_return(self, status: str, retval: Any, *_: Any) -> None:
            told.append((status, retval))

    def end(task: Any) -> None:
        if how == "retry":
            task.retry(countdown=0)
        elif how == "replace":
            task.replace(task.app.tasks["t.write"].s("replaced"))
        errors: dict[str, BaseException] = {"raise": ValueError(), "reject": Reject(requeue=True), "ignore": Ignore()}
        raise errors[how]

    def function(self: Any) -> None:
        with orm.Session(app.extra["engine"]) as session, session.begin():
            dbqueue.complete(session, "completed")
        end(self)

    async def coroutine(self: Any) -> None:
        engine = create_async_engine(app.extra["async_url"])
        async with AsyncSession(engine) as session, session.begin():
            await dbqueue.acomplete(session, "completed")
        await engine.dispose()
        end(self)

    telling: Any = app.task(name="t.telling", base=Telling, bind=True)(coroutine if is_async else function)
    result = telling.delay()
    with caplog.at_level(logging.ERROR):
        (run,) = testing.drain(app)
    assert (run.state, run.result) == ("SUCCESS", "completed")
    assert (result.get(timeout=0), effects(app)) == ("completed", [])
    assert told == [("on_success", "completed"), ("SUCCESS", "completed")]
    assert ("raised unexpected" in caplog.text) is (how != "ignore")


def test_what_on_success_raises_of_a_completed_job_changes_nothing(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """The job is a success already, and nobody hears of a failure."""
    told: list[str] = []

    class Raising(dbqueue.Task[Any, Any]):
        def on_success(self, *_: Any) -> None:
            raise ValueError("from the hook")

        def on_failure(self, *_: Any) -> None:
            told.append("on_failure")

        def after_return(self, status: str, *_: Any) -> None:
            told.append(status)

    def complete() -> None:
        with orm.Session(app.extra["engine"]) as session, session.begin():
            dbqueue.complete(session, "completed")

    raising: Any = app.task(name="t.raising", base=Raising)(complete)
    result = raising.delay()
    (run,) = testing.drain(app)
    assert (run.state, run.result, result.get(timeout=0)) == ("SUCCESS", "completed", "completed")
    assert told == ["SUCCESS"]
    assert "from the hook" in caplog.text


@pytest.mark.parametrize("how", ["leave", "rollback", "close"])
def test_what_is_raised_before_the_commit_is_the_failure(app: App, database_url: str, how: str) -> None:
    """What was left open is rolled back: it would hold the row from whoever writes that."""

    @app.task(name="t.complete_and_fail")
    def complete_and_fail() -> None:
        sqlite = database_url.startswith("sqlite")
        path = sa.make_url(database_url).database or ""
        connection: Any = sqlite3.connect(path) if sqlite else psycopg.connect(libpq_url(database_url))
        app.extra["own"] = connection
        connection.execute("INSERT INTO effects VALUES ('a')")
        dbqueue.complete(connection)
        if how != "leave":
            getattr(connection, how)()
        raise ValueError("after the completion")

    result = complete_and_fail.delay()
    assert testing.drain(app).counts == {"FAILURE": 1}
    assert (repr(result.result), effects(app)) == ("ValueError('after the completion')", [])
    app.extra["own"].close()


def test_a_transactional_task_is_not_completed_by_hand(app: App) -> None:
    """A task that takes no notice of that ends with what it returns."""

    @app.task(name="t.by_hand", bind=True, transactional=True)
    def by_hand(self: Any) -> str:
        with pytest.raises(RuntimeError, match="completes its job by itself: return the result"):
            dbqueue.complete(self.session, "by hand")
        self.session.execute(sa.text("INSERT INTO effects VALUES ('a')"))
        return "returned"

    result = by_hand.delay()
    testing.drain(app)
    assert (result.get(timeout=0), effects(app)) == ("returned", ["a"])


def test_a_job_is_completed_once(app: App) -> None:
    result = call(app, "complete_twice", "a")
    testing.drain(app)
    assert "completed already" in repr(result.result)


def test_completing_where_nothing_runs(app: App) -> None:
    with pytest.raises(RuntimeError, match="there is none here"):
        dbqueue.complete(app.extra["engine"].connect(), 1)


def test_completing_a_job_that_is_another_s_by_now(app: App) -> None:
    seen: list[BaseException] = []

    @app.task(name="t.late", bind=True)
    def late(self: Any) -> None:
        run_sql(app.database.store, "UPDATE dbqueue_jobs SET lease = '11111111-1111-1111-1111-111111111111'")
        try:
            with app.extra["engine"].begin() as connection:
                connection.execute(sa.text("INSERT INTO effects VALUES ('a')"))
                dbqueue.complete(connection)
        except LeaseLost as error:
            seen.append(error)
            raise

    late.delay()
    testing.drain(app)
    assert len(seen) == 1
    assert effects(app) == []


@pytest.mark.parametrize("back", [False, True], ids=["another's", "seen elsewhere"])
def test_a_completion_that_finds_no_lease_is_a_lost_run_and_no_failure(
    app: App, caplog: pytest.LogCaptureFixture, back: bool
) -> None:
    """Where the worker finds the lease, the task's own connection has led to another server."""
    told: list[str] = []

    def take(lease: str) -> None:
        run_sql(app.database.store, f"UPDATE dbqueue_jobs SET lease = '{lease}'")

    @app.task(name="t.elsewhere", bind=True, on_failure=lambda *_: told.append("failure"))
    def elsewhere(self: Any) -> None:
        lease = row(app.database.store, self.request.id)["lease"]
        take("11111111-1111-1111-1111-111111111111")
        try:
            with app.extra["engine"].begin() as connection:
                connection.execute(sa.text("INSERT INTO effects VALUES ('a')"))
                dbqueue.complete(connection)
        finally:
            if back:
                take(lease)

    result = elsewhere.delay()
    with caplog.at_level(logging.WARNING):
        testing.drain(app)
    assert told == []
    assert "Traceback" not in caplog.text
    assert ("had no lease where its task's own connection led" if back else "lost its lease while") in caplog.text
    found = row(app.database.store, result.id)
    assert (found["status"], found["losses"]) == (("PENDING", 1) if back else ("STARTED", 0))
    assert effects(app) == []


@pytest.mark.parametrize("ended", ["", ", status = 'SUCCESS', finished_at = created_at"], ids=["runs", "has ended"])
def test_a_completion_that_was_undone_before_another_run_had_the_job(
    app: App, caplog: pytest.LogCaptureFixture, ended: str
) -> None:
    """What the row says by then is of that run."""

    @app.task(name="t.undone")
    def undone() -> None:
        with app.extra["engine"].connect() as connection:
            dbqueue.complete(connection)
            connection.rollback()
        steal = f"UPDATE dbqueue_jobs SET lease = '11111111-1111-1111-1111-111111111111'{ended}"
        run_sql(app.database.store, steal)

    undone.delay()
    with caplog.at_level(logging.WARNING):
        (run,) = testing.drain(app)
    assert run.state == "PENDING"
    assert "lost its lease while it ran here" in caplog.text


def test_completing_eagerly(app: App) -> None:
    assert app.tasks["t.complete_oneself"].apply(["a"]).get() == {"completed": "a"}
    assert effects(app) == ["a"]
