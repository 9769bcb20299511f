"""Transactional tasks: what a run writes, what it enqueues and its SUCCESS are there together, or none of them is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import dbqueue
from dbqueue import DBQueue, signals, testing
from dbqueue.contrib.testing.worker import start_worker
from dbqueue.errors import ChordError, EncodeError, Ignore, LeaseLost, Reject, SoftTimeLimitExceeded, WorkerLostError
from dbqueue.jobs import Outcome
from dbqueue.services.workers import make_executor
from dbqueue.store.postgres.copying import FEWEST
from dbqueue.store.revoking import revoke
from dbqueue.store.transactions import task_engines
from dbqueue.worker.settling import settle
from tests.servers import PostgresServer, libpq_url
from tests.stores import TestWorker, count, moment, row, run_sql
from tests.waiting import wait_until
from tests.worker.transactional import DEFERRED, EFFECTS, App, make_app
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
MODULE = "tests.worker.transactional"


@pytest.fixture
def app(database_url: str) -> Iterator[App]:
    with make_app(database_url) as app:
        run_sql(app.database.store, EFFECTS)
        yield app
        for session in app.extra.get("sessions", ()):
            session.close()
        app.extra["engine"].dispose()


def effects(app: App) -> list[str]:
    with app.database.store.connect() as connection:
        return sorted(connection.execute(sa.text("SELECT name FROM effects")).scalars())


def call(app: App, name: str, *args: Any, **options: Any) -> Any:
    return app.tasks[f"t.{name}"].apply_async(args, **options)


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


@pytest.mark.parametrize("name", ["write_and_fail", "awrite_and_fail"])
def test_a_failure_takes_the_writes_back(app: App, name: str) -> None:
    result = call(app, name, "a")
    (run,) = testing.drain(app)
    assert (run.state, repr(run.result)) == ("FAILURE", "ValueError('after the write')")
    assert effects(app) == []
    assert result.status == "FAILURE"


def test_a_retry_takes_the_writes_of_its_run_back(app: App) -> None:
    result = call(app, "write_and_retry", "a")
    assert testing.drain(app).counts == {"RETRY": 2, "SUCCESS": 1}
    assert effects(app) == ["a"]
    assert result.get(timeout=0) == 2


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


def test_a_result_that_cannot_be_stored_takes_the_writes_back(app: App) -> None:
    result = call(app, "write_unstorable", "a")
    told: list[tuple[type[BaseException], list[str]]] = []

    def tell(exception: BaseException, **_: Any) -> None:
        told.append((type(exception), effects(app)))

    signals.task_failure.connect(tell)
    try:
        testing.drain(app)
    finally:
        signals.task_failure.disconnect(tell)
    assert told == [(EncodeError, [])]  # when they were taken back
    assert effects(app) == []
    assert result.status == "FAILURE"
    assert "EncodeError" in repr(result.result)


@pytest.mark.parametrize("name", ["begin_anew", "abegin_anew"])
def test_a_rollback_of_the_connection_undoes_all_and_the_session_goes_on(app: App, name: str) -> None:
    call(app, name, "a")
    (run,) = testing.drain(app)
    assert run.state == "SUCCESS", run.result
    assert effects(app) == ["a-kept"]


@pytest.mark.parametrize("eagerly", [False, True])
def test_an_error_of_the_database_of_which_the_task_takes_no_notice(app: App, eagerly: bool) -> None:
    """PostgreSQL's COMMIT would undo the writes and raise nothing; and another run would be no better."""
    if eagerly:
        result: Any = app.tasks["t.take_no_notice"].apply(["a"])
    else:
        result = call(app, "take_no_notice", "a")
        testing.drain(app)
    if app.database.store.dialect == "sqlite":
        assert (result.get(), effects(app)) == ("written", ["a"])
    else:
        assert (result.state, effects(app)) == ("FAILURE", [])
        assert "current transaction is aborted" in str(result.result)


def test_enqueues_are_part_of_the_transaction(app: App) -> None:
    result = call(app, "follow", "a")
    assert testing.drain(app).counts == {"SUCCESS": 5}
    assert effects(app) == ["a", "a-1", "a-2", "a-3", "a-apart"]
    parents = {row(app.database.store, job_id)["parent_id"] for job_id in result.get(timeout=0)}
    assert parents == {result.id}


