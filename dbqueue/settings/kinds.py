"""What a setting may be set to: one `Kind` for each sort of value, which checks it and gives it its one form.

A check takes what code sets and what an environment variable holds, so that `conf.enable_utc = os.environ["X"]` with
"false" is false. It returns the value in the form that the engine reads (seconds as a number, names as a list), or
raises ValueError with what is wanted, which the caller completes with the setting's name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

from dbqueue import codec
from dbqueue.errors import ImproperlyConfigured
from dbqueue.urls import normalise_url

_TRUE: Final = frozenset({"true", "yes", "on", "1", "t", "y"})
_FALSE: Final = frozenset({"false", "no", "off", "0", "f", "n"})
_MAX_IDENTIFIER_BYTES: Final = 63
"""PostgreSQL's NAMEDATALEN less one: a longer name would be cut in silence."""
MIN_KEY_BYTES: Final = 16
"""Shortest key that signs jobs; `openssl rand -base64 32` makes a good one."""
MAX_CONCURRENCY: Final = 10_000
"""Of one worker. More is no choice but a slip, which would take the machine's memory before anybody could mend it."""
MAX_SECONDS: Final = 100 * 365 * 86400
"""A hundred years. The databases' calendars have ends, and a time that is reckoned beyond them is an error."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of value: `description` reads after "must be" in errors and stands in the documentation."""

    description: str
    check: Callable[[Any], Any]
    parse: Callable[[str], Any] | None = None
    """Text of an environment variable to what `check` takes; None where `check` takes text itself."""

    def from_text(self, text: str) -> Any:
        return self.check(text if self.parse is None else self.parse(text))


def _wrong(value: Any) -> ValueError:
    shown = repr(value) if isinstance(value, (int, float)) else type(value).__name__
    return ValueError(f"not {shown}")


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        word = value.strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        raise ValueError(f"not {value!r}")
    raise _wrong(value)


def _number(value: Any) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        try:
            value = float(value) if not value.strip().lstrip("+-").isdecimal() else int(value)
        except ValueError:
            raise ValueError(f"not {value!r}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _wrong(value)
    return value


def integer(minimum: int, maximum: int) -> Kind:
    """A whole number from `minimum` to `maximum`."""

    def check(value: Any) -> int:
        if isinstance(value, timedelta):
            raise _wrong(value)
        number = _number(value)
        if number != int(number) or not minimum <= number <= maximum:
            raise _wrong(number)
        return int(number)

    return Kind(f"a whole number from {minimum} to {maximum}", check)


def seconds(minimum: float = 0.0, *, above: bool = False) -> Kind:
    """A duration in seconds, as a number or a timedelta; kept as a number. With `above`, `minimum` is excluded."""

    def check(value: Any) -> float:
        number = _number(value)
        if number < minimum or number > MAX_SECONDS or (above and number == minimum):
            raise _wrong(number)
        return number

    least = f"{'more than' if above else 'at least'} {minimum:g}"
    return Kind(f"seconds (a number or a timedelta), {least}, at most a hundred years", check)


def _expiry(value: Any) -> float | None:
    number = _number(value)
    if not 0 <= number <= MAX_SECONDS:
        raise _wrong(number)
    return number or None  # 0 is "never" in Celery too


def _concurrency(value: Any) -> int | None:
    if value == "auto":
        return None
    return integer(0, MAX_CONCURRENCY).check(value) or None


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("not empty" if value == "" else f"not {type(value).__name__}")
    return value


def _schema(value: Any) -> str:
    name = _string(value)
    too_long = len(name.encode(errors="surrogatepass")) > _MAX_IDENTIFIER_BYTES
    # Alembic takes a dot for the end of a database's name, and writes each % twice. Statements have a colon before the
    # names of their parameters.
    if too_long or not name.isprintable() or not {".", "%", ":"}.isdisjoint(name):
        raise ValueError(f"not {name[:80]!r}")
    return name


def choice(*names: str, aliases: Mapping[str, str] | None = None, refused: Mapping[str, str] | None = None) -> Kind:
    """One of `names`; `aliases` are other spellings, `refused` are known words with what to do instead."""

    def check(value: Any) -> str:
        name = _string(value).strip()
        name = (aliases or {}).get(name, name)
        if name in (refused or {}):
            raise ValueError(f"not {name!r}: {(refused or {})[name]}")
        if name not in names:
            raise ValueError(f"not {name[:80]!r}")
        return name

    return Kind("one of " + ", ".join(names), check)


def _serializer(value: Any) -> str:
    try:
        return codec.serializer(_string(value)).name
    except ImproperlyConfigured as exc:
        raise ValueError(str(exc)) from None


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    if not isinstance(value, (list, tuple, set, frozenset)):
        raise _wrong(value)
    names = list(value) if isinstance(value, (list, tuple)) else sorted(value, key=str)
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"not with an element of type {type(name).__name__}")
    return names


