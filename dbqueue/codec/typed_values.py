"""The Python values that JSON has no form for, and how they are written in it.

Each is an envelope `{"__type__": name, "__value__": payload}`, with the names and payloads that Celery's
JSON has for the types that it knows (kombu, "Custom types auto-conversion in Celery" in its serialising guide):

    datetime, date, time    ISO 8601 text
    decimal                 its text
    uuid                    {"hex": 32 digits}
    bytes, base64           UTF-8 text where the bytes are such, else base64

and with these beyond Celery's: `set`, `frozenset` (lists), `timedelta` ([days, seconds, microseconds], exact
where a float of seconds is not), and `dict` (pairs: a user's own dict that looks like an envelope).

Decoding looks names up in a table. It never imports a module and never evaluates text.
"""

from __future__ import annotations

import base64
import json
import sys
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, Flag
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from dbqueue.errors import DecodeError, EncodeError, ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

T = TypeVar("T")

TYPE: Final = "__type__"
VALUE: Final = "__value__"
_MARKERS: Final = frozenset({TYPE, VALUE})
_SCALARS: Final = frozenset({str, int, float, bool, type(None)})
_NATIVE: Final = (str, int, float, list, tuple, dict)
"""Types whose subclasses the C encoder writes by itself, without asking `json_form`."""


@dataclass(frozen=True, slots=True)
class _Form:
    """A registered type: `subclasses` is whether the form holds for its subclasses too."""

    cls: type
    name: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    subclasses: bool


_by_class: dict[type, _Form] = {}
_by_name: dict[str, _Form] = {}
_native_forms: set[type] = set()


def register_type(
    cls: type[T],
    name: str | None = None,
    encode: Callable[[T], Any] | None = None,
    decode: Callable[[Any], T] | None = None,
) -> type[T]:
    """Let arguments and results of type `cls` come back as that type; usable as a class decorator.

    `name` is what stands in the row, by default the dotted name of the class: give one that outlives a move of the
    class, for rows written before must be read after. `encode` makes a value that JSON can carry, or that is itself
    of a registered type; `decode` makes the object again. Both are derived for dataclasses (by fields) and enums (by
    member name, flags by value). An `encode` that is given serves subclasses as well; a derived one does not, since
    a subclass would come back as its parent.

    Every process that reads such rows must have made the same registration. Registering a subclass of `str`, `int`,
    `float`, `list`, `tuple` or `dict` makes every encoding walk its value once more.

    Raises ImproperlyConfigured if the name is taken or nothing can be derived.
    """
    name = name or f"{cls.__module__}.{cls.__qualname__}"
    if name in _DECODERS:
        raise ImproperlyConfigured(f"the type name {name!r} is one of dbqueue's own: register {cls!r} under another")
    held = _by_name.get(name)
    if held is not None and (held.cls.__module__, held.cls.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ImproperlyConfigured(f"the type name {name!r} is already that of {held.cls!r}: give {cls!r} another")
    derived_encode, derived_decode = _derive(cls)
    encoder, decoder = encode or derived_encode, decode or derived_decode
    if encoder is None or decoder is None:
        raise ImproperlyConfigured(f"{cls!r} is neither a dataclass nor an enum: give both encode and decode")
    form = _Form(cls, name, encoder, decoder, subclasses=encode is not None)
    _by_name[name] = _by_class[cls] = form
    if issubclass(cls, _NATIVE):
        _native_forms.add(cls)
    return cls


def _derive(cls: type) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None]:
    if issubclass(cls, Flag):
        return (lambda value: value.value), cls
    if issubclass(cls, Enum):
        return (lambda value: value.name), lambda name: cls[name]
    if is_dataclass(cls):
        return _field_values, lambda values: _make_dataclass(cls, values)
    return None, None