def test_a_failure_takes_the_enqueues_back_but_for_those_that_were_to_be_apart(app: App) -> None:
    app.tasks["t.follow"].apply_async(["a"], {"fails": True})
    assert testing.drain(app).counts == {"FAILURE": 1, "SUCCESS": 1}
    assert effects(app) == ["a-apart"]


def test_a_coroutine_enqueues_in_its_transaction(app: App) -> None:
    call(app, "afollow", "a")
    assert testing.drain(app).counts == {"SUCCESS": 2}
    assert effects(app) == ["a", "a-1"]


def test_an_enqueue_alone_opens_the_transaction(app: App) -> None:
    call(app, "only_follow", "a")
    assert testing.drain(app).counts == {"SUCCESS": 2}


def test_so_do_many_at_once(app: App) -> None:
    """They go by COPY, which is no statement of SQLAlchemy's."""
    names = [f"a{n:03}" for n in range(FEWEST)]
    call(app, "only_follow_many", *names)
    assert testing.drain(app).counts == {"SUCCESS": 1 + FEWEST}
    assert effects(app) == names


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


@pytest.mark.parametrize("is_async", [False, True], ids=["a function", "a coroutine"])
@pytest.mark.parametrize(
    ("end", "hook"),
    [("return", "after_return"), ("unstorable", "on_failure"), ("fail", "on_failure"), ("retry", "on_retry")],
)
def test_what_is_enqueued_when_it_is_over_is_no_part_of_the_transaction(
    app: App, end: str, hook: str, is_async: bool
) -> None:
    """That has been committed, or rolled back: a job that would join it were lost."""

    def follow(self: Any, *_: Any) -> None:
        self.app.tasks["t.write"].delay(hook)

    hooked = type("Hooked", (dbqueue.Task,), {hook: follow})

    def function(self: Any, name: str) -> object:
        if end == "retry" and not self.request.retries:
            raise self.retry(countdown=0)
        if end == "fail":
            raise ValueError(name)
        return object() if end == "unstorable" else name

    async def coroutine(self: Any, name: str) -> object:
        await self.session.execute(sa.text("SELECT 1"))
        return function(self, name)

    app.task(name="t.hooked", base=hooked, bind=True, transactional=True)(coroutine if is_async else function)
    call(app, "hooked", "a")
    testing.drain(app)
    assert effects(app) == [hook]


def test_the_connection_is_not_the_task_s_to_commit(app: App) -> None:
    result = call(app, "commit_it_oneself", "a")
    testing.drain(app)
    assert effects(app) == []
    assert "cannot be committed by the task" in repr(result.result)


@pytest.mark.parametrize("way", ["connection", "session"])
@pytest.mark.parametrize(("may_run_again", "runs"), [(True, 3), (False, 1)])
def test_a_run_whose_connection_broke_counts_as_lost(app: App, may_run_again: bool, runs: int, way: str) -> None:
    """It runs again as often as one that was lost with its process, and not at all where that one would not."""
    store = app.database.store
    if store.dialect == "sqlite":
        pytest.skip("nobody ends a connection to a file")

    @app.task(bind=True, transactional=True)
    def write(self: Any, name: str) -> None:
        database = getattr(self, way)
        database.execute(sa.text("INSERT INTO effects VALUES (:name)"), {"name": name})
        pid = database.scalar(sa.text("SELECT pg_backend_pid()"))
        run_sql(store, f"SELECT pg_terminate_backend({pid}, 10000)")

    app.conf.task_max_losses = 2
    result = write.delay("a")
    executor, worker = make_executor(app, hostname="test"), TestWorker(store)
    for run in range(1, runs + 1):
        worker.settle(executor.run(worker.claim_one(once=[] if may_run_again else [write.name])))
        stored = row(store, result.id)
        assert (stored["status"], stored["losses"]) == (("PENDING", run) if run < runs else ("FAILURE", runs - 1))
        assert effects(app) == []
    assert "it may not run again" in repr(result.result)
    executor.close()
    worker.close()


def test_what_the_commit_itself_refuses_is_the_task_s_failure(app: App) -> None:
    if app.database.store.dialect == "sqlite":
        pytest.skip("SQLite checks uniqueness at once")
    run_sql(app.database.store, DEFERRED)
    result = call(app, "break_a_promise", "a")
    testing.drain(app)
    assert result.status == "FAILURE"
    assert "duplicate key" in repr(result.result)


