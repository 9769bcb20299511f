"""Celery's guide "Calling Tasks": `on_message`, and routing keys of kombu's queues."""

from __future__ import annotations

import asyncio
import copy
import itertools
import pickle
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from dbqueue import DBQueue
from dbqueue.calls import routes
from dbqueue.contrib.testing.worker import start_worker
from dbqueue.exceptions import TimeoutError  # noqa: A004 - Celery's name
from dbqueue.result import AsyncResult, GroupResult, ResultSet, result_from_tuple
from dbqueue.testing import drain

TIMEOUT = 30


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with DBQueue("tasks", broker=database_url, set_as_current=False) as app:
        yield app


@pytest.fixture
def memory_app() -> Iterator[DBQueue]:
    with DBQueue("tasks", broker="sqlite://", set_as_current=False) as app:
        yield app


class TestOnMessage:
    """Section "On message": "Celery supports catching all states changes by setting on_message callback"."""

    def test_states_as_they_are_seen(self, app: DBQueue) -> None:
        @app.task(name="hello", bind=True)
        def hello(self: Any, a: int, b: int, told: str) -> str:
            self.update_state(state="PROGRESS", meta={"progress": 50})
            while not app.AsyncResult(told).ready():
                pass
            return f"hello world: {a + b}"

        told = app.task(name="told")(lambda: None).apply_async(queue="nobody")
        messages: list[dict[str, Any]] = []

        def on_raw_message(body: dict[str, Any]) -> None:
            messages.append(body)
            if body["status"] == "PROGRESS":
                told.revoke()

        with start_worker(app, perform_ping_check=False):
            result = hello.delay(1, 1, told.id)
            value = result.get(on_message=on_raw_message, propagate=False, timeout=TIMEOUT)
        assert value == "hello world: 2"
        shown = [(body["status"], body["result"]) for body in messages if body["status"] != "STARTED"]
        assert shown == [("PROGRESS", {"progress": 50}), ("SUCCESS", "hello world: 2")]
        assert messages[-1] == {
            "task_id": result.id,
            "status": "SUCCESS",
            "result": "hello world: 2",
            "traceback": None,
            "children": [],
        }

    def test_a_state_is_told_once(self, app: DBQueue) -> None:
        """An exception that a row is read as is another object each time."""

        @app.task(name="again", bind=True)
        def again(self: Any) -> None:
            raise self.retry(countdown=3600, exc=ValueError("not yet"))

        result = again.delay()
        assert drain(app).counts == {"RETRY": 1}
        messages: list[dict[str, Any]] = []
        with pytest.raises(TimeoutError):
            result.get(timeout=0.8, on_message=messages.append)
        assert [body["status"] for body in messages] == ["RETRY"]
        assert "not yet" in messages[0]["traceback"]

    def test_of_many(self, app: DBQueue) -> None:
        task = app.task(name="none")(lambda: None)
        results, waits = [task.delay(), task.delay()], task.delay()
        for result in results:
            result.revoke()
        for together in (ResultSet(results), GroupResult("g", [ResultSet(results[:1]), results[1]], app=app)):
            messages: list[dict[str, Any]] = []
            looks = itertools.count()
            together.get(propagate=False, timeout=TIMEOUT, on_message=messages.append, on_interval=partial(next, looks))
            assert [(body["task_id"], body["status"]) for body in messages] == [
                (result.id, "REVOKED") for result in results
            ]
            assert next(looks) >= 2
        messages = []
        list(ResultSet(results).iter_native(on_message=messages.append))
        assert len(messages) == 2
        looks = itertools.count()
        with pytest.raises(TimeoutError):
            ResultSet([waits]).get(timeout=0.01, on_interval=partial(next, looks))
        assert next(looks) >= 1

    def test_while_nothing_happens(self, app: DBQueue) -> None:
        intervals: list[int] = []
        with pytest.raises(TimeoutError):
            app.task(name="none")(lambda: None).delay().get(
                timeout=0.01, on_message=intervals.append, on_interval=lambda: intervals.append(1)
            )
        assert set(intervals) == {1}