def _signing_keys(value: Any) -> list[str]:
    keys = _names(value)
    for key in keys:
        if len(key.encode(errors="replace")) < MIN_KEY_BYTES:  # not shown: it is a key, however short
            raise ValueError(f"not with one of fewer than {MIN_KEY_BYTES} bytes")
    return keys


def _content_names(value: Any) -> list[str]:
    names = _names(value)
    for name in names:
        if name not in codec.SERIALIZERS and "/" not in name:
            raise ValueError(f"not with {name!r}; known: {', '.join(sorted(codec.SERIALIZERS))}")
    return names


def _mapping(value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(value)
    # The caller's own dict, not a copy: an application adds entries to it later.
    return value if isinstance(value, dict) else dict(value)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise ValueError(f"in valid JSON ({exc})") from None


def _timezone(value: Any) -> str:
    if value is UTC:
        return "UTC"
    if isinstance(value, tzinfo):
        key = getattr(value, "key", None) or getattr(value, "zone", None)  # zoneinfo's name, and that of pytz
        if not isinstance(key, str):
            raise ValueError(f"not a nameless {type(value).__name__}")  # noqa: TRY004 - what `check` promises
        value = key
    name = _string(value)
    if name.upper() == "UTC":
        return "UTC"  # also where the machine has no time zone database
    try:
        return ZoneInfo(name).key
    except (KeyError, ValueError, OSError):  # ZoneInfoNotFoundError is a KeyError; OSError: the name is a folder's
        raise ValueError(f"not {name[:80]!r}, which the time zone database lacks (see the tzdata package)") from None


def _url(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        if len(value) != 1:
            raise ValueError("not a list of several: there is one database")
        value = value[0]
    url = _string(value).strip()
    try:
        normalise_url(url)
    except ImproperlyConfigured as exc:
        raise ValueError(str(exc)) from None
    return url


BOOL: Final = Kind("True or False", _bool)
STRING: Final = Kind("a string", _string)
SCHEMA: Final = Kind(f"the name of a schema, at most {_MAX_IDENTIFIER_BYTES} bytes, with no dot, colon or %", _schema)
URL: Final = Kind("the URL of a PostgreSQL or SQLite database", _url)
SERIALIZER: Final = Kind("the name of a serializer", _serializer)
COMPRESSION: Final = choice(*sorted(codec.COMPRESSIONS))
CONTENT_NAMES: Final = Kind("a list of serializer names or content types", _content_names)
NAMES: Final = Kind("a list of names", _names)
SIGNING_KEYS: Final = Kind(f"a list of secrets of at least {MIN_KEY_BYTES} bytes", _signing_keys)
MAPPING: Final = Kind("a dict", _mapping, parse=_json)
ANY: Final = Kind("any value", lambda value: value, parse=_json)
TIMEZONE: Final = Kind("the name of a time zone, such as Europe/Prague", _timezone)
EXPIRY: Final = Kind("seconds (a number or a timedelta), at most a hundred years, 0 or None for never", _expiry)
CONCURRENCY: Final = Kind("a whole number from 1 to 10000, or None", _concurrency)