def test_a_replacement_is_part_of_the_transaction(app: App) -> None:
    result = call(app, "replace_by_another", "a")
    assert testing.drain(app).counts == {"PENDING": 1, "SUCCESS": 1}
    assert effects(app) == ["a", "a-replaced"]
    assert result.get(timeout=0) == "wrote a-replaced"


@pytest.mark.parametrize("is_async", [False, True], ids=["a function", "a coroutine"])
def test_a_run_that_has_replaced_itself_is_told_of_as_no_success(app: App, is_async: bool) -> None:
    """Its job is not over: the end to hear of is that of the replacement."""
    told: list[str] = []

    class Telling(dbqueue.Task[Any, Any]):
        def on_success(self, *_: Any) -> None:
            told.append("on_success")

        def after_return(self, status: str, *_: Any) -> None:
            told.append(status)

    def function(self: Any) -> None:
        self.session.execute(sa.text("INSERT INTO effects VALUES ('a')"))
        self.replace(app.tasks["t.write"].s("replaced"))

    async def coroutine(self: Any) -> None:
        await self.session.execute(sa.text("INSERT INTO effects VALUES ('a')"))
        self.replace(app.tasks["t.write"].s("replaced"))

    def heard(sender: Any, **_: Any) -> None:
        told.append(f"the success of {sender.name}")

    body = coroutine if is_async else function
    replaced: Any = app.task(name="t.replaced", base=Telling, bind=True, transactional=True)(body)
    signals.task_success.connect(heard)
    try:
        result = replaced.delay()
        testing.drain(app)
    finally:
        signals.task_success.disconnect(heard)
    assert (result.get(timeout=0), effects(app)) == ("wrote replaced", ["a", "replaced"])
    assert told == ["the success of t.write"]


def test_what_waits_for_it_may_run_after_its_commit(app: App) -> None:
    write = app.tasks["t.write"]
    result = dbqueue.chain(write.si("a"), write.si("b")).apply_async()
    body = dbqueue.chord([write.s("c"), write.s("d")], app.tasks["t.touch_nothing"].si()).apply_async()
    assert testing.drain(app).counts == {"SUCCESS": 5}
    assert effects(app) == ["a", "b", "c", "d"]
    assert result.get(timeout=0) == "wrote b"
    assert body.get(timeout=0) == "nothing"


def test_a_lost_lease_takes_everything_back(app: App, caplog: pytest.LogCaptureFixture) -> None:
    steal = "UPDATE dbqueue_jobs SET lease = '11111111-1111-1111-1111-111111111111' WHERE task = 't.stolen'"

    @app.task(name="t.stolen", bind=True, transactional=True)
    def stolen(self: Any) -> None:
        if app.database.store.dialect == "postgresql":
            run_sql(app.database.store, steal)  # by another connection
            self.session.execute(sa.text("INSERT INTO effects VALUES ('a')"))
        else:
            run_sql(app.database.store, steal)
            self.session.execute(sa.text("INSERT INTO effects VALUES ('a')"))
        app.tasks["t.write"].delay("b")

    told: list[str] = []

    def heard(state: str, **_: Any) -> None:
        told.append(state)

    result = stolen.delay()
    signals.task_postrun.connect(heard)
    try:
        with caplog.at_level(logging.WARNING):
            (run,) = testing.drain(app)
    finally:
        signals.task_postrun.disconnect(heard)
    assert (effects(app), told) == ([], ["IGNORED"]), "what was taken at its beginning is to be freed"
    assert run.state == "PENDING"
    assert result.status == "STARTED"
    (line,) = [record.getMessage() for record in caplog.records if result.id in record.getMessage()]
    assert line.startswith(
        f"Job {result.id} lost its lease while it ran here: its success, with all that it wrote, is "
    )
    assert "it is STARTED by another hand now" in line


