"""Transactional tasks that run in place: eagerly, inside of another, in a database in memory."""

from __future__ import annotations

import asyncio
import errno
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from dbqueue.errors import LeaseLost
from tests.stores import count, run_sql
from tests.worker.transactional.effects import effects
from tests.worker.transactional.tasks import EFFECTS, App, make_app


@pytest.mark.parametrize("name", ["write", "awrite"])
def test_eagerly_the_writes_are_committed(app: App, name: str) -> None:
    assert app.tasks[f"t.{name}"].apply(["a"]).get() == "wrote a"
    assert effects(app) == ["a"]


def test_eagerly_amid_another_coroutine(app: App) -> None:
    async def endpoint() -> Any:
        return app.tasks["t.awrite"].apply(["a"]).get()

    assert asyncio.run(endpoint()) == "wrote a"
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


def test_what_cannot_begin_in_place_is_the_callers_error(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job would go back to its queue; here there is nobody who would run it later."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("dbqueue.codec.payloads.read_call", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        app.tasks["t.write"].apply(["a"])
    assert effects(app) == []


def test_a_lost_lease_in_place_is_a_failure_like_any_other(app: App) -> None:
    """It has none of its own, and may have completed a job of somebody else's."""

    @app.task
    def complete() -> None:
        raise LeaseLost("it is another's")

    result = complete.apply()
    assert (result.state, repr(result.result)) == ("FAILURE", repr(LeaseLost("it is another's")))


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
