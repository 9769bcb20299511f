"""When a clock on the wall shows given times, through changes of the clocks of any zone.

A time that is shown has its place on the real clock. One that is skipped in spring has none, and one that comes twice
in autumn has two. Nothing is assumed of a change but that two of them are a day apart: Lord Howe's clocks change by
half an hour, Chatham's at 2:45, some at midnight, and Samoa has skipped a whole day.
"""

from __future__ import annotations

import calendar
import heapq
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, date, datetime, timedelta, tzinfo
from typing import Final

YEARS_AHEAD: Final = 41
"""A 29th of February falls on a given day of the week after 40 years at the latest."""
_LONGEST_REPEAT: Final = timedelta(hours=26)
_SECOND: Final = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class WallTimes:
    """Minutes of the calendar, as the five fields of a crontab mean them; a day must match all of its fields."""

    minutes: Collection[int]
    hours: Collection[int]
    days: Collection[int]
    months: Collection[int]
    weekdays: Collection[int]
    """0 is Sunday."""

    def after(self, moment: datetime, zone: tzinfo, *, real: bool) -> Iterator[datetime]:
        """The times after `moment` at which the zone's clock shows one of these, in UTC and in order.

        With `real` the clock is followed as it goes: a time that is skipped does not come, and one that is repeated
        comes twice. Otherwise each comes once: at the end of the gap, or at the first of the two.
        """
        latest = moment.astimezone(UTC)
        # In a stretch that is shown twice, times of its first turn that have passed come once more in the second.
        start = moment.astimezone(zone)
        repeated = _offset(latest, zone) - _offset(latest + _LONGEST_REPEAT, zone)
        for due in _instants(self._from(start.replace(tzinfo=None) - max(repeated, timedelta(0))), zone, real=real):
            if due > latest:
                latest = due
                yield due

    def _from(self, start: datetime) -> Iterator[datetime]:
        """The times from the minute of `start` on, as the wall shows them."""
        start = start.replace(second=0, microsecond=0)
        hours, minutes = sorted(self.hours), sorted(self.minutes)
        for day in self._days(start.date()):
            first_day = day == start.date()
            for hour in hours:
                if first_day and hour < start.hour:
                    continue
                for minute in minutes:
                    shown = datetime(day.year, day.month, day.day, hour, minute)  # noqa: DTZ001 - no zone's yet
                    if shown >= start:
                        yield shown

    def _days(self, start: date) -> Iterator[date]:
        days, months = sorted(self.days), sorted(self.months)
        for year in range(start.year, min(start.year + YEARS_AHEAD, MAXYEAR) + 1):
            for month in months:
                if (year, month) < (start.year, start.month):
                    continue
                _, length = calendar.monthrange(year, month)
                for number in days:
                    if number <= length:
                        day = date(year, month, number)
                        if day >= start and day.isoweekday() % 7 in self.weekdays:
                            yield day


def _instants(shown: Iterable[datetime], zone: tzinfo, *, real: bool) -> Iterator[datetime]:
    """When the zone's clock shows these times, which are in order; so are what comes of them."""
    again: list[datetime] = []
    """The second turns, which come after times that the wall shows later."""
    for time in shown:
        # PEP 495: of a repeated time the two folds are its turns, and of a skipped one the second is the earlier.
        first, second = (time.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        while again and again[0] <= first:
            yield heapq.heappop(again)
        if second >= first:
            yield first
        elif not real:
            yield _end_of_gap(second, first, zone)
        if real and second > first:
            heapq.heappush(again, second)
    yield from sorted(again)


def _end_of_gap(before: datetime, after: datetime, zone: tzinfo) -> datetime:
    """The first second after a change of the clocks that lies between the two."""
    offset = _offset(before, zone)
    while after - before > _SECOND:
        middle = before + (after - before) // _SECOND // 2 * _SECOND
        if _offset(middle, zone) == offset:
            before = middle
        else:
            after = middle
    return after


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta(0)
