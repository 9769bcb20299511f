"""Schedules: what their arguments mean, and when they are due, right through changes of the clocks."""

from __future__ import annotations

import math
import pickle
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dbqueue.errors import ImproperlyConfigured
from dbqueue.schedules import (
    BaseSchedule,
    ParseException,
    crontab,
    crontab_parser,
    from_text,
    maybe_schedule,
    schedule,
    solar,
)

OSLO, NEW_YORK = ZoneInfo("Europe/Oslo"), ZoneInfo("America/New_York")
EVERY_DAY = frozenset(range(7))


def due_times(rule: BaseSchedule, start: datetime, number: int) -> list[datetime]:
    """The next due times, in the zone of `start`."""
    assert start.tzinfo is not None
    found: list[datetime] = []
    moment = start
    for _ in range(number):
        due = rule.next_after(moment, start.tzinfo)
        assert due is not None
        moment = due
        found.append(due.astimezone(start.tzinfo))
    return found


def shown(times: list[datetime]) -> list[str]:
    return [f"{each:%m-%d %H:%M%z}" for each in times]


# -- the arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (7, {7}),
        ("7", {7}),
        ("*", set(range(60))),
        ("*/15", {0, 15, 30, 45}),
        ("0,8-17/2", {0, 8, 10, 12, 14, 16}),
        ("0, 30", {0, 30}),
        ("5, */20", {0, 5, 20, 40}),
        ("*/20,5", {0, 5, 20, 40}),
        ("50-10/5", {50, 55, 0, 5, 10}),
        ("51-10/4", {51, 55, 59, 3, 7}),  # the step goes on over the end
        ("50/5", {50, 55}),
        ("29/30", {29, 59}),
        ("5-5", {5}),
        ([0, 30], {0, 30}),
        ({1, 2}, {1, 2}),
        ((3, "10-12"), {3, 10, 11, 12}),
        (range(0, 60, 20), {0, 20, 40}),
    ],
)
def test_the_forms_of_a_field(given: Any, expected: set[int]) -> None:
    assert crontab(minute=given).minute == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mon-fri", {1, 2, 3, 4, 5}),
        ("sunday", {0}),
        ("Thu,FRI", {4, 5}),
        ("fri-mon", {5, 6, 0, 1}),
        ("sat-sun", {6, 0}),
        ("7", {0}),
        (7, {0}),
        ("5-7", {5, 6, 0}),
        ("0-7", EVERY_DAY),
        ("7-7", {0}),
        ("7-7/2", {0}),
        ("sun-sun", {0}),
        ("7-0", {0}),
        ("7-1", {0, 1}),
        ("3-3", {3}),
        ("3-7", {3, 4, 5, 6, 0}),
        ("*/2", {0, 2, 4, 6}),
        ("*", EVERY_DAY),
        (["mon", 3], {1, 3}),
    ],
)
def test_days_of_the_week(given: Any, expected: set[int]) -> None:
    assert crontab(day_of_week=given).day_of_week == expected


def test_the_other_fields() -> None:
    given = crontab(0, "*/6", day_of_month="2-30/7", month_of_year="*/3")
    assert given.minute == {0}
    assert given.hour == {0, 6, 12, 18}
    assert given.day_of_month == {2, 9, 16, 23, 30}
    assert given.month_of_year == {1, 4, 7, 10}
    assert crontab(month_of_year="jan,Sep-nov").month_of_year == {1, 9, 10, 11}
    assert crontab(1, 2, 3, 4, 5).text == "1 2 3 4 5"  # the order of cron, and of Celery since 5.3
    spaced = crontab("0, 30", hour=" 8 - 17/3 ")
    assert from_text(spaced.text) == spaced


