"""Times and pauses: what programs import of `celery.utils.time`. Durations are in seconds."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from dbqueue.limits import parse_rate
from dbqueue.retry import backoff_seconds

_UNITS: Final = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


def get_exponential_backoff_interval(factor: float, retries: int, maximum: float, full_jitter: bool = False) -> float:
    """The pause that `retry_backoff` makes before retry number `retries`, in whole seconds as Celery's is."""
    pause = backoff_seconds(retries, factor=factor, maximum=maximum, jitter=random.random if full_jitter else None)
    return int(pause)


def rate(text: str | float | None) -> float:
    """A rate limit, such as '10/m', in tasks a second; 0 is none."""
    found = parse_rate(text)
    return 0 if found is None else found.per_second


def is_naive(moment: datetime) -> bool:
    """Whether a time has no zone."""
    return moment.utcoffset() is None


def make_aware(moment: datetime, tz: tzinfo | str) -> datetime:
    """A naive time as one of the zone."""
    return moment.replace(tzinfo=ZoneInfo(tz) if isinstance(tz, str) else tz)


def maybe_make_aware(moment: datetime, tz: tzinfo | str | None = None, naive_as_utc: bool = True) -> datetime:
    """A time with a zone as it is; a naive one in UTC, and then in `tz`, or without `naive_as_utc` as one of `tz`."""
    zone = ZoneInfo(tz) if isinstance(tz, str) else tz
    if not is_naive(moment):
        return moment
    if zone is not None and not naive_as_utc:
        return make_aware(moment, zone)
    return localize(make_aware(moment, UTC), zone or UTC)


def localize(moment: datetime, tz: tzinfo | str) -> datetime:
    """The same moment in another zone."""
    return moment.astimezone(ZoneInfo(tz) if isinstance(tz, str) else tz)


def to_utc(moment: datetime) -> datetime:
    """A naive time as one of UTC."""
    return make_aware(moment, UTC)


def maybe_timedelta(delta: float | timedelta | None) -> timedelta | None:
    """Seconds as a timedelta; anything else as it is."""
    return timedelta(seconds=delta) if isinstance(delta, (int, float)) else delta


def maybe_iso8601(moment: datetime | str | None) -> datetime | None:
    """A time that is text (ISO 8601) as a datetime; anything else as it is."""
    return datetime.fromisoformat(moment) if isinstance(moment, str) else moment


def humanize_seconds(
    seconds: float, prefix: str = "", sep: str = "", now: str = "now", microseconds: bool = False
) -> str:
    """A duration in words: `3.00 minutes`; `now` where there is none left."""
    for unit, length in _UNITS:
        if seconds >= length:
            number = seconds / length
            return f"{prefix}{sep}{number:.2f} {unit}{'s' if number > 1 else ''}"
    if microseconds and seconds > 0:
        return f"{prefix}{sep}{seconds:.2f} seconds"
    return now
