"""What a transactional task enqueues: there with its SUCCESS, or never."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

import dbqueue
from dbqueue import signals, testing
from dbqueue.store.postgres.copying import FEWEST
from tests.stores import row
from tests.worker.transactional.effects import call, effects
from tests.worker.transactional.tasks import App


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
