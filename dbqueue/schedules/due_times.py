"""What every kind of schedule can do: say when it is due next, and write itself as text.

A due time is a point in time, always given in UTC; the zone that is asked with decides only how a
schedule reads the clock on the wall. Nothing here looks at the clock of this machine, except the
two methods that Celery has (`is_due`, `remaining_estimate`): the database's clock decides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final, NamedTuple

_WINDOWS: Final = tuple(timedelta(hours=hours) for hours in (1, 24, 32 * 24, 366 * 24))
"""How far to look back for the latest due time, the shortest first: each holds few if the one before is empty."""
_UNITS: Final = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


class schedstate(NamedTuple):  # noqa: N801 - Celery's name
    """Celery's answer of `is_due`: whether to run now, and in how many seconds to ask again."""

    is_due: bool
    next: float


class BaseSchedule(ABC):
    """A rule that says when something is due.

    `nowfun` gives the time for `is_due` and `remaining_estimate`; `app` gives their zone, its
    setting `timezone`, UTC without one. Schedules with the same text are equal.
    """

    def __init__(self, *, nowfun: Callable[[], datetime] | None = None, app: Any = None) -> None:
        self.nowfun, self.app = nowfun, app

    def __getstate__(self) -> dict[str, Any]:
        """Pickled without its application, which is of this process."""
        return {**self.__dict__, "app": None}

    @property
    @abstractmethod
    def text(self) -> str:
        """The schedule in one line, as the table keeps it; `dbqueue.schedules.from_text` reads it."""

    @abstractmethod
    def next_after(self, moment: datetime, zone: tzinfo = UTC) -> datetime | None:
        """The first due time after `moment` (aware), in UTC; None if there is none any more."""

    def due_between(self, first: datetime, last: datetime, zone: tzinfo = UTC) -> Iterator[datetime]:
        """The due time `first`, and all that follow it up to `last`."""
        due: datetime | None = first
        while due is not None and due <= last:
            yield due
            due = self.next_after(due, zone)

    def latest(self, first: datetime, moment: datetime, zone: tzinfo = UTC) -> datetime:
        """The last due time that is not after `moment`, given that `first` is one.

        It takes about as long after years of downtime as after an hour.
        """
        near = first
        for window in _WINDOWS:
            start = moment - window
            if start <= first:
                break
            due = self.next_after(start, zone)
            if due is not None and due <= moment:
                near = due
                break
        return max(self.due_between(near, moment, zone), default=first)

    # Celery's questions

    @property
    def tz(self) -> tzinfo:
        zone: tzinfo = getattr(self.app, "timezone", None) or UTC
        return zone

    def now(self) -> datetime:
        """The time now, in the application's zone."""
        return self._aware(self.nowfun()) if self.nowfun else datetime.now(self.tz)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        """How long until it is due again after a run at `last_run_at`; negative when it is overdue.

        Raises RuntimeError, as Celery does, for a schedule that is never due again.
        """
        due = self.next_after(self._aware(last_run_at), self.tz)
        if due is None:
            raise RuntimeError(f"{self!r} is never due again: is there such a day in such a month?")
        return due - self.now()

    def is_due(self, last_run_at: datetime) -> schedstate:
        """Whether it is due, given its last run, and the seconds until it is due next."""
        left = self.remaining_estimate(last_run_at).total_seconds()
        if left > 0:
            return schedstate(is_due=False, next=left)
        return schedstate(is_due=True, next=max(0.0, self.remaining_estimate(self.now()).total_seconds()))

    def _aware(self, moment: datetime) -> datetime:
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=self.tz)

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, BaseSchedule) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)


def human_seconds(seconds: float) -> str:
    """A length of time in its largest unit, in Celery's form: `30.00 seconds`, `1.50 hours`, `1.00 day`."""
    size, unit = next((each for each in _UNITS if seconds >= each[0]), _UNITS[-1])
    amount = f"{seconds / size:.2f}"
    return f"{amount} {unit}" if amount == "1.00" else f"{amount} {unit}s"
