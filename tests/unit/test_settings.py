"""The table of settings: defaults, checks, names and what a person is told."""

from __future__ import annotations

from datetime import UTC, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from dbqueue import settings
from dbqueue.errors import ImproperlyConfigured
from dbqueue.settings import GROUPS, KNOWN, SETTINGS
from dbqueue.settings.celery import WITHOUT_MEANING

SECONDS = [name for name, setting in SETTINGS.items() if setting.kind.description.startswith("seconds")]
BOOLS = [name for name, setting in SETTINGS.items() if setting.kind.description == "True or False"]


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_each_default_is_a_valid_value(setting: settings.Setting) -> None:
    assert setting.check(setting.default) == setting.default
    assert setting.doc.endswith(".")
    assert setting.kind.description
    assert setting.variable == "DBQUEUE_" + setting.name.upper()


def test_names_are_unique_and_apart_from_those_without_meaning() -> None:
    assert sum(map(len, GROUPS.values())) == len(SETTINGS)
    assert not SETTINGS.keys() & WITHOUT_MEANING.keys()
    assert all(name == name.lower() for name in KNOWN)


def test_defaults_of_lists_are_not_shared() -> None:
    first = SETTINGS["accept_content"].fresh_default()
    first.append("yaml")
    assert SETTINGS["accept_content"].fresh_default() == ["json"]


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("enable_utc", "false", False),
        ("enable_utc", "ON", True),
        ("enable_utc", 0, False),
        ("worker_concurrency", "4", 4),
        ("worker_concurrency", 4.0, 4),
        ("worker_concurrency", 0, None),
        ("worker_concurrency", "auto", None),
        ("worker_concurrency", None, None),
        ("result_expires", timedelta(hours=1), 3600.0),
        ("result_expires", "60.5", 60.5),
        ("result_expires", 0, None),
        ("result_expires", None, None),
        ("task_default_priority", None, 0),
        ("task_default_priority", -5, -5),
        ("timezone", "Europe/Prague", "Europe/Prague"),
        ("timezone", "utc", "UTC"),
        ("timezone", None, "UTC"),
        ("timezone", UTC, "UTC"),
        ("timezone", ZoneInfo("Europe/Prague"), "Europe/Prague"),
        ("accept_content", ("json",), ["json"]),
        ("accept_content", {"pickle", "json", "application/x-own"}, ["application/x-own", "json", "pickle"]),
        ("imports", "a.b, c", ["a.b", "c"]),
        ("include", None, []),
        ("worker_pool", "processes", "prefork"),
        ("broker_url", ["sqla+sqlite:///jobs.db"], "sqla+sqlite:///jobs.db"),
        ("beat_schedule", None, {}),
        ("task_routes", {"a": "b"}, {"a": "b"}),
    ],
)
def test_values_have_one_form(name: str, given: Any, kept: Any) -> None:
    value = settings.check(name, given)
    assert value == kept
    assert type(value) is type(kept)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("enable_utc", "maybe", "must be True or False, not 'maybe'"),
        ("enable_utc", 2, "not 2"),
        ("enable_utc", None, "not NoneType"),
        ("worker_concurrency", -1, "whole number"),
        ("worker_concurrency", 1.5, "whole number"),
        ("worker_concurrency", True, "whole number"),
        ("worker_concurrency", "many", "not 'many'"),
        ("database_pool_size", 0, "from 1"),
        ("database_pool_size", timedelta(1), "not timedelta"),
        ("database_connect_timeout", 0, "more than 0"),
        ("database_connect_timeout", float("nan"), "seconds"),
        ("worker_lease_seconds", 0.5, "at least 1"),
        ("worker_lease_seconds", [1], "not list"),
        ("result_expires", -1, "seconds"),
        ("result_expires", 1e13, "at most a hundred years"),
        ("worker_lease_seconds", 1e13, "at most a hundred years"),
        ("task_default_priority", 40_000, "32767"),
        ("max_payload_bytes", 10, "1024"),
        ("timezone", "Mars/Base", "time zone database"),
        ("timezone", "../etc/passwd", "time zone"),
        ("timezone", "Europe", "time zone"),
        ("timezone", "", "time zone"),
        ("timezone", timezone(timedelta(hours=1)), "nameless"),
        ("task_serializer", "pickel", "known: json"),
        ("task_serializer", 5, "not int"),
        ("accept_content", ["jsno"], "known: json"),
        ("accept_content", [5], "element of type int"),
        ("accept_content", 5, "not 5"),
        ("worker_pool", "gevent", "use threads or asyncio"),
        ("worker_pool", "fork", "prefork, threads, asyncio, solo"),
        ("task_default_queue", "", "not empty"),
        ("task_default_queue", 5, "not int"),
        ("database_schema", "x" * 64, "63 bytes"),
        ("database_schema", "other.public", "no dot, colon or %"),
        ("database_schema", "x%", "no dot, colon or %"),
        ("database_schema", "jobs:all", "no dot, colon or %"),
        ("beat_schedule", [1], "a dict, not list"),
        ("broker_url", "redis://:hunter2@h", "redis:// is no database"),
        ("broker_url", ["sqlite://", "sqlite://"], "one database"),
        ("result_backend", "rpc://", "rpc://"),
        ("database_url", "hunter2", "no database URL"),
    ],
)
def test_wrong_values_name_the_setting_and_the_reason(name: str, value: Any, reason: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=reason) as caught:
        settings.check(name, value)
    assert str(caught.value).startswith(name)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", SECONDS)
