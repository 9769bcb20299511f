"""When a call may start and when it is too late for it, as the options of the call and of its task say."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.calls import new_job
from dbqueue.jobs import NewJob

NOON = datetime(2030, 7, 1, 12)  # noqa: DTZ001 - without a zone on purpose
IN_TOKYO = datetime(2030, 7, 1, 3, tzinfo=UTC)


@pytest.fixture
def app() -> Iterator[DBQueue]:
    with DBQueue("times", broker="sqlite://", set_as_current=False, timezone="Asia/Tokyo") as app:
        yield app


def job(app: DBQueue, name: str = "work", **options: Any) -> NewJob:
    return new_job(app.conf, name, app.tasks.get(name), (), {}, options)


@pytest.mark.parametrize(
    ("given", "moment"),
    [(NOON, IN_TOKYO), (NOON.isoformat(), IN_TOKYO), (NOON.replace(tzinfo=UTC), NOON.replace(tzinfo=UTC))],
)
def test_a_time_without_a_zone_is_in_that_of_the_settings(app: DBQueue, given: Any, moment: datetime) -> None:
    for name in ("eta", "expires"):
        made = job(app, **{name: given})
        found = made.eta if name == "eta" else made.expires_at
        assert found == moment
        assert (made.delay_seconds, made.expires_seconds) == (None, None)


@pytest.mark.parametrize(
    ("given", "seconds"), [(0, 0.0), (1.5, 1.5), (-3, -3.0), (timedelta(days=2, seconds=1), 172_801.0)]
)
def test_seconds_are_left_to_the_clock_of_the_database(app: DBQueue, given: Any, seconds: float) -> None:
    made = job(app, countdown=given, expires=given)
    assert (made.delay_seconds, made.expires_seconds) == (seconds, seconds)
    assert (made.eta, made.expires_at) == (None, None)


def test_a_time_goes_before_a_countdown(app: DBQueue) -> None:
    made = job(app, eta=NOON, countdown=5)
    assert (made.eta, made.delay_seconds) == (IN_TOKYO, None)


def test_an_expiry_of_the_task_is_that_of_its_calls_unless_they_say_otherwise(app: DBQueue) -> None:
    app.task(name="soon", expires=60)(lambda: None)
    app.task(name="then", expires=NOON)(lambda: None)
    assert job(app, "soon").expires_seconds == 60.0
    assert job(app, "then").expires_at == IN_TOKYO
    made = job(app, "then", expires=5)
    assert (made.expires_at, made.expires_seconds) == (None, 5.0)


@pytest.mark.parametrize("name", ["countdown", "expires"])
@pytest.mark.parametrize("given", [True, float("inf"), float("nan"), [5]])
def test_what_is_no_time(app: DBQueue, name: str, given: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number of seconds"):
        job(app, **{name: given})


@pytest.mark.parametrize("name", ["eta", "expires"])
@pytest.mark.parametrize("given", ["9999-12-31T23:00:00-05:00", "0001-01-01T00:00:00", "0001-01-01"])  # in Tokyo's time
def test_a_time_that_no_database_keeps_is_refused_with_its_option(app: DBQueue, name: str, given: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be in the years 1 to 9999 of UTC"):
        job(app, **{name: given})