@pytest.mark.parametrize(
    "field",
    [
        {"minute": 60},
        {"minute": -1},
        {"minute": "1-60"},
        {"minute": ""},
        {"minute": "a"},
        {"minute": "mon"},
        {"minute": "*/0"},
        {"minute": "*/-2"},
        {"minute": "1/2/3"},
        {"minute": "1.5"},
        {"minute": "²"},
        {"minute": "*/²"},
        {"minute": "*/٣"},  # int() would read it
        {"minute": []},
        {"hour": 24},
        {"day_of_week": 8},
        {"day_of_week": "someday"},
        {"day_of_week": "mon5"},
        {"day_of_month": 0},
        {"day_of_month": 32},
        {"month_of_year": 0},
        {"month_of_year": "13"},
    ],
)
def test_fields_that_cannot_be(field: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        crontab(**field)


@pytest.mark.parametrize("value", [None, 1.5, True, object()])
def test_fields_of_a_wrong_type(value: Any) -> None:
    with pytest.raises(TypeError, match="minute must be"):
        crontab(minute=value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 5 * * 1-5", crontab(0, 5, day_of_week="1-5")),
        ("  */15   0,12 1 jan *  ", crontab("*/15", "0,12", 1, 1)),
        ("@hourly", crontab(0)),
        ("@daily", crontab(0, 0)),
        ("@midnight", crontab(0, 0)),
        ("@Weekly", crontab(0, 0, day_of_week=0)),
        ("@monthly", crontab(0, 0, 1)),
        ("@yearly", crontab(0, 0, 1, 1)),
        ("@annually", crontab(0, 0, 1, 1)),
    ],
)
def test_cron_text(text: str, expected: crontab) -> None:
    assert crontab.from_string(text) == expected
    assert from_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "* * * *",
        "0 * * * * *",
        "@reboot",
        "a b c d e",
        "every",
        "every 5 moons",
        "every 999999999999 weeks",
        "solar",
    ],
)
def test_texts_that_are_no_schedule(text: str) -> None:
    with pytest.raises(ParseException):
        from_text(text)


def test_a_step_that_is_none_is_named() -> None:
    with pytest.raises(ParseException, match=r"minute of a crontab takes a whole number from 1 as a step: '\*/0'"):
        crontab(minute="*/0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30", schedule(30)),
        ("0.5", schedule(0.5)),
        ("every 30 seconds", schedule(30)),
        ("every 1s", schedule(1)),
        ("every second", schedule(1)),
        ("Every 2.5 Minutes", schedule(150)),
        ("every hour", schedule(timedelta(hours=1))),
        ("every 1 hour relative", schedule(3600, relative=True)),
        ("every 2 weeks", schedule(timedelta(weeks=2))),
    ],
)
def test_texts_of_intervals(text: str, expected: schedule) -> None:
    found = from_text(text)
    assert found == expected
    assert isinstance(found, schedule)
    assert found.relative is expected.relative


# -- equality, repr, text ------------------------------------------------------------------------


def test_repr() -> None:
    assert repr(crontab()) == "<crontab: * * * * * (m/h/dM/MY/d)>"
    assert str(crontab(hour=7, minute=30, day_of_week="sun")) == "<crontab: 30 7 * * sun (m/h/dM/MY/d)>"
    assert repr(schedule(30)) == "<freq: 30.00 seconds>"
    assert repr(schedule(timedelta(minutes=1))) == "<freq: 1.00 minute>"
    assert repr(schedule(5400)) == "<freq: 1.50 hours>"
    assert repr(schedule(timedelta(days=2))) == "<freq: 2.00 days>"


def test_equality() -> None:
    assert crontab(minute="0,30") == crontab(minute={0, 30}) == crontab(minute="*/30")
    assert hash(crontab(minute="0,30")) == hash(crontab(minute="*/30"))
    assert crontab() != crontab(minute=0)
    assert crontab() != schedule(60)
    assert schedule(60) == schedule(timedelta(minutes=1)) == timedelta(minutes=1)
    assert schedule(60) != schedule(60, relative=True)
    assert schedule(60) != schedule(61)
    assert crontab() != "* * * * *"
    assert len({schedule(60), schedule(timedelta(minutes=1)), crontab()}) == 2


def test_maybe_schedule() -> None:
    given = crontab()
    assert maybe_schedule(given) is given
    assert maybe_schedule(None) is None
    assert maybe_schedule(30) == maybe_schedule(30.0) == maybe_schedule(timedelta(seconds=30)) == schedule(30)
    assert maybe_schedule(3600, relative=True).relative
    assert maybe_schedule("0 5 * * *") == crontab(0, 5)
    app = object()
    assert {maybe_schedule(each, app=app).app for each in (30, "0 5 * * *", given)} == {app}
    assert maybe_schedule(given).app is app


def test_a_schedule_is_pickled_without_its_application() -> None:
    made = maybe_schedule(crontab(0), app=threading.Lock())
    copy = pickle.loads(pickle.dumps(made))
    assert (copy, copy.app) == (made, None)


@pytest.mark.parametrize("value", [0, -1, timedelta(0), 0.0001])
def test_intervals_that_cannot_be(value: Any) -> None:
    with pytest.raises(ValueError, match="at least a millisecond"):
        schedule(value)


