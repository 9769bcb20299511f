"""What beat does with one row of the table of schedules: plan it, fire it, or say what is wrong with it.

    step(row, now)          from the row and the database's time to a Step, or None: nothing to do

A due time that passed long ago was *missed* (no beat ran, or the database was away), and the row's
`misfire` says what becomes of it:

    skip   nothing, unless it is less than SKIP_GRACE_SECONDS ago; later due times go on as planned
    once   one job, for the latest of those that were missed (the default)
    all    a job for each of them, in order

A job is a workflow, where the row's call is one.

Where the database's clock was put back, due times that have fired come again. They fire once: a crontab waits until the
clock has caught up. An interval, whose due times are counted and not read from a clock, goes on from now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from typing import Final
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

from dbqueue.codec.cautious import text_of, type_name
from dbqueue.errors import ImproperlyConfigured
from dbqueue.jobs import NewJob
from dbqueue.schedules import BaseSchedule, crontab, from_text, schedule
from dbqueue.store.schedules import ScheduleRow, Step
from dbqueue.workflows import Workflow

SKIP_GRACE_SECONDS: Final = 60.0
"""How late a firing may be that the policy `skip` still lets go: a beat's restart is no downtime."""
PUT_BACK_SECONDS: Final = 60.0
"""How far before the last due time the clock must be to have been put back: beats read it a moment apart. A smaller
change is waited out."""
MAX_JOBS: Final = 1000
"""About the most jobs of one step, though a workflow is whole; the policy `all` goes on in the next."""

_IDS: Final = UUID("6b1c7c0e-5d0f-4f3b-9a37-1f4b3a1f6c55")
"""The namespace of the ids of scheduled jobs (RFC 9562, version 5)."""

MakeJob = Callable[[ScheduleRow, datetime, str], NewJob | Workflow]
"""From a row, its due time and the job's id to the job, or to a workflow whose first job has that id; what it raises
is the row's problem."""


@dataclass(frozen=True, slots=True)
class Steps:
    """`zone` is for rows that name none; `deadline_seconds` is how late a crontab may fire, None is for ever."""

    make_job: MakeJob
    zone: str = "UTC"
    deadline_seconds: float | None = None

    def step(self, row: ScheduleRow, now: datetime) -> Step | None:
        """What to do with the row at this time."""
        if not wanted(row, now):
            return None
        if not row.enabled:
            return Step(None, None)
        try:
            rule, zone = from_text(row.schedule), named_zone(row.timezone or self.zone)
            if row.next_due_at is None or row.planned_from != origin(row):
                return _plan(row, rule, zone, now)
            if earlier := resumed(row, now):
                return Step(earlier, origin(row))
            return self._fire(row, row.next_due_at, rule, zone, now)
        except (ValueError, OverflowError, ImproperlyConfigured) as error:
            return Step(None, origin(row), problem=str(error))

    def _fire(self, row: ScheduleRow, first: datetime, rule: BaseSchedule, zone: tzinfo, now: datetime) -> Step:
        fired = list(islice(_missed(row, first, rule, zone, now), MAX_JOBS))
        until = fired[-1] if fired else rule.latest(first, now, zone)
        if self.deadline_seconds is not None and isinstance(rule, crontab):
            earliest = now - timedelta(seconds=self.deadline_seconds)
            fired = [due for due in fired if due >= earliest]
        try:
            jobs = self._jobs(row, fired)
        except Exception as error:  # noqa: BLE001 - a row may hold anything; it must not keep others from firing
            said = f"{type_name(type(error))}: {text_of(error)}"
            return Step(rule.next_after(until, zone), origin(row), problem=said)
        if len(jobs) < len(fired):
            fired = fired[: len(jobs)]
            until = fired[-1]
        following = rule.next_after(until, zone)
        problem = None if following else f"{row.schedule!r} is never due again"
        return Step(following, origin(row), problem, jobs, last_due_at=fired[-1] if fired else None)

    def _jobs(self, row: ScheduleRow, fired: Sequence[datetime]) -> list[NewJob | Workflow]:
        """One for each of these due times, or for the first of them: as many as come to `MAX_JOBS`."""
        jobs: list[NewJob | Workflow] = []
        size = 0
        for due in fired:
            made = self.make_job(row, due, job_id(row.name, due))
            jobs.append(made)
            size += len(made.jobs) if isinstance(made, Workflow) else 1
            if size >= MAX_JOBS:
                break
        return jobs


def wanted(row: ScheduleRow, now: datetime) -> bool:
    """Whether there is anything to do with the row: to be asked before it is locked."""
    if not row.enabled:
        return row.next_due_at is not None  # forgotten, so that a row which is enabled again is planned anew
    if row.planned_from != origin(row):
        return True
    if row.next_due_at is None:
        return row.problem is None
    return row.next_due_at <= now or resumed(row, now) is not None


def resumed(row: ScheduleRow, now: datetime) -> datetime | None:
    """The next due time of an interval that would wait for the clock, which was put back, to catch up; else None."""
    if row.next_due_at is None or not _was_put_back(row, now):
        return None
    try:
        due = _counted(from_text(row.schedule), now)
    except (ValueError, OverflowError, ImproperlyConfigured):
        return None  # the row's step says so, when it is due
    return due if due is not None and due < row.next_due_at else None


def _was_put_back(row: ScheduleRow, now: datetime) -> bool:
    """Whether the clock says that what was fired last is to come yet."""
    return row.last_due_at is not None and (row.last_due_at - now).total_seconds() > PUT_BACK_SECONDS


def _counted(rule: BaseSchedule, now: datetime) -> datetime | None:
    """An interval from now; None for what is due at times of a clock."""
    return rule.next_after(now) if isinstance(rule, schedule) and not rule.relative else None


def origin(row: ScheduleRow) -> str:
    """What the row's next due time is reckoned from."""
    return json.dumps([row.schedule, row.timezone], ensure_ascii=False)


def job_id(name: str, due: datetime) -> str:
    """The id of the job of an entry's due time: the same whoever makes it."""
    return str(uuid5(_IDS, f"{name}\n{due.astimezone(UTC).isoformat()}"))


def _plan(row: ScheduleRow, rule: BaseSchedule, zone: tzinfo, now: datetime) -> Step:
    due = rule.next_after(row.last_due_at or now, zone)
    if due is not None and due <= now:
        due = rule.next_after(now, zone)
    return Step(due, origin(row), problem=None if due else f"{row.schedule!r} is never due")


def _missed(row: ScheduleRow, first: datetime, rule: BaseSchedule, zone: tzinfo, now: datetime) -> Iterator[datetime]:
    """The due times for which there is to be a job."""
    if row.misfire == "all":
        yield from rule.due_between(first, now, zone)
        return
    latest = rule.latest(first, now, zone)
    if row.misfire != "skip" or now - latest <= timedelta(seconds=SKIP_GRACE_SECONDS):
        yield latest


def named_zone(name: str) -> tzinfo:
    """The time zone of this name. Raises ValueError where there is none."""
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: the name is a folder's
        raise ValueError(f"there is no time zone {name!r}") from None
