"""Rate limits as Celery's guides have them: "Tasks" (`Task.rate_limit`) and "Workers Guide" ("Rate Limits").

docs.celeryq.dev/en/stable/userguide/tasks.html#Task.rate_limit, .../userguide/workers.html#rate-limits
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.errors import ImproperlyConfigured
from dbqueue.limits import parse_rate
from tests.stores import count
from tests.waiting import wait_until
from tests.worker.limited import make_app
from tests.workers import WorkerProcess, starting

TIMEOUT = 30


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


@pytest.fixture
def start(database_url: str) -> Iterator[Callable[..., WorkerProcess]]:
    with starting() as start:
        yield lambda name, **options: start(
            database_url, module="tests.worker.limited", hostname=f"{name}@example.com", concurrency=1, **options
        )


@pytest.mark.parametrize(
    ("given", "per_second"),
    [("100/m", 100 / 60), ("2/h", 2 / 3600), ("0.5/s", 0.5), ("10", 10), (10, 10), (0.25, 0.25), ("100 / m", None)],
)
def test_the_forms_of_a_rate(given: Any, per_second: float | None) -> None:
    """ "The rate limits can be specified in seconds, minutes or hours by appending "/s", "/m" or "/h" to the value."""
    rate = parse_rate(given)
    assert rate is not None
    assert rate.per_second == pytest.approx(100 / 60 if per_second is None else per_second)


@pytest.mark.parametrize("given", [None, 0, "", "0", "0/m", 0.0])
def test_no_limit(given: Any) -> None:
    assert parse_rate(given) is None


@pytest.mark.parametrize("given", ["fast", "10/d", "10/m/s", "-1/s", -1, float("inf"), float("nan")])
def test_what_is_no_rate(given: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_rate(given)


def test_a_worker_does_not_start_with_a_rate_that_is_none(database_url: str) -> None:
    with (
        make_app(database_url, task_default_rate_limit="often") as app,
        pytest.raises(ImproperlyConfigured, match="often"),
    ):
        app.Worker(pool="solo")


def test_changing_the_rate_at_run_time(app: DBQueue, start: Callable[..., WorkerProcess], tmp_path: Path) -> None:
    """`app.control.rate_limit('myapp.mytask', '200/m')`, and with a destination; the replies are Celery's."""
    start("worker1")
    start("worker2", settings={"worker_disable_rate_limits": True})

    def said(task: str, rate: Any, **options: Any) -> dict[str, Any]:
        replies = app.control.rate_limit(task, rate, reply=True, timeout=TIMEOUT, **options) or []
        return {name: answer for reply in replies for name, answer in reply.items()}

    new = {"ok": "new rate limit set successfully"}
    assert said("limited.plain", "200/m") == {"worker1@example.com": new, "worker2@example.com": new}
    assert said("limited.plain", "100/h", destination=["worker1@example.com"]) == {"worker1@example.com": new}
    assert said("limited.plain", 0, destination="worker2@example.com") == {
        "worker2@example.com": {"ok": "rate limit disabled successfully"}
    }
    assert said("nobody.knows", "1/m", destination="worker1@example.com") == {
        "worker1@example.com": {"error": "unknown task"}
    }
    wrong = said("limited.plain", "often", destination="worker1@example.com")["worker1@example.com"]["error"]
    assert wrong.startswith("Invalid rate limit string: ValueError(")

    registered = app.control.inspect(timeout=TIMEOUT).registered() or {}
    assert "limited.plain [rate_limit=100/h]" in registered["worker1@example.com"]
    assert "limited.hourly [rate_limit=1/h]" in registered["worker2@example.com"]
    assert "limited.two" in registered["worker1@example.com"]
    # worker2 knows no rates, and is told of none: it does what worker1 may not start yet.
    assert said("limited.hourly", "1/h", destination="worker2@example.com") == {"worker2@example.com": new}
    log = str(tmp_path / "log")
    results = [app.tasks["limited.hourly"].delay(log, number) for number in range(5)]
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(5))


def test_a_rate_that_is_lifted(app: DBQueue, start: Callable[..., WorkerProcess], tmp_path: Path) -> None:
    """What waits for it runs then, and not when the rate would have let it, or when another job comes."""
    start("worker1")
    log, store = str(tmp_path / "log"), app.database.store
    results = [app.tasks["limited.hourly"].delay(log, number) for number in range(3)]
    wait_until(lambda: sum(result.ready() for result in results) == 1)
    wait_until(lambda: count(store, "held_at IS NOT NULL") == 2)
    app.control.rate_limit("limited.hourly", 0)
    assert [result.get(timeout=TIMEOUT) for result in results] == list(range(3))


def test_a_rate_is_of_each_worker(app: DBQueue, start: Callable[..., WorkerProcess], tmp_path: Path) -> None:
    """ "Note that this is a per worker instance rate limit, and not a global rate limit."""
    log = str(tmp_path / "log")
    results = [app.tasks["limited.hourly"].delay(log, number) for number in range(5)]
    start("worker1")
    wait_until(lambda: sum(result.ready() for result in results) == 1, TIMEOUT)
    start("worker2")
    wait_until(lambda: sum(result.ready() for result in results) == 2, TIMEOUT)
    assert [result.state for result in results] == ["SUCCESS"] * 2 + ["PENDING"] * 3
