"""Days, weeks and months in UTC, and where each begins among the ids."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, cast, get_args

from dbqueue.store.tables import PREFIX

Size = Literal["day", "week", "month"]
SIZES: Final[tuple[Size, ...]] = get_args(Size)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_TIMED_ID: Final = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})(-|$)")
_NAME: Final = re.compile(rf"{PREFIX}jobs_({'|'.join(SIZES)})_\d{{8}}")


@dataclass(frozen=True, slots=True)
class Period:
    size: Size
    start: datetime
    end: datetime
    """Exclusive."""

    @classmethod
    def of(cls, size: Size, moment: datetime) -> Period:
        """The one that the moment is in. Weeks begin on Mondays."""
        day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if size == "day":
            return cls(size, day, day + timedelta(days=1))
        if size == "week":
            start = day - timedelta(days=day.weekday())
            return cls(size, start, start + timedelta(days=7))
        start = day.replace(day=1)
        return cls(size, start, (start + timedelta(days=31)).replace(day=1))

    @property
    def following(self) -> Period:
        return Period.of(self.size, self.end)

    @property
    def table(self) -> str:
        """The name of its partition, which tells its size."""
        return f"{PREFIX}jobs_{self.size}_{self.start:%Y%m%d}"


def size_of(table: str) -> Size | None:
    """The size of the period whose partition has this name."""
    match = _NAME.fullmatch(table)
    return None if match is None else cast(Size, match[1])


def first_id(moment: datetime) -> str:
    """No id that is made from then on sorts before it, and none that was made earlier after it."""
    milliseconds = (moment - _EPOCH) // _MILLISECOND
    return f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}"


def time_of(job_id: str) -> datetime | None:
    """When the id was made, in milliseconds; None where its form tells of no time that there can be."""
    match = _TIMED_ID.match(job_id)
    if match is None:
        return None
    try:
        return _EPOCH + int(match[1] + match[2], 16) * _MILLISECOND
    except OverflowError:
        return None


def after(job_id: str) -> datetime | None:
    """The first moment whose ids all sort after this one."""
    moment = time_of(job_id)
    return None if moment is None else moment + _MILLISECOND
