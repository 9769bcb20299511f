"""Jobs of many calls: each as it would be by itself, however they were made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import pytest

from dbqueue import DBQueue, Limit, group
from dbqueue.bulk import AlikeJobs
from dbqueue.calls import new_job
from dbqueue.calls.batches import FEW, arguments_of, new_jobs
from dbqueue.canvas import flat_groups
from dbqueue.errors import EncodeError, PayloadTooLarge
from dbqueue.jobs import NewJob
from dbqueue.signals import before_task_publish

MANY = FEW + 20
CALLS: list[tuple[Any, Any]] = [((n,), {"y": n} if n % 2 else None) for n in range(MANY)]


@pytest.fixture
def app() -> Iterator[DBQueue]:
    with DBQueue("batches", broker="sqlite://", set_as_current=False) as app:
        yield app


def add(app: DBQueue, **options: Any) -> Any:
    def function(x: int, y: int = 0) -> int:
        return x + y

    return app.task(name="add", **options)(function)


def without_ids(jobs: Any) -> list[NewJob]:
    return [job._replace(id="") for job in jobs]


OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "a queue and a priority": {"queue": "other", "priority": 7},
    "headers": {"headers": {"a": 1}, "stamped_headers": ["who"], "who": "me"},
    "times": {"countdown": 3, "expires": datetime(2050, 1, 1, tzinfo=UTC)},
    "options of the row": {"time_limit": 5, "shadow": "name", "ignore_result": True},
    "a limit": {"limit_key": "one"},
    "a unique key": {"unique": True},
    "a window": {"unique_for": 60},
    "another serializer": {"serializer": "pickle"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("many", [2, MANY])
def test_they_are_as_each_by_itself(app: DBQueue, options: dict[str, Any], many: int) -> None:
    task = add(app)
    jobs = new_jobs(app.conf, "add", task, CALLS[:many], options)
    single = [new_job(app.conf, "add", task, *call, options) for call in CALLS[:many]]
    assert len(jobs) == many
    assert without_ids(jobs) == without_ids(single)
    assert len({job.id for job in jobs}) == many
    assert [job.id for job in jobs] == sorted(job.id for job in jobs)


@pytest.mark.parametrize(
    "options",
    [{"limit": Limit(1, key="{x}")}, {"unique": True}, {"unique": "key-{x}"}, {"unique_for": 60}],
    ids=["limit", "all", "key", "window"],
)
def test_keys_are_made_of_each_call(app: DBQueue, options: dict[str, Any]) -> None:
    task = add(app, **options)
    jobs = list(new_jobs(app.conf, "add", task, CALLS, {}))
    assert len({(job.limit_key, job.unique_key) for job in jobs}) == MANY


def test_arguments_of_any_kind(app: DBQueue) -> None:
    by_name = MappingProxyType({"x": 1})
    calls: list[Any] = [((1,), None), (iter([1]), None), (range(1, 2), {}), ((), by_name), arguments_of(by_name)]
    jobs = new_jobs(app.conf, "add", add(app), calls, {})
    assert [(job.args, job.kwargs) for job in jobs] == [("[1]", "{}")] * 3 + [("[]", '{"x":1}')] * 2


def test_a_router_sees_each_call(app: DBQueue) -> None:
    app.conf.task_routes = [lambda name, args, kwargs, options, task=None: f"queue-{args[0] % 2}"]
    jobs = list(new_jobs(app.conf, "add", add(app), CALLS, {}))
    assert [job.queue for job in jobs[:3]] == ["queue-0", "queue-1", "queue-0"]


def test_routes_by_name_are_looked_up_once(app: DBQueue) -> None:
    app.conf.task_routes = {"add": {"queue": "routed"}}
    jobs = new_jobs(app.conf, "add", add(app), CALLS, {})
    assert isinstance(jobs, AlikeJobs)
    assert {job.queue for job in jobs} == {"routed"}


def test_a_receiver_sees_each_call(app: DBQueue) -> None:
    seen = []

    @before_task_publish.connect
    def receive(sender: Any = None, headers: Any = None, **_: Any) -> None:
        seen.append(headers["id"])

    jobs = list(new_jobs(app.conf, "add", add(app), CALLS, {}))
    before_task_publish.disconnect(receive)
    assert seen == [job.id for job in jobs]


def test_each_is_made_once(app: DBQueue) -> None:
    jobs = new_jobs(app.conf, "add", add(app), CALLS, {})
    assert isinstance(jobs, AlikeJobs)
    assert next(iter(jobs)).args == "[0]"
    assert list(jobs) == list(jobs)
    assert len(list(jobs)) == len(jobs) == MANY


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_afterwards_as_it_was(app: DBQueue, enabled: bool) -> None:
    if not enabled:
        gc.disable()
    try:
        with pytest.raises(EncodeError):
            list(new_jobs(app.conf, "add", add(app), [*CALLS, ((object(),), None)], {}))
        assert gc.isenabled() is enabled
        assert len(list(new_jobs(app.conf, "add", app.tasks["add"], CALLS, {}))) == MANY
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (((1, 2, 3), None), TypeError),
        (("text", None), TypeError),
        (((object(),), None), EncodeError),
        ((("x" * 2000,), None), PayloadTooLarge),
        (((), {"x": "x" * 2000}), PayloadTooLarge),
    ],
    ids=["too many arguments", "no list", "no JSON", "too large", "too large by name"],
)
def test_a_call_that_cannot_be(app: DBQueue, call: Any, error: type[Exception]) -> None:
    app.conf.max_payload_bytes = 1024
    with pytest.raises(error):
        list(new_jobs(app.conf, "add", add(app), [*CALLS, call], {}))


def test_calls_with_one_id_are_not_many_jobs(app: DBQueue) -> None:
    """The database refuses the second; under ids of their own, whoever sends them again has them run again."""
    assert {job.id for job in new_jobs(app.conf, "add", add(app), CALLS, {"task_id": "mine"})} == {"mine"}


class TestFlatGroups:
    def test_members_are_as_each_by_itself(self, app: DBQueue) -> None:
        task = add(app)
        flat = flat_groups.of_members(app, [task.s(n) for n in range(MANY)], {"queue": "q"})
        assert flat is not None
        jobs = list(flat.jobs)
        assert [job.args for job in jobs] == [f"[{n}]" for n in range(MANY)]
        assert [job.options for job in jobs] == [f'{{"group_index": {n}}}' for n in range(MANY)]
        assert {(job.group_id, job.queue) for job in jobs} == {(flat.group_id, "q")}

    def test_options_of_the_row_are_kept(self, app: DBQueue) -> None:
        task = add(app)
        flat = flat_groups.of_members(app, [task.s(n).set(time_limit=5) for n in range(MANY)], {})
        assert flat is not None
        assert list(flat.jobs)[7].options == '{"time_limit":5,"group_index":7}'

    def test_keys_of_each_member(self, app: DBQueue) -> None:
        flat = flat_groups.of_members(app, [add(app, unique=True).s(n) for n in range(MANY)], {})
        assert flat is not None
        jobs = list(flat.jobs)
        assert jobs[7].options == '{"group_index": 7}'
        assert len({job.unique_key for job in jobs}) == MANY

    def test_those_that_differ_are_compiled(self, app: DBQueue) -> None:
        task, other = add(app), app.task(name="other")(lambda x: x)
        alike = [task.s(n) for n in range(MANY)]
        for odd in (other.s(1), task.s(1).set(priority=3), task.s(1).set(link=other.s()), group(task.s(1))):
            assert flat_groups.of_members(app, [*alike, odd], {}) is None
        assert flat_groups.of_members(app, [task.s(n).set(link=other.s()) for n in range(MANY)], {}) is None
