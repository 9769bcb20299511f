"""Schedules: what their arguments and their texts mean, which are refused, and which are the same."""

from __future__ import annotations

import pickle
import threading
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbqueue.schedules import ParseException, crontab, crontab_parser, from_text, maybe_schedule, schedule

EVERY_DAY = frozenset(range(7))


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
