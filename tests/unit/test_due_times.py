"""When schedules are due: days of weeks and months, ends of months, intervals, and what is_due answers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dbqueue.schedules import BaseSchedule, crontab, from_text, schedule
from tests.unit.due_times import OSLO, due_times, shown


def test_both_days_must_match_as_in_celery() -> None:
    friday_13th = crontab(0, 0, day_of_month=13, day_of_week="fri")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    assert [f"{each:%Y-%m-%d}" for each in due_times(friday_13th, start, 3)] == [
        "2026-02-13",
        "2026-03-13",
        "2026-11-13",
    ]


def test_leap_days() -> None:
    leap = crontab(0, 12, 29, 2)
    assert [each.year for each in due_times(leap, datetime(2025, 1, 1, tzinfo=OSLO), 3)] == [2028, 2032, 2036]
    assert [each.year for each in due_times(leap, datetime(2096, 3, 1, tzinfo=UTC), 1)] == [2104]  # 2100 has none


def test_ends_of_months() -> None:
    last = crontab(0, 0, 31)
    assert shown(due_times(last, datetime(2026, 2, 1, tzinfo=UTC), 3)) == [
        "03-31 00:00+0000",
        "05-31 00:00+0000",
        "07-31 00:00+0000",
    ]


@pytest.mark.parametrize(
    "parts", [{"day_of_month": 30, "month_of_year": 2}, {"day_of_month": 31, "month_of_year": "4,6"}]
)
@pytest.mark.parametrize("days", ["*", "mon"])
def test_days_that_never_come(parts: dict[str, Any], days: str) -> None:
    assert crontab(0, 0, **parts, day_of_week=days).next_after(datetime(2026, 1, 1, tzinfo=OSLO), OSLO) is None


def test_a_due_time_comes_strictly_after() -> None:
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    every_hour = crontab(0)
    assert every_hour.next_after(noon) == noon + timedelta(hours=1)
    assert every_hour.next_after(noon - timedelta(microseconds=1)) == noon
    assert every_hour.next_after(noon + timedelta(microseconds=1)) == noon + timedelta(hours=1)
    # Rounded down to the second, this one would be due where it is.
    assert schedule(0.5, relative=True).next_after(noon) == noon + timedelta(seconds=0.5)


def test_a_star_and_a_range_over_the_end() -> None:
    found = due_times(crontab("*/30,50-10/10", 7), datetime(2026, 6, 1, tzinfo=UTC), 6)
    assert [each.minute for each in found] == [0, 10, 30, 50, 0, 10]


@pytest.mark.parametrize(("day_of_week", "year"), [("tue", 2124), ("sun", 2128), ("thu", 2120)])
def test_a_leap_day_on_a_day_of_the_week(day_of_week: str, year: int) -> None:
    """2100 has none: a Tuesday's comes again after 40 years."""
    due = crontab(0, 0, 29, 2, day_of_week).next_after(datetime(2088, 3, 1, tzinfo=UTC))
    assert due == datetime(year, 2, 29, tzinfo=UTC)


def test_intervals_are_real_time() -> None:
    daily = due_times(schedule(timedelta(days=1)), datetime(2026, 3, 28, 12, tzinfo=OSLO), 2)
    assert shown(daily) == ["03-29 13:00+0200", "03-30 13:00+0200"]


def test_relative_intervals_are_by_the_clock() -> None:
    assert shown(
        due_times(schedule(timedelta(hours=2), relative=True), datetime(2026, 5, 5, 9, 40, tzinfo=OSLO), 2)
    ) == [
        "05-05 11:00+0200",
        "05-05 13:00+0200",
    ]
    for interval, begun in (
        (timedelta(hours=1), datetime(2026, 5, 5, 10, tzinfo=UTC)),
        (60, datetime(2026, 5, 5, 9, 41, tzinfo=UTC)),
    ):
        start = datetime(2026, 5, 5, 9, 40, 20, 5, tzinfo=UTC)
        assert due_times(schedule(interval, relative=True), start, 1) == [begun]
    midnights = due_times(schedule(timedelta(days=1), relative=True), datetime(2026, 10, 24, 9, tzinfo=OSLO), 3)
    assert shown(midnights) == ["10-25 00:00+0200", "10-26 00:00+0100", "10-27 00:00+0100"]
    seconds = schedule(timedelta(seconds=1.5), relative=True)
    start = datetime(2026, 1, 1, 0, 0, 0, 200_000, tzinfo=UTC)
    assert seconds.next_after(start) == start.replace(second=1, microsecond=0)
    # Rounded down to the second, less than one would be in the past, or the same moment, for ever.
    assert due_times(schedule(0.5, relative=True), start, 3) == [
        start.replace(microsecond=700_000),
        start.replace(second=1, microsecond=0),
        start.replace(second=1, microsecond=500_000),
    ]


