"""Options of a call that cannot work are refused when it is sent, and leave no job."""

from __future__ import annotations

import asyncio
import enum
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from dbqueue import DBQueue, Limit, chain, group
from dbqueue.calls import new_job
from dbqueue.context import Context, current_request
from dbqueue.errors import PayloadTooLarge
from dbqueue.signals import before_task_publish
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


@pytest.mark.parametrize("option", ["task_id", "queue", "parent_id", "root_id", "group_id", "shadow"])
def test_names_that_every_database_and_log_can_carry(app: DBQueue, option: str) -> None:
    for name in ("n", "ü" * 255):
        assert new_job(app.conf, name, None, (), {}, {option: name}).task == name
    for wrong in ("n" * 256, "a\nb", 5):
        with pytest.raises(ValueError, match=f"{option} must be"):
            new_job(app.conf, "work", None, (), {}, {option: wrong})
    for wrong in ("", "n" * 256, "a\nb"):
        with pytest.raises(ValueError, match="task name must be"):
            new_job(app.conf, wrong, None, (), {}, {})


class Urgency(enum.IntEnum):
    HIGH = 9


def test_priorities(app: DBQueue) -> None:
    def priority(**options: Any) -> int:
        return new_job(app.conf, "work", app.tasks["work"], (), {}, options).priority

    for given in (-32_768, 0, 32_767):
        assert priority(priority=given) == given
    assert type(priority(priority=Urgency.HIGH)) is int
    for wrong in (-32_769, 32_768, True, 1.5, "5"):
        with pytest.raises(ValueError, match="priority must be a whole number"):
            priority(priority=wrong)
    token = current_request.set(Context(id="parent", delivery_info={"priority": 3}))
    try:
        assert priority() == 0
        app.conf.update(task_inherit_parent_priority=True, task_default_priority=4)
        assert (priority(), priority(priority=5)) == (3, 5)
    finally:
        current_request.reset(token)
    assert priority() == 4


@pytest.mark.parametrize("options", [{"headers": {"a": "x" * 2000}}, {"argsrepr": "x" * 2000}], ids=["headers", "row"])
def test_what_a_row_keeps_beside_the_arguments_has_their_limit(app: DBQueue, options: dict[str, Any]) -> None:
    assert new_job(app.conf, "work", None, (), {}, options)
    app.conf.max_payload_bytes = 1024
    with pytest.raises(PayloadTooLarge):
        new_job(app.conf, "work", None, (), {}, options)


def test_stamps_that_the_call_does_not_have_are_named_all_the_same(app: DBQueue) -> None:
    job = new_job(app.conf, "work", None, (), {}, {"stamped_headers": ["a", "b"], "a": 1, "headers": {"own": 2}})
    assert json.loads(job.headers or "") == {"own": 2, "stamped_headers": ["a", "b"], "stamps": {"a": 1}}


def test_receivers_add_to_the_headers_of_what_is_sent(app: DBQueue) -> None:
    seen: list[Any] = []

    def receive(headers: Any, **_: Any) -> None:
        seen.append(headers["task"])
        headers["trace"] = "t"

    before_task_publish.connect(receive)
    try:
        sent = new_job(app.conf, "work", None, (), {}, {"headers": {"task": "own"}})
        in_place = new_job(app.conf, "work", None, (), {}, {}, published=False)
    finally:
        before_task_publish.disconnect(receive)
    assert (json.loads(sent.headers or ""), in_place.headers) == ({"task": "own", "trace": "t"}, None)
    assert seen == ["own"]


def test_the_compression_of_a_call_is_its_own_or_its_task_s_or_that_of_the_settings(app: DBQueue) -> None:
    app.task(name="packed", serializer="yaml", compression="gzip")(lambda x: None)
    app.task(name="plain", serializer="yaml")(lambda x: None)

    def content_type(name: str, **options: Any) -> str | None:
        return new_job(app.conf, name, app.tasks[name], (1,), {}, options).content_type

    packed = "application/x-yaml; compression=zlib"
    assert [content_type("packed"), content_type("plain")] == [packed, "application/x-yaml"]
    assert content_type("plain", compression="zlib") == packed
    app.conf.task_compression = "bzip2"
    assert content_type("plain") == packed


def keys_of(app: DBQueue, name: str, *args: Any, limit_key: str | None = None, **kwargs: Any) -> Any:
    job = new_job(app.conf, name, app.tasks[name], args, kwargs, {"limit_key": limit_key})
    return job.unique_key, job.limit_key


def test_a_template_takes_keywords_that_the_function_has_no_names_for(app: DBQueue) -> None:
    app.task(name="any", unique="{customer}")(lambda **options: None)
    assert keys_of(app, "any", customer=7) == ("any:7", None)


@pytest.mark.parametrize("template", ["{1}", "{x.name}", "{x[name]}", "{y}", "{x"])
def test_a_template_that_cannot_be_filled(app: DBQueue, template: str) -> None:
    app.task(name="template", unique=template)(lambda x: None)
    with pytest.raises((ValueError, TypeError)):
        keys_of(app, "template", "a")


def test_a_call_s_arguments_make_its_key_whatever_they_are(app: DBQueue) -> None:
    app.task(name="unique", unique=True, typing=False)(lambda x, y=1000.5: None)
    large = "x" * 10_000
    calls: list[tuple[Any, ...]] = [(large,), (large, 1000), (1, 2, 3), (1, 2, 4), ()]
    assert len({keys_of(app, "unique", *call) for call in calls}) == len(calls)
    assert keys_of(app, "unique", large, float("1000.5")) == keys_of(app, "unique", large)
    assert keys_of(app, "unique", 1, 2, 3) == keys_of(app, "unique", 1, 2, 3)


@pytest.mark.parametrize("way", ["of the task", "of the call"])
def test_keys_of_limits_are_as_long_as_they_may_be_and_never_those_of_others(app: DBQueue, way: str) -> None:
    app.task(name="limited", limit=Limit(running=1, key="{x}"))(lambda x: None)

    def key(text: str) -> str:
        found = keys_of(app, "limited", text) if way == "of the task" else keys_of(app, "work", limit_key=text)
        return str(found[1])

    first, second = (key("ü" * 300 + end) for end in "ab")
    assert first != second
    assert len(first) == len(second) == 255
    assert key("ü" * 255) == "ü" * 255
    with pytest.raises(ValueError, match="rate:"):
        key("rate:work")