def test_an_interval_of_a_wrong_type() -> None:
    for value in (None, "30", True):
        with pytest.raises(TypeError, match="number of seconds"):
            schedule(value)


def test_the_parser_of_one_field() -> None:
    assert crontab_parser(24).parse("*/6") == {0, 6, 12, 18}
    assert crontab_parser(31, 1).parse("1-7,15-21") == {*range(1, 8), *range(15, 22)}
    assert crontab_parser(7).parse("mon,wed") == {1, 3}


numbers = st.one_of(
    st.sampled_from(["*", "*/2", "*/7", "1-5", "3,4", "2-4/2", "5-2"]),
    st.integers(1, 5),
    st.sets(st.integers(1, 6), min_size=1),
)


@given(st.lists(numbers, min_size=5, max_size=5))
def test_text_and_schedule_are_the_same(parts: list[Any]) -> None:
    made = crontab(*parts)
    assert from_text(made.text) == made
    assert len(made.text.split()) == 5


@given(st.timedeltas(timedelta(milliseconds=1), timedelta(days=4000)), st.booleans())
def test_text_and_interval_are_the_same(every: timedelta, relative: bool) -> None:
    made = schedule(every, relative)
    again = from_text(made.text)
    assert isinstance(again, schedule)
    assert abs(again.run_every - every) <= timedelta(microseconds=1)
    assert again.relative is relative


# -- due times ----------------------------------------------------------------------------------


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


# Oslo: 2026-03-29 02:00 becomes 03:00, 2026-10-25 03:00 becomes 02:00. New York: 03-08 and 11-01, at 02:00.


@pytest.mark.parametrize(
    ("zone", "start", "expected"),
    [
        (OSLO, (2026, 3, 28), ["03-28 02:30+0100", "03-29 03:00+0200", "03-30 02:30+0200"]),
        (OSLO, (2026, 10, 24), ["10-24 02:30+0200", "10-25 02:30+0200", "10-26 02:30+0100"]),
        (NEW_YORK, (2026, 3, 7), ["03-07 02:30-0500", "03-08 03:00-0400", "03-09 02:30-0400"]),
        (NEW_YORK, (2026, 10, 31), ["10-31 02:30-0400", "11-01 02:30-0500", "11-02 02:30-0500"]),
    ],
)
def test_a_time_in_the_hour_of_the_change_comes_once_a_day(
    zone: ZoneInfo, start: tuple[int, int, int], expected: list[str]
) -> None:
    assert shown(due_times(crontab(30, 2), datetime(*start, tzinfo=zone), 3)) == expected


def test_the_repeated_hour_of_new_york() -> None:
    # There the hour from 1 to 2 is the one that comes twice.
    found = due_times(crontab(30, 1), datetime(2026, 10, 31, tzinfo=NEW_YORK), 3)
    assert shown(found) == ["10-31 01:30-0400", "11-01 01:30-0400", "11-02 01:30-0500"]


def test_a_beat_that_starts_in_the_repeated_hour_does_not_go_back() -> None:
    second = datetime(2026, 10, 25, 2, 10, tzinfo=OSLO, fold=1)
    assert shown(due_times(crontab(30, 2), second, 1)) == ["10-26 02:30+0100"]


def test_every_hour_is_every_hour() -> None:
    spring = due_times(crontab(0), datetime(2026, 3, 29, tzinfo=OSLO), 4)
    assert shown(spring) == ["03-29 01:00+0100", "03-29 03:00+0200", "03-29 04:00+0200", "03-29 05:00+0200"]
    autumn = due_times(crontab(0), datetime(2026, 10, 25, 1, tzinfo=OSLO), 3)
    assert shown(autumn) == ["10-25 02:00+0200", "10-25 02:00+0100", "10-25 03:00+0100"]
    spaced = due_times(crontab(0, " *"), datetime(2026, 10, 25, 1, tzinfo=OSLO), 3)
    assert spaced == autumn
    minutes = due_times(crontab("*/30", [2]), datetime(2026, 10, 25, 1, tzinfo=OSLO), 4)
    assert shown(minutes) == ["10-25 02:00+0200", "10-25 02:30+0200", "10-25 02:00+0100", "10-25 02:30+0100"]


def test_a_star_and_a_range_over_the_end() -> None:
    found = due_times(crontab("*/30,50-10/10", 7), datetime(2026, 6, 1, tzinfo=UTC), 6)
    assert [each.minute for each in found] == [0, 10, 30, 50, 0, 10]