@pytest.mark.parametrize(("redeliver", "runs"), [(True, 3), (False, 1)], ids=["may run again", "may not run again"])
def test_a_lease_that_only_the_task_s_own_connection_misses_is_a_lost_run(
    app: App, caplog: pytest.LogCaptureFixture, redeliver: bool, runs: int
) -> None:
    """As where that connection leads to a server of old, which has come back and knows nothing of the claim."""
    app.conf.task_max_losses = 2
    begun = []

    @app.task(name="t.misled", bind=True, transactional=True, acks_late=redeliver)
    def misled(self: Any) -> None:
        begun.append(self.request.id)
        self.session.execute(sa.text("INSERT INTO effects VALUES ('a')"))
        # Undone with all the rest, so that nobody else ever sees it.
        self.session.execute(sa.text("UPDATE dbqueue_jobs SET lease = '11111111-1111-1111-1111-111111111111'"))

    result = misled.delay()
    with caplog.at_level(logging.WARNING):
        work_off(app)
    assert begun == [result.id] * runs
    assert isinstance(result.result, WorkerLostError)
    assert effects(app) == []
    said = [
        record.getMessage().rpartition(" is rolled back, and ")[2]
        for record in caplog.records
        if result.id in record.getMessage()
    ]
    assert said == (
        [
            "it runs again (loss 1 of at most 2)",
            "it runs again (loss 2 of at most 2)",
            "it ends as FAILURE: this is loss 3, and task_max_losses is 2",
        ]
        if redeliver
        else ["it ends as FAILURE: the task may not run again once it has started"]
    )


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


# -- eager mode


@pytest.mark.parametrize("name", ["write", "awrite"])
def test_eagerly_the_writes_are_committed(app: App, name: str) -> None:
    assert app.tasks[f"t.{name}"].apply(["a"]).get() == "wrote a"
    assert effects(app) == ["a"]


@pytest.mark.parametrize("name", ["write_and_fail", "awrite_and_fail"])
def test_eagerly_a_failure_takes_them_back(app: App, name: str) -> None:
    assert app.tasks[f"t.{name}"].apply(["a"]).state == "FAILURE"
    assert effects(app) == []


def test_eagerly_a_call_inside_is_a_savepoint(app: App) -> None:
    @app.task(bind=True, transactional=True)
    def outer(self: Any, fails: bool = False) -> None:
        self.session.execute(sa.text("INSERT INTO effects VALUES ('outer')"))
        app.tasks["t.write"].apply(["inner"])
        app.tasks["t.write_and_fail"].apply(["undone"])
        if fails:
            raise ValueError

    outer.apply()
    assert effects(app) == ["inner", "outer"]
    outer.apply(kwargs={"fails": True})
    assert effects(app) == ["inner", "outer"]


def test_a_call_of_another_application_is_no_part_of_it(app: App, tmp_path: Path) -> None:
    """Its job goes to its own database, and is there whatever becomes of the transaction."""
    with DBQueue("other", broker=f"sqlite:///{tmp_path / 'other.db'}", set_as_current=False) as other:
        work = other.task(name="work")(lambda: None)

        @app.task(transactional=True)
        def outer() -> None:
            work.delay()
            raise ValueError

        assert outer.apply().state == "FAILURE"
        assert (count(other.database.store), count(app.database.store)) == (1, 0)


def test_a_call_of_another_application_in_place_is_no_part_of_it(app: App, tmp_path: Path) -> None:
    """It is committed in its own database, whatever becomes of the transaction around it."""
    with make_app(f"sqlite:///{tmp_path / 'other.db'}") as other:
        run_sql(other.database.store, EFFECTS)

        @app.task(bind=True, transactional=True)
        def outer(self: Any) -> None:
            self.session.execute(sa.text("INSERT INTO effects VALUES ('outer')"))
            other.tasks["t.write"].apply(["inner"]).get()
            raise ValueError

        assert outer.apply().state == "FAILURE"
        assert (effects(other), effects(app)) == (["inner"], [])
        other.extra["engine"].dispose()


def test_always_eager_too(app: App) -> None:
    app.conf.task_always_eager = True
    assert app.tasks["t.write"].delay("a").get() == "wrote a"
    assert effects(app) == ["a"]


def test_eagerly_in_a_database_in_memory() -> None:
    with make_app("sqlite://") as app:
        run_sql(app.database.store, EFFECTS)
        assert app.tasks["t.write"].apply(["a"]).get() == "wrote a"
        assert app.tasks["t.write_and_fail"].apply(["b"]).state == "FAILURE"
        assert effects(app) == ["a"]
        assert "use a file, or a plain function" in repr(app.tasks["t.awrite"].apply(["a"]).result)
        app.extra["engine"].dispose()


