"""Crontabs right through changes of the clocks: which times come once, twice or later, in all kinds of zones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbqueue.schedules import crontab
from tests.unit.due_times import NEW_YORK, OSLO, due_times, shown

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