@given(
    st.sampled_from([OSLO, NEW_YORK]),
    st.sampled_from(["*", "*/20", "*/15"]),
    st.sampled_from(["*", "*/2", "*/3"]),
    st.datetimes(datetime(2026, 1, 1), datetime(2026, 12, 1)),  # noqa: DTZ001 - hypothesis adds no zone to bounds
)
@settings(max_examples=60)
def test_stars_follow_the_clock_on_the_wall_minute_by_minute(
    zone: ZoneInfo, minute: str, hour: str, start: datetime
) -> None:
    """A model that looks at every minute, in real time."""
    rule = crontab(minute, hour)
    moment = start.replace(tzinfo=UTC, second=0, microsecond=0)
    expected: list[datetime] = []
    while len(expected) < 4:
        moment += timedelta(minutes=1)
        local = moment.astimezone(zone)
        if local.minute in rule.minute and local.hour in rule.hour:
            expected.append(moment)
    found = due_times(rule, start.replace(second=0, microsecond=0, tzinfo=UTC).astimezone(zone), 4)
    # In UTC: a time in the repeated hour is never equal to one of another zone (PEP 495).
    assert [each.astimezone(UTC) for each in found] == expected


@given(st.sampled_from([OSLO, NEW_YORK]), st.integers(0, 59), st.integers(0, 23), st.sampled_from([(3, 1), (10, 20)]))
def test_a_time_of_day_comes_once_on_each_day(zone: ZoneInfo, minute: int, hour: int, start: tuple[int, int]) -> None:
    found = due_times(crontab(minute, hour), datetime(2026, *start, tzinfo=zone), 30)
    assert all(one < other for one, other in pairwise(each.astimezone(UTC) for each in found))
    days = [each.date() for each in found]
    assert len(set(days)) == len(days)
    assert days[-1] - days[0] == timedelta(days=29)


# Where clocks change in other ways than by the hour from 2 to 3, and some days around such a change.
CHANGES = {
    "Australia/Lord_Howe": ["2026-04-05", "2026-10-04"],  # half an hour
    "Pacific/Chatham": ["2026-04-05", "2026-09-27"],  # at 2:45
    "Pacific/Apia": ["2011-12-30", "2010-09-26"],  # a day was skipped; at midnight
    "Antarctica/Troll": ["2026-03-29", "2026-10-25"],  # two hours
    "America/Santiago": ["2026-04-05", "2026-09-06"],  # at midnight
    "America/Havana": ["2026-03-08", "2026-11-01"],  # at midnight, and back to it
    "America/St_Johns": ["2010-03-14", "2010-11-07"],  # at 0:01
    "Africa/Casablanca": ["2026-02-15", "2026-03-22"],  # for Ramadan
    "Africa/Cairo": ["2026-04-24", "2026-10-30"],
    "Asia/Beirut": ["2026-03-29", "2026-10-25"],
    "Europe/Dublin": ["2026-03-29", "2026-10-25"],  # the winter is the exception there
    "Atlantic/Azores": ["2026-03-29", "2026-10-25"],
    "America/New_York": ["2026-03-08", "2026-11-01"],
    "Asia/Kathmandu": ["2026-04-05"],  # 5:45, for ever
    "Asia/Pyongyang": ["2015-08-15", "2018-05-05"],  # half an hour back, and forward at 23:30
    "UTC": ["2026-04-05"],
}
minutes = st.sampled_from(["*", "*/15", "*/40", "0", "30", "15,45", "1", "10-20", "59"])
hours = st.sampled_from(["*", "*/2", "*/5", "0", "1", "2", "3", "1-3", "23,0", "2,12"])


