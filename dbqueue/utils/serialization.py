"""Values as JSON and as truth: what programs import of `celery.utils.serialization`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, NoReturn
from uuid import UUID

_TRUTH: Final = {
    **dict.fromkeys(("false", "no", "0", "off"), False),
    **dict.fromkeys(("true", "yes", "1", "on"), True),
}


def strtobool(term: str | bool, table: Mapping[str, bool] | None = None) -> bool:
    """True for `true`, `yes`, `1`, `on`; False for `false`, `no`, `0`, `off`; TypeError for any other text."""
    if not isinstance(term, str):
        return term
    try:
        return (table or _TRUTH)[term.lower()]
    except KeyError:
        raise TypeError(f"{term!r} is neither true nor false: write true or false") from None


def jsonify(
    obj: Any,
    builtin_types: tuple[type, ...] = (int, float, str),
    key: str | None = None,
    keyfilter: Callable[[str], bool] | None = None,
    unknown_type_filter: Callable[[Any], Any] | None = None,
) -> Any:
    """A value in types that JSON has: times as text, Decimals and UUIDs too, tuples as lists.

    `keyfilter` says which keys of mappings stay; `unknown_type_filter` turns other types, without it a ValueError.
    """
    if obj is None or isinstance(obj, builtin_types):
        return obj
    if isinstance(obj, (Decimal, UUID, timedelta)):
        return str(obj)
    if isinstance(obj, (datetime, date, time)):
        return obj.isoformat()
    options = {"builtin_types": builtin_types, "keyfilter": keyfilter, "unknown_type_filter": unknown_type_filter}
    if isinstance(obj, Mapping):
        kept = {name: value for name, value in obj.items() if keyfilter is None or keyfilter(name)}
        return {name: jsonify(value, key=name, **options) for name, value in kept.items()}  # type: ignore[arg-type]
    if isinstance(obj, (tuple, list)):
        return [jsonify(value, **options) for value in obj]  # type: ignore[arg-type]
    if unknown_type_filter is None:
        raise ValueError(f"JSON has nothing for {type(obj).__name__}: {obj!r}" + (f" ({key})" if key else ""))
    return unknown_type_filter(obj)


def raise_with_context(exc: BaseException) -> NoReturn:
    """Raise the exception, because of the one that is being handled."""
    current = sys.exc_info()[1]
    if current is None or current is exc:
        raise exc
    raise exc from current