def test_in_a_database_in_memory_other_threads_wait_for_the_end_of_the_transaction() -> None:
    """There is one connection: what they wrote would be taken back or committed with it."""
    turns: list[bool] = []

    def ask(turn: Any) -> None:
        turns.append(turn.acquire(blocking=False))
        if turns[-1]:
            turn.release()

    with make_app("sqlite://") as app:

        def of_another_thread() -> bool:
            thread = threading.Thread(target=ask, args=(app.database.store.turn(),))
            thread.start()
            thread.join()
            return turns[-1]

        run_sql(app.database.store, EFFECTS)

        @app.task(bind=True, transactional=True)
        def write(self: Any, name: str) -> bool:
            self.connection.execute(sa.text("INSERT INTO effects VALUES (:name)"), {"name": name})
            assert name != "fails"
            waits = of_another_thread()
            if name == "undone":
                self.connection.connection.driver_connection.rollback()  # of which SQLAlchemy knows nothing
            return waits

        for name, state in (("a", "SUCCESS"), ("fails", "FAILURE"), ("undone", "SUCCESS")):
            result = write.apply([name])
            assert (result.state, of_another_thread()) == (state, True)
            assert state == "FAILURE" or result.get() is False
        assert effects(app) == ["a"]
        app.extra["engine"].dispose()


def test_in_a_database_in_memory_a_read_ends_no_transaction() -> None:
    """The one connection is given out and taken back for it."""
    with make_app("sqlite://") as app:
        run_sql(app.database.store, EFFECTS)
        before = app.tasks["t.write"].delay("before")

        @app.task(bind=True, transactional=True)
        def write(self: Any, name: str) -> str:
            self.session.execute(sa.text("INSERT INTO effects VALUES (:name)"), {"name": name})
            self.session.flush()
            return str(before.state)

        assert write.apply(["a"]).get() == "PENDING"
        assert effects(app) == ["a"]
        app.extra["engine"].dispose()


def test_what_a_session_cannot_write_at_its_end_is_the_tasks_failure(app: App) -> None:
    """Nothing is broken: another run would fail as this one did."""

    class Base(orm.DeclarativeBase):
        pass

    class Effect(Base):
        __tablename__ = "effects"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)

    runs: list[str] = []

    @app.task(name="t.add_and_return", bind=True, transactional=True)
    def add_and_return(self: Any) -> None:
        runs.append(self.request.id)
        self.session.execute(sa.text("INSERT INTO effects VALUES ('a')"))
        self.session.add(Effect(id=1))  # the table has no such column

    result = add_and_return.delay()
    assert testing.drain(app).counts == {"FAILURE": 1}
    assert (runs, effects(app)) == ([result.id], [])
    assert "id" in repr(result.result)


# -- dbqueue.complete


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


def test_what_those_raise_who_hear_of_a_success_makes_no_failure_of_it(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    """It stands, and the log has what they raised. In any other task the success is not written yet."""
    failures: list[str] = []

    def raising(**_: Any) -> None:
        raise SystemExit

    def heard(task_id: str, **_: Any) -> None:
        failures.append(task_id)

    with contextlib.ExitStack() as connected:
        for signal, receiver in ((signals.task_success, raising), (signals.task_failure, heard)):
            signal.connect(receiver)
            connected.callback(signal.disconnect, receiver)
        result = call(app, "write", "a")
        testing.drain(app)
    assert (result.state, effects(app), failures) == ("SUCCESS", ["a"], [])
    assert any(record.exc_info and record.exc_info[0] is SystemExit for record in caplog.records)


def test_those_who_hear_of_a_success_that_is_not_written_yet_make_a_failure_of_it(app: App) -> None:
    """The task has touched nothing: its outcome is the rounds' to write, as that of any other."""
    told: list[str] = []

    def raising(**_: Any) -> None:
        raise SystemExit

    def heard(task_id: str, **_: Any) -> None:
        told.append(task_id)

    with contextlib.ExitStack() as connected:
        for signal, receiver in ((signals.task_success, raising), (signals.task_failure, heard)):
            signal.connect(receiver)
            connected.callback(signal.disconnect, receiver)
        result = call(app, "touch_nothing")
        testing.drain(app)
    assert (result.state, told) == ("FAILURE", [result.id])


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


# -- real workers


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("wait_in_the_database", "prefork"),
        ("await_the_database", "prefork"),
        ("await_the_database", "asyncio"),
    ],
)
def test_a_statement_that_a_soft_limit_interrupts_is_ended(
    postgres_url: str, start_worker: Start, name: str, pool: str
) -> None:
    """The server went on with it, and with its locks, for as long as it takes."""
    with make_app(postgres_url) as app, psycopg.connect(libpq_url(postgres_url), autocommit=True) as watcher:
        watcher.execute(EFFECTS)
        worker = start_worker(postgres_url, pool=pool, module=MODULE)
        result = call(app, name, "a", soft_time_limit=1)
        assert isinstance(result.get(timeout=60, propagate=False), SoftTimeLimitExceeded)
        lock = "SELECT pg_try_advisory_lock(7)"
        wait_until(lambda: watcher.execute(lock).fetchone() == (True,), 20, "the end of the statement")
        watcher.execute("SELECT pg_advisory_unlock(7)")
        assert effects(app) == []
        assert call(app, "write", "b").get(timeout=60) == "wrote b"
        assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads", "asyncio", "solo"])
