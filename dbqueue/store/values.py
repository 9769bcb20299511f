"""Values of rows as their columns declare them, whatever a row holds: who reads one is not to fail of it.

PostgreSQL's times may be infinite, before the first year and long after the last one of Python's calendar: they are
read as the calendar's ends. SQLite keeps anything in any column.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from dbqueue.store.engine import readable

# A day from the ends of what a datetime can hold: there it can be shown in any time zone.
FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
LAST: Final = datetime(9999, 12, 30, tzinfo=UTC)


def moment(value: Any) -> datetime:
    """A time as the driver gives it, aware and in UTC: a datetime, or SQLite's text. Never raises.

    Text that is no time is the first moment or the last, as the database has it before or after now.
    """
    try:
        read = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        # Bytes sort behind all text.
        return FIRST if isinstance(value, str) and value < f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}" else LAST
    try:
        read = read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)
    except OverflowError:  # by its time zone, at one of the ends
        return FIRST if read.year == 1 else LAST
    return min(max(read, FIRST), LAST)


def moment_or_none(value: Any) -> datetime | None:
    """As `moment`; of NULL, None."""
    return None if value is None else moment(value)


def text_or_none(value: Any) -> str | None:
    """Text as it is; anything else as its text. Never raises."""
    if value is None or isinstance(value, str):
        return value
    return readable(value) if isinstance(value, bytes) else str(value)


def whole_number(value: Any) -> int:
    """A whole number as it is; 0 in the place of anything else."""
    return value if isinstance(value, int) else 0


def sqlite_time(value: datetime | None) -> str | None:
    """An aware datetime in the form of SQLite's tables, rounded up to the millisecond (never earlier)."""
    if value is None:
        return None
    utc = value.astimezone(UTC).replace(tzinfo=None)
    utc += min(timedelta(microseconds=-utc.microsecond % 1000), datetime.max - utc)  # noqa: DTZ901 - without one, as what it is taken from
    return utc.isoformat(" ", "milliseconds")
