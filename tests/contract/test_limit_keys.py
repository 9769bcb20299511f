"""Calls of tasks with limits: under which keys they wait, and who runs them where there is no worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dbqueue import DBQueue, Limit
from dbqueue.errors import ImproperlyConfigured
from dbqueue.limits import Policies
from dbqueue.store import limits
from dbqueue.testing import all_enqueued, drain
from tests.stores import count, row


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with DBQueue("limited", broker=database_url, set_as_current=False) as app:
        limits: dict[str, Any] = {
            "own": Limit(running=1),
            "named": Limit(rate="100/s", key="mail gun"),
            "template": Limit(running=1, key="{customer}-{region}"),
            "function": Limit(running=1, key=lambda customer, **_: None if customer is None else f"f{customer}"),
            "none": None,
        }
        for name, limit in limits.items():
            app.task(name=name, limit=limit)(run)
        yield app


def run(customer: Any = 0, region: str = "eu") -> str:
    return f"{customer} {region}"


@pytest.mark.parametrize(
    ("task", "args", "options", "key"),
    [
        ("own", [], {}, "own"),
        ("named", [], {}, "mail gun"),
        ("template", [7], {}, "7-eu"),
        ("template", [], {"kwargs": {"region": "us", "customer": "ü"}}, "ü-us"),
        ("function", [3], {}, "f3"),
        ("function", [None], {}, None),
        ("own", [], {"limit_key": "other {x}"}, "other {x}"),
        ("none", [], {}, None),
        ("none", [], {"limit_key": "x"}, "x"),
    ],
)
def test_keys(app: DBQueue, task: str, args: list[Any], options: dict[str, Any], key: str | None) -> None:
    result = app.tasks[task].apply_async(args, **options)
    stored = row(app.database.store, result.id)
    assert (stored["limit_key"], stored["blocked_reason"]) == (key, None if key is None else "limit")
    assert drain(app).counts == {"SUCCESS": 1}
    assert result.get(timeout=5).count(" ") == 1


def test_a_call_by_name_has_a_key_too(app: DBQueue) -> None:
    assert row(app.database.store, app.send_task("template", [1, "us"]).id)["limit_key"] == "1-us"
    assert row(app.database.store, app.send_task("elsewhere", limit_key="k").id)["limit_key"] == "k"


def test_keys_that_cannot_be(app: DBQueue) -> None:
    for key in ("", "rate:x", "a\nb", 3):
        with pytest.raises(ValueError, match="key"):
            app.tasks["none"].apply_async(limit_key=key)  # type: ignore[arg-type]
    for number in (True, 1.5, "2"):
        with pytest.raises(ValueError, match="running"):
            Limit(running=number)  # type: ignore[arg-type]
    with pytest.raises(ImproperlyConfigured, match="Limit"):
        app.task(name="wrong", limit=5)(run)


def test_a_long_key_is_shortened_and_stays_itself(app: DBQueue) -> None:
    first, second, other = (
        row(app.database.store, app.tasks["template"].delay("x" * 300 + end).id)["limit_key"] for end in ("a", "a", "b")
    )
    assert first == second != other
    assert len(first) == 255


def test_a_long_key_is_the_same_to_calls_code_and_an_operator(app: DBQueue) -> None:
    long = "x" * 300
    limit = Limit(running=2, key=long)
    app.task(name="long", limit=limit)(run)
    app.tasks["long"].delay(1)
    store = app.database.store
    limits.declare(store, Policies({"long": limit}))
    assert [(each.max_running, each.source, each.held) for each in limits.rows(store)] == [(2, "settings", 1)]
    app.control.set_limit(long, running=0)
    assert [(each.max_running, each.source, each.held) for each in limits.rows(store)] == [(0, "user", 1)]
    assert drain(app).counts == {}
    assert app.control.clear_limit(long)
    assert drain(app).counts == {"SUCCESS": 1}


def test_drain_keeps_to_what_may_run(app: DBQueue) -> None:
    app.control.set_limit("own", running=0)
    app.tasks["own"].enqueue_many([(n,) for n in range(3)])
    app.tasks["none"].delay(1)
    assert drain(app).counts == {"SUCCESS": 1}
    assert len(all_enqueued(app, task="own")) == 3
    app.control.clear_limit("own")
    assert drain(app, queues="cel*").counts == {"SUCCESS": 3}


def test_a_retry_waits_for_a_permit_again(app: DBQueue) -> None:
    @app.task(name="again", bind=True, limit=Limit(running=1), max_retries=1)
    def again(self: Any) -> None:
        raise self.retry(countdown=3600)

    result = again.delay()
    assert drain(app).counts == {"RETRY": 1}
    stored = row(app.database.store, result.id)
    assert (stored["status"], stored["blocked_reason"], stored["permit"]) == ("RETRY", "limit", None)
    assert count(app.database.store, "permit IS NOT NULL") == 0


def test_on_a_database_in_memory() -> None:
    with DBQueue("memory", broker="sqlite://", set_as_current=False) as app:
        app.task(name="own", limit=Limit(running=1), unique=True)(run)
        results = [app.tasks["own"].delay(n // 2) for n in range(4)]
        assert drain(app, queues="*").counts == {"SUCCESS": 2}
        assert [result.get(timeout=5) for result in results] == ["0 eu", "0 eu", "1 eu", "1 eu"]


def test_eager_calls_have_no_limits(app: DBQueue) -> None:
    app.conf.task_always_eager = True
    app.control.set_limit("own", running=0)
    assert app.tasks["own"].delay(1).get() == "1 eu"