@given(
    st.sampled_from(["* * * * *", "*/7 3 * * *", "0 0 1 * *", "0 0 29 2 *", "every 7 seconds", "every 1 day relative"]),
    st.timedeltas(timedelta(0), timedelta(days=3)),
)
@settings(max_examples=60)
def test_the_latest_due_time_is_the_last_of_all(text: str, downtime: timedelta) -> None:
    rule = from_text(text)
    first = rule.next_after(datetime(2026, 3, 27, tzinfo=UTC), OSLO)
    assert first is not None
    latest = rule.latest(first, first + downtime, OSLO)
    following = rule.next_after(latest, OSLO)
    assert first <= latest <= first + downtime
    assert following is not None
    assert following > first + downtime


@pytest.mark.parametrize("period", [timedelta(minutes=1), timedelta(hours=2), timedelta(days=1), timedelta(days=20)])
def test_the_latest_due_time_is_found_in_few_steps(period: timedelta) -> None:
    """However often it was due in ten years."""
    steps = 0

    class Often(BaseSchedule):
        text = "often"

        def next_after(self, moment: datetime, zone: tzinfo = UTC) -> datetime:
            nonlocal steps
            steps += 1
            return first + ((moment - first) // period + 1) * period

    first = datetime(2026, 5, 5, tzinfo=UTC)
    moment = first + timedelta(days=3650)
    latest = Often().latest(first, moment)
    assert moment - period < latest <= moment
    assert steps < 100


@given(
    st.sampled_from(["1 minute", "2 hours", "90 minutes", "36 hours", "3 days", "1 week", "1.5 seconds"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 1)),  # noqa: DTZ001 - hypothesis adds no zone to bounds
    st.integers(0, 300),
)
@example("150 minutes", datetime(2026, 5, 5, 12), 20)  # noqa: DTZ001 - every two hours, when it is rounded
@settings(max_examples=60)
def test_a_relative_interval_goes_on_as_it_began_after_a_downtime(text: str, start: datetime, steps: int) -> None:
    """At even hours, or on Mondays, however long it was, and through changes of the clocks."""
    rule = from_text(f"every {text} relative")
    times = [each.astimezone(UTC) for each in due_times(rule, start.replace(tzinfo=OSLO), steps + 2)]
    for moment in (times[-2], times[-1] - timedelta(microseconds=1)):
        assert rule.latest(times[0], moment, OSLO) == times[-2]


# -- Celery's questions --------------------------------------------------------------------------


def at(moment: datetime) -> Callable[[], datetime]:
    return lambda: moment


def test_is_due() -> None:
    now = datetime(2026, 5, 5, 12, 0, 20, tzinfo=UTC)
    assert schedule(30, nowfun=at(now)).is_due(now - timedelta(seconds=10)) == (False, 20.0)
    assert schedule(30, nowfun=at(now)).is_due(now - timedelta(seconds=30)) == (True, 30.0)
    assert schedule(30, nowfun=at(now)).is_due(now - timedelta(seconds=31)) == (True, 30.0)
    assert crontab(nowfun=at(now)).is_due(now - timedelta(seconds=15)) == (False, 40.0)
    due, following = crontab(nowfun=at(now)).is_due(now - timedelta(seconds=25))
    assert (due, following) == (True, 40.0)
    assert schedule(30, nowfun=at(now)).remaining_estimate(now) == timedelta(seconds=30)


def test_a_due_time_that_passes_meanwhile_is_asked_for_at_once() -> None:
    """Between two looks at the clock: a pause below zero is none."""
    start = datetime(2026, 5, 5, 12, tzinfo=UTC)
    clock = iter([start, start, start + timedelta(seconds=31)])
    assert schedule(30, nowfun=lambda: next(clock)).is_due(start - timedelta(seconds=30)) == (True, 0.0)


def test_is_due_in_the_applications_zone() -> None:
    class App:
        timezone = OSLO

    assert crontab(app=App()).now().tzinfo is OSLO
    now = datetime(2026, 5, 5, 12)  # noqa: DTZ001 - naive: in that zone
    rule = crontab(0, 13, nowfun=at(now), app=App())
    assert rule.is_due(now) == (False, 3600.0)


def test_a_day_that_never_comes_is_told() -> None:
    """Celery raises RuntimeError, too; an endless wait would overflow whatever it is added to."""
    now = datetime(2026, 6, 1, tzinfo=UTC)
    never = crontab(0, 0, 30, 2, nowfun=at(now))
    with pytest.raises(RuntimeError, match=r"<crontab: 0 0 30 2 \* \(m/h/dM/MY/d\)> is never due again"):
        never.remaining_estimate(now)
    with pytest.raises(RuntimeError, match="never due again"):
        never.is_due(now)
