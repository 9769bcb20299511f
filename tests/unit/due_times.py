"""The due times of a schedule, one after the other, in zones whose clocks change."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from dbqueue.schedules import BaseSchedule

OSLO, NEW_YORK = ZoneInfo("Europe/Oslo"), ZoneInfo("America/New_York")


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