def test_all_durations_take_timedeltas(name: str) -> None:
    assert settings.check(name, timedelta(seconds=90)) == 90


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("BROKER_URL", "broker_url"),
        ("BROKER_TRANSPORT_OPTIONS", "broker_transport_options"),
        ("CELERY_RESULT_BACKEND", "result_backend"),
        ("CELERY_TASK_SERIALIZER", "task_serializer"),
        ("CELERY_RESULT_SERIALIZER", "result_serializer"),
        ("CELERY_ACCEPT_CONTENT", "accept_content"),
        ("CELERY_TIMEZONE", "timezone"),
        ("CELERY_ENABLE_UTC", "enable_utc"),
        ("CELERY_IMPORTS", "imports"),
        ("CELERY_INCLUDE", "include"),
        ("CELERY_DEFAULT_QUEUE", "task_default_queue"),
        ("CELERY_ACKS_LATE", "task_acks_late"),
        ("CELERY_ALWAYS_EAGER", "task_always_eager"),
        ("CELERY_EAGER_PROPAGATES_EXCEPTIONS", "task_eager_propagates"),
        ("CELERY_IGNORE_RESULT", "task_ignore_result"),
        ("CELERY_QUEUES", "task_queues"),
        ("CELERY_ROUTES", "task_routes"),
        ("CELERY_TASK_RESULT_EXPIRES", "result_expires"),
        ("CELERY_TRACK_STARTED", "task_track_started"),
        ("CELERYD_CONCURRENCY", "worker_concurrency"),
        ("CELERYD_POOL", "worker_pool"),
        ("CELERYD_MAX_TASKS_PER_CHILD", "worker_max_tasks_per_child"),
        ("CELERYD_PREFETCH_MULTIPLIER", "worker_prefetch_multiplier"),
        ("CELERYD_TASK_TIME_LIMIT", "task_time_limit"),
        ("CELERYBEAT_SCHEDULE", "beat_schedule"),
        ("CELERY_SEND_EVENTS", "worker_send_task_events"),
        ("CELERY_REDIS_HOST", "redis_host"),
        ("CELERY_RESULT_DBURI", "database_url"),
        ("CELERY_BROKER_URL", "broker_url"),
        ("task_serializer", "task_serializer"),
        ("TIMEZONE", None),
        ("DATABASE_URL", None),
        ("REDIS_HOST", None),
        ("CELERY_", None),
        ("", None),
        ("Task_Serializer", None),
    ],
)
def test_old_names(old: str, new: str | None) -> None:
    assert settings.known_name(old) == new


def test_all_old_names_lead_to_known_ones() -> None:
    from dbqueue.settings.celery import _OLD_EXCEPTIONS

    assert set(_OLD_EXCEPTIONS.values()) <= KNOWN


def test_what_a_person_is_told() -> None:
    assert settings.warning_for("task_serializer", "json") is None
    assert "nothing is prefetched" in (settings.warning_for("worker_prefetch_multiplier", 1) or "")
    assert "did you mean 'task_serializer'" in (settings.warning_for("task_serialiser", 1) or "")
    assert settings.warning_for("my_own", 1) == "unknown setting 'my_own'"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("task_default_queue", "mail", "mail"),
        ("enable_utc", "no", False),
        ("worker_concurrency", "8", 8),
        ("worker_concurrency", "none", None),
        ("result_expires", "3600", 3600),
        ("accept_content", "json, application/x-own", ["json", "application/x-own"]),
        ("task_routes", '{"a.*": "slow"}', {"a.*": "slow"}),
        ("beat_schedule", "{}", {}),
        ("broker_url", "sqlite:///jobs.db", "sqlite:///jobs.db"),
        ("timezone", "Europe/Prague", "Europe/Prague"),
    ],
)
def test_values_from_the_environment(name: str, text: str, value: Any) -> None:
    assert settings.from_environment({f"DBQUEUE_{name.upper()}": text}) == {name: value}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DBQUEUE_WORKER_CONCURRENCY", "lots"),
        ("DBQUEUE_ENABLE_UTC", "maybe"),
        ("DBQUEUE_BEAT_SCHEDULE", "{"),
        ("DBQUEUE_BEAT_SCHEDULE", "[]"),
        ("DBQUEUE_BROKER_URL", "redis://:hunter2@h"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=variable) as caught:
        settings.from_environment({variable: text})
    assert "hunter2" not in str(caught.value)


def test_other_and_empty_variables_are_left_alone() -> None:
    assert settings.from_environment({"DBQUEUE_APP": "proj", "DBQUEUE_TEST_URL": "x", "DBQUEUE_BROKER_URL": " "}) == {}
