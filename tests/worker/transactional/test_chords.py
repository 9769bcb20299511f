"""What a transactional task adds to its chord: waited for once the run is a success, and gone with its rollback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

import dbqueue
from dbqueue.errors import ChordError
from dbqueue.store.revoking import revoke
from tests.servers import libpq_url
from tests.stores import count, run_sql
from tests.worker.transactional.effects import effects, work_off
from tests.worker.transactional.tasks import App


def chord_with(app: App, function: Callable[..., Any]) -> Any:
    """A chord of which one header is this function, as a transactional task, and the other an effect; its result."""
    app.task(name="t.adds", bind=True, transactional=True)(function)

    @app.task(name="t.collect")
    def collect(results: list[Any]) -> list[Any]:
        return results

    return dbqueue.chord([app.tasks["t.adds"].s(), app.tasks["t.write"].s("other")], collect.s()).apply_async()


def added(task: Any, name: str) -> None:
    task.add_to_chord(task.app.tasks["t.write"].s(name))


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


def test_what_is_added_takes_one_lock_of_the_server_s_table(postgres_app: App) -> None:
    def adds(self: Any) -> int:
        for name in ("a", "b", "c"):
            added(self, name)
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
        return int(self.session.scalar(sa.text(query)))

    result = chord_with(postgres_app, adds)
    work_off(postgres_app)
    assert result.get(timeout=0)[0] == 1


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