def _field_values(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _make_dataclass(cls: Any, values: dict[str, Any]) -> Any:
    late = {field.name for field in fields(cls) if not field.init}
    made = cls(**{name: value for name, value in values.items() if name not in late})
    for name in late & values.keys():
        # A frozen dataclass refuses setattr; its own __init__ goes the same way round.
        object.__setattr__(made, name, values[name])
    return made


def needs_preparation() -> bool:
    """Whether a registered type is one that the C encoder would write as a plain value."""
    return bool(_native_forms)


def prepare(value: Any) -> Any:
    """A copy of `value` in which lookalikes are escaped and registered native subclasses have their envelope."""
    cls = type(value)
    if cls in _SCALARS:
        return value
    if _native_forms and isinstance(value, _NATIVE) and (form := _form_of(cls)) is not None:
        return _envelope(form.name, prepare(form.encode(value)))
    if isinstance(value, dict):
        copied = {key: prepare(item) for key, item in value.items()}
        return _envelope("dict", [[key, item] for key, item in copied.items()]) if _is_lookalike(copied) else copied
    if isinstance(value, (list, tuple)):
        return [prepare(item) for item in value]
    return value


def has_lookalike(value: Any) -> bool:
    """Whether a user's dict in `value`, which is known to have no cycle, would be read back as an envelope."""
    if isinstance(value, dict):
        return _is_lookalike(value) or any(map(has_lookalike, value.values()))
    return isinstance(value, (list, tuple)) and any(map(has_lookalike, value))


def _is_lookalike(value: dict[Any, Any]) -> bool:
    return len(value) == len(_MARKERS) and value.keys() == _MARKERS


def _form_of(cls: type) -> _Form | None:
    form = _by_class.get(cls)
    if form is not None:
        return form
    for base in cls.__mro__:
        form = _by_class.get(base)
        if form is not None and form.subclasses:
            return form
    return None


def json_form(value: Any) -> Any:
    """What the encoder writes in the place of `value`, which it cannot write itself (`default=` of the encoder).

    In this order: registered types, objects with `__json__()`, the types of this module, enums (their value),
    dataclasses (an object of their fields), and Django's lazy strings. Anything else is an EncodeError.
    """
    cls = type(value)
    if _by_class and (form := _form_of(cls)) is not None:
        return _envelope(form.name, prepare(form.encode(value)))
    own_form = getattr(cls, "__json__", None)  # of the class: proxies and mocks invent attributes of instances
    if own_form is not None:
        return prepare(own_form(value))
    encode = _ENCODERS.get(cls)
    if encode is not None:
        return encode(value)
    for known, encode in _ENCODERS.items():
        if isinstance(value, known):
            return encode(value)
    if isinstance(value, Enum):
        return prepare(value.value)
    if is_dataclass(cls):
        return prepare(_field_values(value))
    if _is_lazy_string(value):
        return str(value)
    raise EncodeError(
        f"a value of type {cls.__module__}.{cls.__qualname__} has no JSON form: "
        "pass plain data, give the class a __json__() method, or use dbqueue.register_type"
    )


def _is_lazy_string(value: Any) -> bool:
    functional = sys.modules.get("django.utils.functional")
    promise = getattr(functional, "Promise", None)
    return isinstance(promise, type) and isinstance(value, promise)


def object_hook(value: dict[str, Any]) -> Any:
    """Open an envelope; any other object is returned as it is. Raises DecodeError for a name that is not known."""
    if len(value) != len(_MARKERS) or value.keys() != _MARKERS:
        return value
    name, payload = value[TYPE], value[VALUE]
    if not isinstance(name, str):
        raise DecodeError(f"{TYPE} is a {type(name).__name__}, not the name of a type")
    decode = _DECODERS.get(name)
    if decode is None and (form := _by_name.get(name)) is not None:
        decode = form.decode
    if decode is None:
        raise DecodeError(f"the type {name[:100]!r} is not known here: is its dbqueue.register_type call missing?")
    return decode(payload)


def _envelope(name: str, payload: Any) -> dict[str, Any]:
    return {TYPE: name, VALUE: payload}


def _encode_datetime(value: datetime) -> dict[str, Any]:
    if value != value:  # noqa: PLR0124 - pandas' NaT is a datetime, and isoformat() would make it the year 1
        raise EncodeError("NaT is not a time")
    offset = datetime.utcoffset(value)
    if offset and abs(offset) < timedelta(seconds=1):  # Python writes such an offset, but reads it as none at all
        value = _with_whole_seconds(value, offset)
    return _envelope("datetime", datetime.isoformat(value))


def _with_whole_seconds(value: datetime, offset: timedelta) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:  # as close to the calendar's beginning, or its end, the other way is open
        second = timedelta(seconds=1 if offset > timedelta() else -1)
        return (value.replace(tzinfo=None) + (second - offset)).replace(tzinfo=timezone(second))


def _encode_bytes(value: bytes) -> dict[str, Any]:
    # PostgreSQL's json cannot give a NUL back as text, so that such bytes are written as binary data.
    if b"\0" not in value:
        try:
            return _envelope("bytes", value.decode())
        except UnicodeDecodeError:
            pass
    return _envelope("base64", base64.b64encode(value).decode())


def _encode_set(name: str, values: Iterable[Any]) -> dict[str, Any]:
    return _envelope(name, _in_order(values))


def _in_order(values: Iterable[Any]) -> list[Any]:
    """Their JSON forms, in the same order in every process: the text decides whether a second call is the same one.

    The order of iteration depends on the process's hash seed, and `<` between sets is no total order.
    """
    found = list(values)
    # Exact types, and one of them: bools and subclasses sort too, but not as their text does.
    if set(map(type, found)) in ({int}, {str}):
        return sorted(found)
    # Plain data from here on: were the values encoded again, sets in sets would be encoded twice for each level.
    return [json.loads(text) for text in sorted(_plain_text(prepare(value)) for value in found)]


def _decode_uuid(payload: Any) -> UUID:
    return UUID(hex=payload["hex"] if isinstance(payload, dict) else payload)


_ENCODERS: Final[dict[type, Callable[[Any], Any]]] = {
    datetime: _encode_datetime,  # before date, its base
    date: lambda value: _envelope("date", date.isoformat(value)),
    time: lambda value: _envelope("time", time.isoformat(value)),
    timedelta: lambda value: _envelope("timedelta", [value.days, value.seconds, value.microseconds]),
    Decimal: lambda value: _envelope("decimal", Decimal.__str__(value)),
    UUID: lambda value: _envelope("uuid", {"hex": value.hex}),
    bytes: _encode_bytes,
    set: lambda value: _encode_set("set", value),
    frozenset: lambda value: _encode_set("frozenset", value),
}

_DECODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda payload: datetime.fromisoformat(payload).date(),
    "time": time.fromisoformat,
    "timedelta": lambda payload: timedelta(*payload),
    "decimal": Decimal,
    "uuid": _decode_uuid,
    "bytes": lambda payload: payload.encode(),
    "base64": lambda payload: base64.b64decode(payload, validate=True),
    "set": lambda payload: {_hashable(item) for item in payload},
    "frozenset": lambda payload: frozenset(_hashable(item) for item in payload),
    "dict": dict,
}


def _hashable(value: Any) -> Any:
    """A tuple in a set was written as a list, and can only have been a tuple."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


_plain_text: Final[Callable[[Any], str]] = json.JSONEncoder(default=json_form).encode