def test_on_every_pool(app: App, database_url: str, start_worker: Start, pool: str) -> None:
    names = ["write", "awrite", "write_and_fail", "awrite_and_fail", "follow", "afollow", "write_and_retry"]
    results = {name: call(app, name, name) for name in names}
    linked = dbqueue.chain(app.tasks["t.awrite"].si("x"), app.tasks["t.write"].si("y")).apply_async()
    worker = start_worker(database_url, pool=pool, module=MODULE)
    states = {name: result.get(timeout=60, propagate=False) for name, result in results.items()}
    assert repr(states["write_and_fail"]) == repr(states["awrite_and_fail"]) == "ValueError('after the write')"
    assert states["write_and_retry"] == 2
    assert linked.get(timeout=60) == "wrote y"
    for job_id in [*states["follow"], states["afollow"]]:
        app.AsyncResult(job_id).get(timeout=60)
    expected = ["write", "awrite", "follow", "follow-1", "follow-2", "follow-3", "follow-apart", "afollow", "afollow-1"]
    assert effects(app) == sorted([*expected, "write_and_retry", "x", "y"])
    assert worker.stop() == 0
    assert "lost its lease" not in worker.log


# a database that gives no connection


@contextlib.contextmanager
def closed_to_all(server: PostgresServer, url: str) -> Iterator[Callable[[], None]]:
    """A database whose connections stay, and which takes no further ones until it is opened again."""
    name = sa.make_url(url).database
    server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    try:
        yield lambda: server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    finally:
        server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def run_while_closed(
    app: App, server: PostgresServer, url: str, name: str, *, until: str = "false", said: Callable[[], bool] = bool
) -> Any:
    """The result of a task that begins while the database is closed, until its job is in this state, or it was said."""
    with psycopg.connect(libpq_url(url), autocommit=True) as watcher:

        def there_is(condition: str) -> bool:
            return watcher.execute(f"SELECT FROM dbqueue_jobs WHERE {condition}".encode()).fetchone() is not None

        with start_worker(app, perform_ping_check=False):
            result = app.tasks[f"t.{name}"].apply_async(["a"], connection=watcher, countdown=3600)
            with closed_to_all(server, url) as reopen:
                watcher.execute("UPDATE dbqueue_jobs SET eta = now(), ready_at = now()")
                wait_until(lambda: said() or there_is(f"{until} OR finished_at IS NOT NULL"), what="its run")
                reopen()
                wait_until(lambda: there_is("finished_at IS NOT NULL"), what="its end")
    return result.get(timeout=0)


@pytest.mark.parametrize("name", ["write", "awrite"])
def test_a_task_waits_for_a_database_that_gives_no_connection(
    postgres_app: App, postgres_server: PostgresServer, postgres_url: str, name: str
) -> None:
    until = "status = 'STARTED'"
    assert run_while_closed(postgres_app, postgres_server, postgres_url, name, until=until) == "wrote a"
    assert effects(postgres_app) == ["a"]


