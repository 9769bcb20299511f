"""Periods of partitions, and their bounds among the ids."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from dbqueue.jobs import new_job_id
from dbqueue.store.postgres.partitions.catalog import Leaf
from dbqueue.store.postgres.partitions.making import Missing, missing
from dbqueue.store.postgres.partitions.periods import SIZES, Period, Size, after, first_id, size_of, time_of


def day(month: int, day: int) -> datetime:
    return datetime(2026, month, day, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "moment", "start", "end", "table"),
    [
        ("day", day(11, 26), day(11, 26), day(11, 27), "dbqueue_jobs_day_20261126"),
        ("week", day(11, 29), day(11, 23), day(11, 30), "dbqueue_jobs_week_20261123"),
        ("month", day(2, 28), day(2, 1), day(3, 1), "dbqueue_jobs_month_20260201"),
        ("month", day(12, 31), day(12, 1), datetime(2027, 1, 1, tzinfo=UTC), "dbqueue_jobs_month_20261201"),
    ],
)
def test_periods(size: Size, moment: datetime, start: datetime, end: datetime, table: str) -> None:
    period = Period.of(size, moment + timedelta(hours=23, minutes=59))
    assert period == Period(size, start, end)
    assert period.table == table
    assert size_of(table) == size
    assert period.following.start == end


def test_a_period_is_in_utc() -> None:
    assert Period.of("day", datetime(2026, 11, 27, 1, tzinfo=timezone(timedelta(hours=3)))).start == day(11, 26)


@pytest.mark.parametrize("end", ["", "_before", "_default", "_day_1", "_day_20261126_archive", "_day_202611260"])
def test_names_that_are_no_period_s(end: str) -> None:
    """Nor one that only begins like it: an operator has made it, and dbqueue would drop it."""
    name = f"dbqueue_jobs{end}"
    assert size_of(name) is None


def test_bounds_sort_among_ids() -> None:
    before = datetime.now(UTC)
    ids = [new_job_id() for _ in range(1000)]
    later = datetime.now(UTC) + timedelta(milliseconds=1)
    assert first_id(before) <= ids[0]
    assert ids[-1] < first_id(later + timedelta(seconds=1))
    found = time_of(ids[0])
    assert found is not None
    assert abs(found - before) < timedelta(seconds=5)
    free = after(ids[-1])
    assert free is not None
    assert ids[-1] < first_id(free)


def test_a_bound_is_read_as_it_was_written() -> None:
    moment = day(11, 26)
    assert time_of(first_id(moment)) == moment


@pytest.mark.parametrize("job_id", ["", "order-17", "019ABCDE-1234", "12345", "ffffffff-ffff-7000"])
def test_ids_that_tell_of_no_time(job_id: str) -> None:
    assert time_of(job_id) is None


def leaf(start: datetime | None, end: datetime | None) -> Leaf:
    return Leaf("", "", start, end, is_default=end is None)


@pytest.mark.parametrize("size", SIZES)
def test_three_periods_are_needed(size: Size) -> None:
    lacking = missing([leaf(None, None)], size, day(11, 26))
    assert [each.period.start for each in lacking] == [each.start for each in lacking]
    assert len(lacking) == 3
    assert lacking[0].period.end == lacking[1].period.start


def test_what_another_partition_has_is_not_made_again() -> None:
    found = [leaf(None, day(11, 26) + timedelta(hours=7)), leaf(day(11, 27), day(11, 28)), leaf(None, None)]
    today, after_tomorrow = Period.of("day", day(11, 26)), Period.of("day", day(11, 28))
    assert missing(found, "day", day(11, 26) + timedelta(hours=8)) == [
        Missing(today, day(11, 26) + timedelta(hours=7)),
        Missing(after_tomorrow, day(11, 28)),
    ]


def test_a_change_of_size_begins_where_the_former_ends() -> None:
    found = [leaf(day(11, 1), day(12, 1)), leaf(day(12, 1), datetime(2027, 1, 1, tzinfo=UTC)), leaf(None, None)]
    assert missing(found, "week", day(11, 26)) == []
    (first,) = missing(found, "week", day(11, 26), one_at_least=True)
    assert first == Missing(Period.of("week", day(12, 31)), datetime(2027, 1, 1, tzinfo=UTC))