def minute_by_minute(rule: crontab, start: datetime, number: int, zone: ZoneInfo, *, real: bool) -> list[datetime]:
    """What a person sees who looks at the clock on the wall each minute, until `number` due times or for three days."""
    moment = start
    highest = (start - timedelta(days=2)).astimezone(zone).replace(tzinfo=None)
    found: list[datetime] = []
    for minute in range(-2 * 24 * 60, 3 * 24 * 60):
        moment = start + timedelta(minutes=minute)
        shown = moment.astimezone(zone).replace(tzinfo=None)
        # Without a star, what was skipped counts when the clock has jumped over it, and nothing counts twice.
        new = [highest + timedelta(minutes=each + 1) for each in range((shown - highest) // timedelta(minutes=1))]
        seen = [shown] if real else new
        highest = max(highest, shown)
        if minute > 0 and any(matches(rule, each) for each in seen):
            found.append(moment)
    return found[:number]


def matches(rule: crontab, shown: datetime) -> bool:
    return shown.minute in rule.minute and shown.hour in rule.hour and shown.isoweekday() % 7 in rule.day_of_week


@given(
    st.sampled_from([(zone, day) for zone, days in CHANGES.items() for day in days]),
    minutes,
    hours,
    st.sampled_from(["*", "*", "sun", "fri,sat"]),
    st.integers(-36 * 60, 36 * 60),
)
@settings(max_examples=150, deadline=None)
def test_crontabs_are_those_of_a_person_who_watches_the_clock(
    change: tuple[str, str], minute: str, hour: str, weekday: str, begin: int
) -> None:
    zone = ZoneInfo(change[0])
    start = datetime.fromisoformat(change[1]).replace(tzinfo=UTC) + timedelta(minutes=begin)
    rule = crontab(minute, hour, day_of_week=weekday)
    real = minute.startswith("*") or hour.startswith("*")
    expected = minute_by_minute(rule, start, 12, zone, real=real)
    found: list[datetime] = []
    moment = start
    while len(found) < len(expected):
        due = rule.next_after(moment, zone)
        assert due is not None
        found.append(moment := due)
    assert found == expected
    if expected:
        assert list(rule.due_between(expected[0], expected[-1], zone)) == expected
        assert rule.latest(expected[0], expected[-1], zone) == expected[-1]


def test_the_half_hour_that_lord_howe_repeats_and_skips() -> None:
    """Half-hourly, and at 1:45: at 2:00 of summer it is 1:30 again, and in spring 2:00 becomes 2:30."""
    lord_howe = ZoneInfo("Australia/Lord_Howe")
    autumn, spring = (datetime(2026, month, day, 1, tzinfo=lord_howe) for month, day in ((4, 5), (10, 4)))
    assert shown(due_times(crontab("*/30"), autumn, 3)) == ["04-05 01:30+1100", "04-05 01:30+1030", "04-05 02:00+1030"]
    assert shown(due_times(crontab("*/30"), spring, 3)) == ["10-04 01:30+1030", "10-04 02:30+1100", "10-04 03:00+1100"]
    assert shown(due_times(crontab(45, 1), autumn, 2)) == ["04-05 01:45+1100", "04-06 01:45+1030"]
    assert shown(due_times(crontab(15, 2), spring, 2)) == ["10-04 02:30+1100", "10-05 02:15+1100"]


def test_the_two_hours_that_troll_repeats() -> None:
    """At 3:00 it is 1:00 again: of the first turn there may be more than an hour to come."""
    start = datetime(2026, 10, 25, 1, 45, tzinfo=ZoneInfo("Antarctica/Troll"))
    assert shown(due_times(crontab("*/30", 1), start, 3)) == [
        "10-25 01:00+0000",
        "10-25 01:30+0000",
        "10-26 01:00+0000",
    ]
    assert due_times(crontab(" */30", 1), start, 3) == due_times(crontab("*/30", 1), start, 3)


@pytest.mark.parametrize(("day_of_week", "year"), [("tue", 2124), ("sun", 2128), ("thu", 2120)])
def test_a_leap_day_on_a_day_of_the_week(day_of_week: str, year: int) -> None:
    """2100 has none: a Tuesday's comes again after 40 years."""
    due = crontab(0, 0, 29, 2, day_of_week).next_after(datetime(2088, 3, 1, tzinfo=UTC))
    assert due == datetime(year, 2, 29, tzinfo=UTC)


def test_the_odd_hour_of_chatham_comes_each_day() -> None:
    """On 2026-09-27 it is 3:45 after 2:44."""
    start = datetime(2026, 9, 26, tzinfo=ZoneInfo("Pacific/Chatham"))
    for minute, hour, at_change in ((0, 3, "03:45"), (44, 3, "03:45"), (44, 2, "02:44"), (45, 3, "03:45")):
        found = shown(due_times(crontab(minute, hour), start, 3))
        assert [each[:5] for each in found] == ["09-26", "09-27", "09-28"]
        assert found[1][6:11] == at_change


def test_a_day_that_samoa_skipped() -> None:
    start = datetime(2011, 12, 29, tzinfo=ZoneInfo("Pacific/Apia"))
    assert shown(due_times(crontab(0, 12), start, 3)) == ["12-29 12:00-1000", "12-31 00:00+1400", "12-31 12:00+1400"]


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


# -- the sun ------------------------------------------------------------------------------------


def test_solar_without_ephem_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ephem", None)
    with pytest.raises(ImproperlyConfigured, match=r"needs the package ephem: pip install 'dbqueue-sql\[solar\]'"):
        solar("sunset", -37.81753, 144.96715)


@pytest.mark.parametrize(("event", "lat", "lon"), [("teatime", 0, 0), ("sunset", 91, 0), ("sunset", 0, -181)])
def test_places_and_events_that_cannot_be(event: str, lat: float, lon: float) -> None:
    with pytest.raises(ValueError, match=r"solar event|latitude|longitude"):
        solar(event, lat, lon)


ZENITHS = {"sunrise": 90.833, "sunset": 90.833, "dusk_civil": 96.0, "dawn_nautical": 102.0, "dusk_astronomical": 108.0}


def almanac(event: str, lat: float, lon: float, day: datetime) -> datetime:
    """The event of this day by the formulas of NOAA's solar calculator, which are good to a minute or two."""
    year = 2 * math.pi / 365 * (day.timetuple().tm_yday - 1)
    wave = [(math.cos(n * year), math.sin(n * year)) for n in (1, 2, 3)]
    (c1, s1), (c2, s2), (c3, s3) = wave
    equation = 229.18 * (0.000075 + 0.001868 * c1 - 0.032077 * s1 - 0.014615 * c2 - 0.040849 * s2)
    tilt = 0.006918 - 0.399912 * c1 + 0.070257 * s1 - 0.006758 * c2 + 0.000907 * s2 - 0.002697 * c3 + 0.00148 * s3
    angle = 0.0
    if event != "solar_noon":
        phi = math.radians(lat)
        cosine = math.cos(math.radians(ZENITHS[event])) / (math.cos(phi) * math.cos(tilt))
        angle = math.degrees(math.acos(cosine - math.tan(phi) * math.tan(tilt)))
        angle = -angle if event in ("sunset", "dusk_civil", "dusk_astronomical") else angle
    return day + timedelta(minutes=720 - 4 * (lon + angle) - equation)


class TestSun:
    """With ephem."""

    @pytest.fixture(autouse=True)
    def _ephem(self) -> None:
        pytest.importorskip("ephem")

    @pytest.mark.parametrize("event", [*ZENITHS, "solar_noon"])
    @pytest.mark.parametrize(("lat", "lon"), [(59.9139, 10.7522), (-37.81753, 144.96715), (40.7, -74.0)])
    @pytest.mark.parametrize("day", [datetime(2026, 3, 9, tzinfo=UTC), datetime(2026, 10, 9, tzinfo=UTC)])
    def test_the_almanac(self, event: str, lat: float, lon: float, day: datetime) -> None:
        expected = almanac(event, lat, lon, day)
        due = solar(event, lat, lon).next_after(expected - timedelta(minutes=20))
        assert due is not None
        assert abs(due - expected) <= timedelta(minutes=4)

    def test_each_day_once(self) -> None:
        found = due_times(solar("sunset", -37.81753, 144.96715), datetime(2026, 1, 1, tzinfo=UTC), 365)
        assert {(b - a).total_seconds() // 3600 for a, b in pairwise(found)} == {23, 24}

    def test_a_polar_summer_has_no_sunset(self) -> None:
        due = solar("sunset", 78.2232, 15.6267).next_after(datetime(2026, 5, 1, tzinfo=UTC))
        assert due is not None
        assert due.month == 8
        noon = solar("solar_noon", 78.2232, 15.6267).next_after(datetime(2026, 12, 21, tzinfo=UTC))
        assert noon is not None
        assert noon.day in (21, 22)

    def test_text_and_repr(self) -> None:
        made = solar("sunset", -37.81753, 144.96715)
        assert repr(made) == "<solar: sunset at latitude -37.81753, longitude: 144.96715>"
        assert made.text == "solar sunset -37.81753 144.96715"
        assert from_text(made.text) == made
        assert made != solar("sunrise", -37.81753, 144.96715)


def test_a_day_that_never_comes_is_told() -> None:
    """Celery raises RuntimeError, too; an endless wait would overflow whatever it is added to."""
    now = datetime(2026, 6, 1, tzinfo=UTC)
    never = crontab(0, 0, 30, 2, nowfun=at(now))
    with pytest.raises(RuntimeError, match=r"<crontab: 0 0 30 2 \* \(m/h/dM/MY/d\)> is never due again"):
        never.remaining_estimate(now)
    with pytest.raises(RuntimeError, match="never due again"):
        never.is_due(now)
