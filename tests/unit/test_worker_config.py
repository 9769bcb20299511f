"""What a worker is told: by its own options, or else by the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.errors import ImproperlyConfigured
from dbqueue.services.workers import Worker, expanded_name
from dbqueue.worker.config import WorkerConfig

NewConfig = Callable[..., WorkerConfig]


@pytest.fixture
def config() -> Iterator[NewConfig]:
    with ExitStack() as apps:

        def config(settings: dict[str, Any], **options: Any) -> WorkerConfig:
            app = apps.enter_context(DBQueue("shop", broker="sqlite://", set_as_current=False, **settings))
            return Worker(app, **{"concurrency": 2, **options}).config

        yield config


SETTINGS = {
    "worker_lease_seconds": ("lease_seconds", 12.0),
    "worker_heartbeat_interval": ("heartbeat_seconds", 1.5),
    "worker_poll_interval": ("poll_seconds", 7.0),
    "worker_min_poll_interval": ("min_poll_seconds", 0.125),
    "task_max_losses": ("max_losses", 4),
    "result_expires": ("result_expires_seconds", 77.0),
    "result_max_kept": ("result_max_kept", 88),
    "max_input_bytes": ("max_input_bytes", 99_000),
    "worker_max_tasks_per_child": ("max_tasks_per_child", 5),
    "worker_max_memory_per_child": ("max_memory_per_child", 6_000),
    "worker_enable_remote_control": ("remote_control", False),
    "worker_pool_restarts": ("pool_restarts", True),
    "worker_send_task_events": ("task_events", True),
    "task_repr_maxlevels": ("repr_levels", 2),
    "worker_shutdown_timeout": ("shutdown_seconds", 21.0),
    "worker_soft_shutdown_timeout": ("soft_shutdown_seconds", 22.0),
    "worker_enable_soft_shutdown_on_idle": ("soft_shutdown_on_idle", True),
    "worker_pool": ("pool", "threads"),
    "task_default_queue": ("queues", "shop"),
    "worker_queue_weights": ("queue_weights", {"a": 3}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_has_its_own_effect_and_no_other(config: NewConfig, name: str) -> None:
    field, value = SETTINGS[name]
    before, after = config({}), config({name: value})
    assert getattr(after, field) == ((value,) if field == "queues" else value) != getattr(before, field)
    own = {field, "policies"} | ({"heartbeat_seconds"} if field == "lease_seconds" else set())
    others = [each for each in WorkerConfig.__dataclass_fields__ if each not in own]
    assert {each: getattr(after, each) for each in others} == {each: getattr(before, each) for each in others}


def test_heartbeats_and_polls_follow_what_they_are_for(config: NewConfig) -> None:
    assert config({"worker_lease_seconds": 12}).heartbeat_seconds == 4.0
    assert config({"worker_poll_interval": 0.005}).min_poll_seconds == 0.005
    assert config({"worker_queue_order": "strict"}).strict_order is True


@pytest.mark.parametrize(("beat", "lease"), [(30, 30), (27, 30), (31, 30)])
def test_heartbeats_come_before_the_lease_ends(config: NewConfig, beat: float, lease: float) -> None:
    settings = {"worker_lease_seconds": lease, "worker_heartbeat_interval": beat}
    with pytest.raises(ImproperlyConfigured, match=rf"worker_heartbeat_interval \({beat} s\) is too long"):
        config(settings)
    assert config(settings | {"worker_heartbeat_interval": 26.9}).heartbeat_seconds == 26.9


OPTIONS = {
    "max_tasks_per_child": ("worker_max_tasks_per_child", 5, 3),
    "max_memory_per_child": ("worker_max_memory_per_child", 6_000, 4_000),
    "concurrency": ("worker_concurrency", 5, 3),
    "pool": ("worker_pool", "threads", "solo"),
    "task_events": ("worker_send_task_events", True, False),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_goes_before_its_setting(config: NewConfig, name: str) -> None:
    setting, of_the_setting, of_the_option = OPTIONS[name]
    assert getattr(config({setting: of_the_setting}, **{name: None}), name) == of_the_setting
    assert getattr(config({setting: of_the_setting}, **{name: of_the_option}), name) == of_the_option


def test_the_slots_of_each_pool(config: NewConfig) -> None:
    assert [config({}, pool=pool, concurrency=4).slots for pool in ("prefork", "threads", "asyncio", "solo")] == [
        4, 4, 4, 1,
    ]  # fmt: skip
    assert config({}, autoscale=(7, 2), concurrency=None).slots == 2


@pytest.mark.parametrize(("pool", "most"), [("prefork", 5_000), ("threads", 10_000), ("asyncio", 10_000)])
def test_a_concurrency_that_no_machine_bears_is_refused(config: NewConfig, pool: str, most: int) -> None:
    assert config({}, pool=pool, concurrency=most).slots == most
    with pytest.raises(ImproperlyConfigured, match=f"concurrency must be from 1 to {most} in the pool {pool}"):
        config({}, pool=pool, concurrency=10**9)
    with pytest.raises(ImproperlyConfigured, match=r"the maximum \(1000000000\) is more than a worker may have"):
        config({}, pool="prefork", autoscale=(10**9, 1), concurrency=None)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "celery@box.example.com"),
        ("", "celery@box.example.com"),
        ("mail", "mail@box.example.com"),
        ("mail@%n", "mail@box"),
        ("%n@%d", "box@example.com"),
        ("100%%@%h", "100%@box.example.com"),
        ("%%h@x", "%h@x"),
        ("%x@y", "%x@y"),
        ("n" * 253 + "@h", "n" * 253 + "@h"),
        ("n" * 239, "n" * 239 + "@box.example.com"),
    ],
)
def test_the_name_of_a_worker(monkeypatch: pytest.MonkeyPatch, given: str | None, name: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box.example.com")
    assert expanded_name(given) == name


@pytest.mark.parametrize("given", ["n" * 254 + "@h", "n" * 240, "a\nb"])
def test_names_that_no_worker_may_have(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "box.example.com")
    with pytest.raises(ImproperlyConfigured, match="1 to 255 printable characters"):
        expanded_name(given)


def test_names_of_queues_may_stand_in_one_text(config: NewConfig) -> None:
    found = config({}, queues=" a, b,,c ", exclude_queues=" b ")
    assert (found.queues, found.excluded) == (("a", "c"), ("b",))
