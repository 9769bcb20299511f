"""Options of a call that cannot work are refused when it is sent, and leave no job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from dbqueue import DBQueue, chain, group
from dbqueue.calls import new_job
from dbqueue.context import Context, current_request
from dbqueue.store import queries


@pytest.fixture
def app() -> Iterator[DBQueue]:
    with DBQueue("options", broker="sqlite://", set_as_current=False) as app:
        app.task(name="work")(lambda: None)
        yield app


POSITIVE = "a time limit is a positive number of seconds|a time limit must be a number of seconds"


@pytest.mark.parametrize("name", ["time_limit", "soft_time_limit"])
@pytest.mark.parametrize(
    "value",
    [0, 0.0, -1, -0.5, True, False, "5", timedelta(seconds=5), float("nan"), float("inf"), 1e11, [5]],
    ids=repr,
)
def test_a_time_limit_that_is_none(app: DBQueue, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=POSITIVE):
        app.tasks["work"].apply_async(**{name: value})
    with pytest.raises(ValueError, match=POSITIVE):
        app.send_task("work", **{name: value})
    assert queries.find_jobs(app.database.store) == []


def test_the_soft_limit_above_the_hard_one(app: DBQueue) -> None:
    with pytest.raises(ValueError, match="soft_time_limit must be less than or equal to time_limit"):
        app.tasks["work"].apply_async(soft_time_limit=10.5, time_limit=10)
    assert queries.find_jobs(app.database.store) == []


@pytest.mark.parametrize(
    ("options", "stored"),
    [
        ({"time_limit": 10, "soft_time_limit": 10}, '{"time_limit":10,"soft_time_limit":10}'),
        ({"time_limit": 0.25}, '{"time_limit":0.25}'),
        ({"soft_time_limit": 3}, '{"soft_time_limit":3}'),
        ({"time_limit": None, "soft_time_limit": None}, None),
    ],
)
def test_limits_that_can_be_kept(app: DBQueue, options: dict[str, Any], stored: str | None) -> None:
    record = app.database.record(app.tasks["work"].apply_async(**options).id)
    assert record is not None
    assert record.options == stored


def test_an_option_that_is_none_is_told(app: DBQueue) -> None:
    """Celery hands what it does not know to the broker, so a misspelt name must not end a program; it does not hide."""
    work = app.tasks["work"]
    with pytest.warns(UserWarning, match=r"the call option queu is unknown and has no effect: did you mean queue\?"):
        work.apply_async(queu="mail")  # type: ignore[call-arg]
    with pytest.warns(UserWarning, match="the call option MessageGroupId is unknown and has no effect$") as told:
        app.send_task("work", MessageGroupId="1")  # type: ignore[call-arg]
    assert [each.filename for each in told] == [__file__]
    work.apply_async(expiration=5, stamped_headers=["customer"], customer="7")  # type: ignore[call-arg]
    work.s().stamp(customer="7").set(priority=1).delay()
    assert {job.queue for job in queries.find_jobs(app.database.store)} == {"celery"}


async def _awaited(call: Callable[[], Any]) -> None:
    await call()


@pytest.mark.parametrize(
    "call",
    [
        lambda work: work.s().set(prioirty=1),
        lambda work: work.signature((), {}, prioirty=1).delay(),
        lambda work: chain(work.si(), work.si()).apply_async(prioirty=1),
        lambda work: group(work.si(), work.si()).apply_async(prioirty=1),
        lambda work: work.enqueue_many([()], prioirty=1),
        lambda work: asyncio.run(_awaited(lambda: work.aenqueue_many([()], prioirty=1))),
    ],
    ids=["set", "signature", "chain", "group", "many", "async"],
)
def test_it_is_told_where_the_program_gives_it(app: DBQueue, call: Callable[[Any], Any]) -> None:
    with pytest.warns(UserWarning, match="the call option prioirty is unknown .*: did you mean priority") as told:
        call(app.tasks["work"])
    assert [each.filename for each in told] == [__file__]


@pytest.mark.parametrize("name", ["link", "link_error"])
def test_many_calls_take_no_callbacks(app: DBQueue, name: str) -> None:
    work = app.tasks["work"]
    with pytest.raises(ValueError, match="group"):
        work.enqueue_many([()], **{name: work.s()})
    with pytest.raises(ValueError, match="group"):
        asyncio.run(_awaited(lambda: work.aenqueue_many([()], **{name: work.s()})))


@pytest.mark.parametrize("name", ["link", "link_error", "chain", "chord"])
def test_what_is_to_follow_a_single_job_is_refused(app: DBQueue, name: str) -> None:
    """Whoever makes it: nobody would call that. What is empty is nothing."""
    sig = app.tasks["work"].s()
    with pytest.raises(ValueError, match=f"{name} would never be called"):
        new_job(app.conf, "work", None, (), {}, {name: [sig]})
    assert new_job(app.conf, "work", None, (), {}, {name: []}).task == "work"
    app.conf.task_routes = {"work": {name: [sig], "queue": "slow"}}
    for call in (sig.delay, lambda: sig.apply_async(link=app.tasks["work"].s()), sig.apply):
        with pytest.raises(ValueError, match="a route cannot give it"):
            call()
    assert queries.find_jobs(app.database.store) == []


@pytest.mark.parametrize("args", [5, "ab", {"x": 1}], ids=repr)
def test_arguments_that_are_no_sequence(app: DBQueue, args: Any) -> None:
    with pytest.raises(TypeError, match="task args must be a list or tuple"):
        app.tasks["work"].apply_async(args)
    with pytest.raises(TypeError, match="task args must be a list or tuple"):
        app.send_task("work", args)
    with pytest.raises(TypeError, match="task keyword arguments must be a mapping"):
        app.tasks["work"].apply_async((), [("x", 1)])  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("headers", 5), ("headers", ["a"]), ("stamped_headers", 5)])
def test_headers_that_are_none(app: DBQueue, name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a"):
        app.send_task("work", **{name: value})


def test_a_call_from_a_run_knows_where_it_comes_from(app: DBQueue) -> None:
    token = current_request.set(Context(id="child", root_id="root", parent_id="parent", task="work"))
    try:
        job = new_job(app.conf, "work", app.tasks["work"], (), {}, {})
        given = new_job(app.conf, "work", app.tasks["work"], (), {}, {"parent_id": "p", "root_id": "r"})
    finally:
        current_request.reset(token)
    assert (job.parent_id, job.root_id) == ("child", "root")
    assert (given.parent_id, given.root_id) == ("p", "r")
    outside = new_job(app.conf, "work", app.tasks["work"], (), {}, {})
    assert (outside.parent_id, outside.root_id) == (None, None)