WAITS: dict[str, Callable[[Any], Any]] = {
    "get": lambda result: result.get(timeout=0.01),
    "wait": lambda result: result.wait(timeout=0.01),
    "aget": lambda result: asyncio.run(result.aget(timeout=0.01)),
    "not at all": lambda result: result.get(timeout=0),
    "not at all, awaited": lambda result: asyncio.run(result.aget(timeout=0)),
    "of a set": lambda result: ResultSet([result, result]).get(timeout=0.01),
    "of a set, awaited": lambda result: asyncio.run(ResultSet([result, result]).aget(timeout=0.01)),
    "told of the pauses": lambda result: result.get(timeout=0.01, on_interval=lambda: None),
}


@pytest.mark.parametrize("how", WAITS)
def test_a_wait_has_an_end(app: DBQueue, how: str) -> None:
    """On a thread: a wait without one would be this test's, too."""
    result = app.task(name="none")(lambda: None).delay()
    timed_out = threading.Event()

    def wait() -> None:
        try:
            WAITS[how](result)
        except TimeoutError:
            timed_out.set()

    threading.Thread(target=wait, daemon=True).start()
    assert timed_out.wait(60)


def test_nobody_waits_for_what_is_ignored(app: DBQueue) -> None:
    """There is no worker, and there will be no result."""
    result = app.task(name="ignoring", ignore_result=True)(lambda: 1).delay()
    assert result.get(timeout=60) is None
    assert asyncio.run(result.aget(timeout=60)) is None
    result = app.task(name="telling")(lambda: 1).apply_async(ignore_result=True)
    assert result.get(timeout=60) is None


