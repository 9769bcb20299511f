"""Schedules, under Celery's names: `schedule` (every so often), `crontab`, `solar`.

    from dbqueue.schedules import crontab

    app.conf.beat_schedule = {
        "report": {"task": "shop.report", "schedule": crontab(hour=7, minute=30, day_of_week="mon-fri")},
    }

Each has a text, which is what the table of schedules holds and what a person may write there:

    every 30 seconds        `schedule(30)`; also `every 5 minutes`, `every 1 hour relative`
    30 7 * * mon-fri        `crontab`: minute, hour, day of month, month, day of week; or `@daily`
    solar sunset -37.8 145  `solar`

Changes of the clocks: a crontab that names its hours and minutes is due once a day on both days of
the change, at the end of the gap in spring and at the first of the two hours in autumn. One whose
hour or minute begins with a star follows real time, as cron's do: it is not due in the gap, and
twice in the repeated hour. An interval is real time always.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import takewhile
from typing import Any, Final

from dbqueue.schedules import cron_fields as fields
from dbqueue.schedules.cron_fields import FieldSpec, ParseException
from dbqueue.schedules.due_times import BaseSchedule, human_seconds, schedstate
from dbqueue.schedules.solar import solar
from dbqueue.schedules.wall_clock import WallTimes

__all__ = [
    "BaseSchedule",
    "ParseException",
    "crontab",
    "crontab_parser",
    "from_text",
    "maybe_schedule",
    "schedstate",
    "schedule",
    "solar",
]

SHORTHANDS: Final[Mapping[str, str]] = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""cron's words for common schedules."""

_UNITS: Final = {
    **dict.fromkeys(("s", "sec", "second"), 1),
    **dict.fromkeys(("m", "min", "minute"), 60),
    **dict.fromkeys(("h", "hour"), 3_600),
    **dict.fromkeys(("d", "day"), 86_400),
    **dict.fromkeys(("w", "week"), 604_800),
}
_EVERY: Final = re.compile(
    r"every\s+(?P<number>\d+(?:\.\d+)?)?\s*(?P<unit>[a-z]+)(?P<relative>\s+relative)?", re.IGNORECASE
)
_NUMBER: Final = re.compile(r"\d+(\.\d+)?")
_DAY, _HOUR, _MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
_SHORTEST: Final = timedelta(milliseconds=1)
"""SQLite's clock has milliseconds."""