def test_a_coroutine_that_got_no_connection_runs_again(
    postgres_app: App,
    postgres_server: PostgresServer,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing of it has run: it has not failed, and was not lost, whether it may run again or not."""
    monkeypatch.setattr(task_engines, "CONNECT_SECONDS", 0.5)
    postgres_app.tasks["t.awrite"].acks_late = False
    result = run_while_closed(
        postgres_app, postgres_server, postgres_url, "awrite", said=lambda: "it has not begun" in caplog.text
    )
    assert result == "wrote a"
    assert effects(postgres_app) == ["a"]
    assert run_sql(postgres_app.database.store, "SELECT FROM dbqueue_jobs WHERE losses = 0") == 1


# what is added to a chord


def chord_with(app: App, function: Callable[..., Any]) -> Any:
    """A chord of which one header is this function, as a transactional task, and the other an effect; its result."""
    app.task(name="t.adds", bind=True, transactional=True)(function)

    @app.task(name="t.collect")
    def collect(results: list[Any]) -> list[Any]:
        return results

    return dbqueue.chord([app.tasks["t.adds"].s(), app.tasks["t.write"].s("other")], collect.s()).apply_async()


def added(task: Any, name: str) -> None:
    task.add_to_chord(task.app.tasks["t.write"].s(name))


def work_off(app: App, *, but: int = 0) -> None:
    """Have a worker run all jobs but so many, which cannot end."""
    with start_worker(app, perform_ping_check=False):
        wait_until(lambda: count(app.database.store, "finished_at IS NULL") == but, what="the ends of the jobs")


def test_what_is_added_to_a_chord_is_waited_for(app: App) -> None:
    def adds(self: Any) -> str:
        added(self, "new")
        self.session.execute(sa.text("INSERT INTO effects VALUES ('own')"))
        added(self, "newer")
        return "added"

    result = chord_with(app, adds)
    work_off(app)
    assert effects(app) == ["new", "newer", "other", "own"]
    assert result.get(timeout=0) == ["added", "wrote other", "wrote new", "wrote newer"]


def test_a_failure_takes_back_what_was_added(app: App) -> None:
    def adds(self: Any) -> str:
        added(self, "new")
        if self.request.retries == 0:
            raise self.retry(countdown=0)
        return "added"

    result = chord_with(app, adds)
    work_off(app)
    assert effects(app) == ["new", "other"]
    assert result.get(timeout=0) == ["added", "wrote other", "wrote new"]


def test_parts_that_are_undone_take_back_what_they_have_added(app: App) -> None:
    def adds(self: Any) -> str:
        added(self, "all")
        self.connection.rollback()
        added(self, "first")
        savepoint = self.connection.begin_nested()
        added(self, "savepoint")
        savepoint.rollback()
        with self.connection.begin_nested():
            added(self, "kept")
        self.session.execute(sa.text("SELECT 1"))
        added(self, "session")
        self.session.rollback()
        added(self, "last")
        return "added"

    result = chord_with(app, adds)
    work_off(app)
    assert effects(app) == ["first", "kept", "last", "other"]
    assert result.get(timeout=0) == ["added", "wrote other", "wrote first", "wrote kept", "wrote last"]


def test_a_run_adds_nothing_of_the_run_before_it_on_its_connection(app: App) -> None:
    @app.task(name="t.adds_and_tells", bind=True, transactional=True)
    def adds(self: Any, *names: str) -> str:
        for name in names:
            added(self, name)
        return names[0]

    @app.task(name="t.collect_all")
    def collect(results: list[Any]) -> list[Any]:
        return results

    result = dbqueue.chord([adds.s("a", "more"), adds.s("b")], collect.s()).apply_async()
    work_off(app)
    assert effects(app) == ["a", "b", "more"]
    told = result.get(timeout=0)
    assert (told[:2], sorted(told[2:])) == (["a", "b"], ["wrote a", "wrote b", "wrote more"])


def test_a_replacement_of_what_has_added(app: App) -> None:
    def adds(self: Any) -> None:
        added(self, "new")
        self.replace(self.app.tasks["t.write"].s("replaced"))

    result = chord_with(app, adds)
    work_off(app)
    assert result.get(timeout=0) == ["wrote replaced", "wrote other", "wrote new"]


def test_outside_of_a_chord_nothing_is_added(app: App) -> None:
    @app.task(name="t.alone", bind=True, transactional=True)
    def alone(self: Any) -> str:
        with pytest.raises(ValueError, match="not member of any chord"):
            added(self, "new")
        return "alone"

    result = alone.delay()
    work_off(app)
    assert (result.get(timeout=0), effects(app)) == ("alone", [])


def body_of(app: App) -> str:
    with app.database.store.connect() as connection:
        return str(connection.scalar(sa.text("SELECT id FROM dbqueue_jobs WHERE task = 't.collect'")))


@pytest.fixture
def postgres_app(postgres_url: str) -> Iterator[App]:
    with make_app(postgres_url) as app:
        run_sql(app.database.store, EFFECTS)
        yield app
        app.extra["engine"].dispose()


def test_what_is_added_takes_one_lock_of_the_server_s_table(postgres_app: App) -> None:
    def adds(self: Any) -> int:
        for name in ("a", "b", "c"):
            added(self, name)
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        return int(self.session.scalar(sa.text(query)))

    result = chord_with(postgres_app, adds)
    work_off(postgres_app)
    assert result.get(timeout=0)[0] == 1


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


def test_the_body_is_not_locked_before_the_end(postgres_app: App, postgres_url: str) -> None:
    """Others end their headers, and add more of them: each has a place of its own."""
    app = postgres_app

    def adds(self: Any) -> str:
        added(self, "new")
        body = body_of(app)
        with psycopg.connect(libpq_url(postgres_url)) as other:
            other.execute("SET lock_timeout = '5s'")
            other.execute("SELECT FROM dbqueue_jobs WHERE id = %s FOR UPDATE", [body])
        with dbqueue.using(None):
            added(self, "before")
        return "added"

    result = chord_with(app, adds)
    work_off(app)
    assert result.get(timeout=0) == ["added", "wrote other", "wrote before", "wrote new"]


@pytest.mark.parametrize("how", ["ended", "deleted"])
def test_a_chord_that_is_over_by_then(postgres_app: App, how: str) -> None:
    """What was added to one that has failed meanwhile runs, as do its other headers."""
    app = postgres_app

    def adds(self: Any) -> str:
        added(self, "new")
        if how == "ended":
            revoke(app.database.store, [body_of(app)])
        else:
            run_sql(app.database.store, "DELETE FROM dbqueue_jobs WHERE task = 't.collect'")
        return "added"

    chord_with(app, adds)
    work_off(app)
    assert effects(app) == (["new", "other"] if how == "ended" else ["other"])
    run = "SELECT status FROM dbqueue_jobs WHERE task = 't.adds'"
    with app.database.store.connect() as connection:
        assert connection.scalar(sa.text(run)) == ("SUCCESS" if how == "ended" else "FAILURE")


RESETS = ["RESET ALL", "RESET dbqueue.headers", "SELECT set_config('dbqueue.headers', '', true)"]


@pytest.mark.parametrize("statement", RESETS)
@pytest.mark.parametrize("again", [False, True])
def test_a_task_that_resets_what_it_has_added_fails(postgres_app: App, statement: str, again: bool) -> None:
    app = postgres_app

    def adds(self: Any) -> None:
        with self.connection.begin_nested():
            added(self, "new")
        added(self, "newer")
        self.connection.exec_driver_sql(statement)
        if again:
            added(self, "newest")

    result = chord_with(app, adds)
    work_off(app)
    assert effects(app) == ["other"]
    with pytest.raises(ChordError, match="has reset the settings of its connection"):
        result.get(timeout=0)


def test_a_reset_that_loses_nothing_is_no_failure(postgres_app: App) -> None:
    """Before anything was added, after it was taken back, and one that is itself undone."""
    app = postgres_app

    def adds(self: Any) -> str:
        self.connection.exec_driver_sql("RESET ALL")
        with self.connection.begin_nested() as savepoint:
            added(self, "undone")
            savepoint.rollback()
        self.connection.exec_driver_sql("RESET ALL")
        added(self, "kept")
        with self.connection.begin_nested() as savepoint:
            added(self, "undone too")
            self.connection.exec_driver_sql("RESET ALL")
            added(self, "and this")
            savepoint.rollback()
        added(self, "last")
        return "added"

    result = chord_with(app, adds)
    work_off(app)
    assert result.get(timeout=0) == ["added", "wrote other", "wrote kept", "wrote last"]


def test_a_lost_lease_takes_back_what_was_added(postgres_app: App) -> None:
    app = postgres_app
    lease = "11111111-1111-1111-1111-111111111111"
    steal = f"UPDATE dbqueue_jobs SET lease = '{lease}', worker = 'rival' WHERE task = 't.adds'"

    def adds(self: Any) -> None:
        added(self, "new")
        run_sql(app.database.store, steal)

    chord_with(app, adds)
    work_off(app, but=2)
    assert effects(app) == ["other"]
    assert count(app.database.store, "task = 't.adds' AND status = 'STARTED'") == 1