def test_what_a_revoke_asks_for(memory_app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    for name in ("revoke", "revoke_by_stamped_headers"):
        monkeypatch.setattr(memory_app.control, name, lambda what, **options: asked.append((what, options)))
    result = memory_app.AsyncResult("id")
    calls: tuple[tuple[Callable[..., None], Any], ...] = (
        (result.revoke, "id"),
        (ResultSet([result]).revoke, ["id"]),
        (lambda **options: result.revoke_by_stamped_headers({"a": 1}, **options), {"a": 1}),
    )
    for call, what in calls:
        call(terminate=True, signal="KILL", wait=True, timeout=0)
        call()
        given = {"terminate": True, "signal": "KILL", "reply": True, "timeout": 0}
        default = {"terminate": False, "signal": "SIGTERM", "reply": False, "timeout": 1.0}
        assert asked == [(what, given), (what, default)]
        asked.clear()
    GroupResult("empty", []).revoke()
    assert asked == []


def test_a_result_goes_on_as_what_it_is(memory_app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = memory_app.AsyncResult("parent")
    with DBQueue("other", broker="sqlite://"):  # the current one
        result: AsyncResult[Any] = AsyncResult("id", memory_app.backend, parent=parent, ignored=True)
        assert result.app is memory_app
    copied = copy.copy(result)
    assert (copied, copied.app, copied.parent, copied.ignored) == (result, memory_app, parent, True)
    memory_app.set_current()
    members = GroupResult("group", [result], parent=parent)
    assert members != GroupResult("group", [result])
    for each in (result, members):
        pickled = pickle.loads(pickle.dumps(each))
        assert (pickled, pickled.parent) == (each, parent)


def test_groups_without_members_and_with_many_parents(memory_app: DBQueue) -> None:
    memory_app.set_current()
    group = GroupResult("empty", [], app=memory_app)
    assert (bool(group), bool(GroupResult(None, []))) == (True, False)
    assert result_from_tuple(group.as_tuple(), memory_app) == group
    for number in range(205):
        group.parent = AsyncResult[Any](f"{number}", parent=group.parent, app=memory_app)
    restored = GroupResult.restore(str(group.save().id), app=memory_app)
    assert restored is not None
    assert restored.as_list() == group.as_list()


def test_failures_that_are_not_raised(memory_app: DBQueue) -> None:
    """What a set is asked for without `propagate` stands among the values."""

    @memory_app.task(name="divide")
    def divide(x: int) -> float:
        return 1 / x

    results = ResultSet([divide.delay(1), divide.delay(0)])
    drain(memory_app)
    results.maybe_throw(propagate=False)
    with pytest.raises(ZeroDivisionError):
        results.maybe_throw()
    assert [told["status"] for _, told in results.iter_native(timeout=TIMEOUT)] == ["SUCCESS", "FAILURE"]
    ((_, error),) = results[1].collect(propagate=False)
    assert isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize(("enable_utc", "hours"), [(True, 0), (False, 9)])
def test_the_zone_of_the_time_of_an_end(memory_app: DBQueue, enable_utc: bool, hours: int) -> None:
    memory_app.conf.update(enable_utc=enable_utc, timezone="Asia/Tokyo")
    result = memory_app.task(name="task")(lambda: None).delay()
    drain(memory_app)
    assert result.date_done is not None
    assert result.date_done.utcoffset() == timedelta(hours=hours)


def test_who_waits_says_when_this_process_has_sent_the_job(
    memory_app: DBQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From which its first look is reckoned: see `result.waiting.HeadStart`."""
    given: list[Any] = []
    waiter = memory_app.database.waiter
    wait = waiter.wait

    def told(job_id: str, **options: Any) -> Any:
        given.append(options)
        return wait(job_id, **options)

    monkeypatch.setattr(waiter, "wait", told)
    own = memory_app.task(name="task")(lambda: None).delay()
    drain(memory_app)
    for result in (own, memory_app.AsyncResult(own.id)):
        result.get(timeout=TIMEOUT, interval=0.25)
    assert own.sent_at is not None
    assert given == [{"timeout": TIMEOUT, "interval": 0.25, "sent_at": at} for at in (own.sent_at, None)]


def test_bindings_and_broadcasts_of_kombu(app: DBQueue) -> None:
    """Section "Routing options", and `binding` and `Broadcast` of the guide "Routing Tasks"."""
    bindings = [SimpleNamespace(routing_key="media.video"), SimpleNamespace(routing_key="media.image")]
    app.conf.task_queues = [
        SimpleNamespace(name="default", routing_key="default"),
        SimpleNamespace(name="media", routing_key="", bindings=bindings),
        SimpleNamespace(name="bcast.5f1c", alias="broadcast_tasks", routing_key=None),
    ]
    assert routes.queue_names(app.conf) == ["default", "media", "broadcast_tasks"]
    task = app.task(name="task")(lambda: None)
    assert task.apply_async(routing_key="media.image").queue == "media"
    assert task.apply_async(routing_key="media.video").queue == "media"
    assert task.apply_async(routing_key="default").queue == "default"


class TestIds:
    """An id of another program's, or of a web framework's paths, may be a UUID."""

    def test_a_uuid_is_its_text(self, app: DBQueue) -> None:
        add = app.task(name="add")(lambda x, y: x + y)
        uuids = [UUID(add.delay(1, number).id) for number in range(3)]
        app.control.revoke(uuids[1])
        app.control.revoke([uuids[2]])
        drain(app)
        results = [app.AsyncResult(each) for each in uuids]
        assert [each.state for each in results] == ["SUCCESS", "REVOKED", "REVOKED"]
        assert add.AsyncResult(uuids[0]).get(timeout=TIMEOUT) == 1
        assert results[0].id == str(uuids[0])

    @pytest.mark.parametrize("wrong", [5, b"bytes", ["a list"]])
    def test_what_can_be_no_id_is_told(self, app: DBQueue, wrong: Any) -> None:
        """It would be PENDING for ever."""
        with pytest.raises(TypeError, match="the id of a task is a text"):
            app.AsyncResult(wrong)