class schedule(BaseSchedule):  # noqa: N801 - Celery's name
    """Due every `run_every` (seconds or a timedelta), counted from the last due time.

    With `relative` due times are rounded down to the day, hour, minute or second, whichever the
    interval is made of: every 2 hours is then at full hours. Raises ValueError for less than a
    millisecond.
    """

    def __init__(
        self,
        run_every: Any = None,
        relative: bool = False,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        super().__init__(nowfun=nowfun, app=app)
        if isinstance(run_every, bool) or not isinstance(run_every, int | float | timedelta):
            raise TypeError(f"an interval is a number of seconds or a timedelta, not {run_every!r}")
        self.run_every = run_every if isinstance(run_every, timedelta) else timedelta(seconds=run_every)
        if self.run_every < _SHORTEST:
            raise ValueError(f"an interval is at least a millisecond, not {run_every!r}")
        self.relative = bool(relative)

    @property
    def seconds(self) -> float:
        return self.run_every.total_seconds()

    @property
    def human_seconds(self) -> str:
        return human_seconds(self.seconds)

    @property
    def text(self) -> str:
        unit = "second" if self.seconds == 1 else "seconds"
        return f"every {self.seconds:.15g} {unit}" + (" relative" if self.relative else "")

    def next_after(self, moment: datetime, zone: tzinfo = UTC) -> datetime:
        due = moment.astimezone(UTC) + self.run_every
        if not self.relative:
            return due
        # Days are those of the wall: one of 23 or 25 hours also ends at midnight. Hours are real ones.
        days = _unit(self.run_every) == _DAY
        local = moment.astimezone(zone) + self.run_every if days else due.astimezone(zone)
        local = _floor(local, self.run_every).astimezone(UTC)
        # Rounding may not lead back to the moment itself: 1.5 s after 10:00:00.2 is 10:00:01, which is later.
        return local if local > moment else due

    def latest(self, first: datetime, moment: datetime, zone: tzinfo = UTC) -> datetime:
        # Counted from `first`: every 2 hours relative stays at even hours.
        if not self.relative:
            return first + max(0, (moment - first) // self.run_every) * self.run_every
        unit = _unit(self.run_every)
        step = self.run_every // unit * unit or self.run_every  # what rounding leaves of it
        passed = max(0, (moment - first) // step - 2) * step
        near = (first.astimezone(zone) + passed).astimezone(UTC) if unit == _DAY else first + passed
        return max(self.due_between(near, moment, zone), default=first)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, timedelta | int | float):
            return self.run_every == (other if isinstance(other, timedelta) else timedelta(seconds=other))
        return super().__eq__(other)

    __hash__ = BaseSchedule.__hash__

    def __repr__(self) -> str:
        return f"<freq: {self.human_seconds}>"


class crontab(BaseSchedule):  # noqa: N801 - Celery's name
    """Due when the clock on the wall, in the application's zone, matches all five fields.

    A field is a number, a text (`*/15`, `0,8-17/2`, `mon-fri`, `jan`), or a collection of numbers.
    As in Celery, and unlike cron, a day must match both `day_of_month` and `day_of_week`. The
    attributes of the same names are the numbers that each field means. Raises ValueError (or its
    subclass ParseException) for a field that cannot be, TypeError for one of another type.
    """

    def __init__(
        self,
        minute: FieldSpec = "*",
        hour: FieldSpec = "*",
        day_of_month: FieldSpec = "*",
        month_of_year: FieldSpec = "*",
        day_of_week: FieldSpec = "*",
        *,
        nowfun: Callable[[], datetime] | None = None,
        app: Any = None,
    ) -> None:
        super().__init__(nowfun=nowfun, app=app)
        self.minute = fields.MINUTE.expand(minute)
        self.hour = fields.HOUR.expand(hour)
        self.day_of_month = fields.DAY_OF_MONTH.expand(day_of_month)
        self.month_of_year = fields.MONTH_OF_YEAR.expand(month_of_year)
        self.day_of_week = fields.DAY_OF_WEEK.expand(day_of_week)
        self._given = (minute, hour, day_of_month, month_of_year, day_of_week)
        kinds = (fields.MINUTE, fields.HOUR, fields.DAY_OF_MONTH, fields.MONTH_OF_YEAR, fields.DAY_OF_WEEK)
        pairs = tuple(zip(kinds, self._given, strict=True))
        self._text = " ".join(kind.text(spec) for kind, spec in pairs)
        self._times = WallTimes(self.minute, self.hour, self.day_of_month, self.month_of_year, self.day_of_week)
        self._real = any(isinstance(spec, str) and spec.lstrip().startswith("*") for spec in (minute, hour))
        """Whether it follows real time through a change of the clocks: a star says so, as to cron."""

    @classmethod
    def from_string(cls, crontab: str) -> crontab:
        """Read cron text: five fields, or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.

        Raises ParseException for another number of fields (for seconds, give an interval).
        """
        text = crontab.strip()
        parts = SHORTHANDS.get(text.lower(), text).split()
        if len(parts) != 5:
            raise ParseException(
                f"cron text has five fields (minute, hour, day of month, month, day of week) or is one of "
                f"{', '.join(SHORTHANDS)}: {crontab!r} was found"
            )
        return cls(*parts)

    @property
    def text(self) -> str:
        return self._text

    def next_after(self, moment: datetime, zone: tzinfo = UTC) -> datetime | None:
        return next(self._times.after(moment, zone, real=self._real), None)  # None: the 30th of February

    def due_between(self, first: datetime, last: datetime, zone: tzinfo = UTC) -> Iterator[datetime]:
        if first <= last:
            yield first
            yield from takewhile(lambda due: due <= last, self._times.after(first, zone, real=self._real))

    def __eq__(self, other: object) -> bool:
        return self._numbers() == other._numbers() if isinstance(other, crontab) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._numbers())

    def _numbers(self) -> tuple[frozenset[int], ...]:
        return self.minute, self.hour, self.day_of_month, self.month_of_year, self.day_of_week

    def __repr__(self) -> str:
        return f"<crontab: {' '.join(map(str, self._given))} (m/h/dM/MY/d)>"


class crontab_parser:  # noqa: N801 - Celery's name
    """Reads one field of `max_` numbers that begin with `min_`: `crontab_parser(24).parse("*/6")`."""

    ParseException = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self._field = fields.Field("a field", min_, min_ + max_ - 1, fields.DAY_OF_WEEK.words)

    def parse(self, spec: str) -> set[int]:
        return set(self._field.expand(spec))


def maybe_schedule(s: Any, relative: bool = False, app: Any = None) -> Any:
    """A schedule of what stands for one: a number of seconds, a timedelta, a text; others are returned as they are."""
    if isinstance(s, str):
        s = from_text(s)
    elif isinstance(s, int | float | timedelta) and not isinstance(s, bool):
        return schedule(s, relative, app=app)
    if app is not None and isinstance(s, BaseSchedule):
        s.app = app
    return s


def from_text(text: str) -> BaseSchedule:
    """The schedule of a text as the table holds it, see the module. Raises ParseException."""
    words = text.split()
    first = words[0].lower() if words else ""
    try:
        if first == "every":
            return _interval(text.strip())
        if first == "solar":
            _, event, latitude, longitude = words
            return solar(event, float(latitude), float(longitude))
        if len(words) == 1 and _NUMBER.fullmatch(first):
            return schedule(float(first))
    except ParseException:
        raise
    except (ValueError, OverflowError) as error:
        raise ParseException(f"{text!r} is no schedule: {error}") from None
    return crontab.from_string(text)


def _interval(text: str) -> schedule:
    match = _EVERY.fullmatch(text)
    unit = match["unit"].lower() if match else ""
    size = _UNITS.get(unit) or _UNITS.get(unit.removesuffix("s"))
    if match is None or size is None:
        raise ParseException(f"an interval reads like 'every 30 seconds' or 'every 2 hours relative', not {text!r}")
    return schedule(float(match["number"] or 1) * size, relative=match["relative"] is not None)


def _unit(interval: timedelta) -> timedelta:
    """The largest unit that the interval holds: a day, an hour, a minute or a second."""
    return next((unit for unit in (_DAY, _HOUR, _MINUTE) if interval >= unit), timedelta(seconds=1))


def _floor(moment: datetime, interval: timedelta) -> datetime:
    """The moment without what is smaller than the interval's largest unit."""
    unit = _unit(interval)
    if unit == _DAY:
        return moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if unit == _HOUR:
        return moment.replace(minute=0, second=0, microsecond=0)
    return moment.replace(second=0, microsecond=0) if unit == _MINUTE else moment.replace(microsecond=0)
