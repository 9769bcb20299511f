"""A transactional task that fails, is retried, or loses its connection or its lease: nothing of its run stays."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm

from dbqueue import signals, testing
from dbqueue.errors import EncodeError, OperationalError, SchemaError, WorkerLostError
from dbqueue.services.workers import make_executor
from tests.stores import TestWorker, row, run_sql
from tests.worker.transactional.effects import call, effects, work_off
from tests.worker.transactional.tasks import DEFERRED, App


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


@pytest.mark.parametrize("kind", ["function", "coroutine", "function with an error of its own"])
@pytest.mark.parametrize(
    ("setting", "statement", "ends"),
    [
        ("search_path = elsewhere", "INSERT INTO effects VALUES ('a')", "FAILURE"),
        ("search_path = elsewhere", "SELECT 1", "REVOKED"),
        ("role = pg_monitor", "INSERT INTO effects VALUES ('a')", "FAILURE"),
        ("role = pg_monitor", "SELECT 1", "REVOKED"),
        ("statement_timeout = '50ms'", "SELECT pg_sleep(0.2)", "FAILURE"),
    ],
    ids=["no table", "no table of dbqueue's", "no right", "no right to dbqueue's", "too slow"],
)
def test_a_connection_that_was_made_while_its_role_had_another_setting_is_not_used_again(
    postgres_app: App, kind: str, setting: str, statement: str, ends: str
) -> None:
    """It keeps what its role had then, and would fail each later run in its process."""
    app, store = postgres_app, postgres_app.database.store

    @app.task(bind=True, transactional=True)
    def write(self: Any) -> None:
        self.connection.exec_driver_sql(statement)

    @app.task(bind=True, transactional=True)
    async def awrite(self: Any) -> None:
        await self.connection.exec_driver_sql(statement)

    @app.task(bind=True, transactional=True)
    def write_or_say(self: Any) -> None:
        try:
            self.connection.exec_driver_sql(statement)
        except sa.exc.DBAPIError:
            raise ValueError("it could not be written") from None

    task = {"function": write, "coroutine": awrite}.get(kind, write_or_say)
    executor, worker = make_executor(app, hostname="test"), TestWorker(store)

    def run() -> str:
        result = task.delay()
        worker.settle(executor.run(worker.claim_one()))
        result.revoke()
        return str(row(store, result.id)["status"])

    with store.connect() as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
    run_sql(store, f'ALTER ROLE CURRENT_USER IN DATABASE "{name}" SET {setting}')
    try:
        first = run()
    finally:
        run_sql(store, f'ALTER ROLE CURRENT_USER IN DATABASE "{name}" RESET {setting.split(maxsplit=1)[0]}')
    assert (first, run()) == (ends, "SUCCESS")
    executor.close()
    worker.close()


@pytest.mark.parametrize("kind", ["function", "coroutine"])
@pytest.mark.parametrize(
    "error", [OperationalError("disk I/O error"), SchemaError("no tables")], ids=["disk", "tables"]
)
def test_a_file_that_cannot_be_opened_ends_no_process(
    app: App, monkeypatch: pytest.MonkeyPatch, kind: str, error: Exception
) -> None:
    """A pool process opens a SQLite file for its first transaction, or finds no tables in it while somebody puts
    another in its place: the job goes back, and that is no loss."""

    def fail_to_open(*_: object, **__: object) -> None:
        raise error

    store = app.database.store
    if store.dialect != "sqlite":
        pytest.skip("a server's tables are not looked at then")
    result = call(app, "write" if kind == "function" else "awrite", "a")
    executor, worker = make_executor(app, hostname="test"), TestWorker(store)
    job = worker.claim_one()
    with monkeypatch.context() as away:
        away.setattr("dbqueue.worker.running.executor.NOT_BEGUN_SECONDS", 0.01)
        away.setattr(app.database, "_store", None)
        away.setattr(type(store), "ensure_schema", fail_to_open)
        if kind == "function":
            worker.settle(executor.run(job))
        else:  # other coroutines of the process go on
            away.setattr("dbqueue.worker.running.executor.time.sleep", None)
            worker.settle(asyncio.run(executor.run_async(job)))
    stored = row(store, result.id)
    assert (stored["status"], stored["losses"]) == ("PENDING", 0)
    testing.drain(app)
    assert effects(app) == ["a"]
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
