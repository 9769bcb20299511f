"""The JSON of rows for those who only look at it, and whom nothing that stands there may end."""

from __future__ import annotations

from typing import Any, TypeVar

from dbqueue.codec import loads
from dbqueue.errors import DecodeError

K = TypeVar("K", list[Any], dict[str, Any])


def json_object(text: str | None) -> dict[str, Any]:
    """The JSON object of a row; an empty one where the row holds anything else, which its run will tell."""
    return json_value(text, dict)


def json_value(text: Any, kind: type[K]) -> K:
    """The JSON value of a row, a list or an object; an empty one where the row holds anything else. Never raises."""
    try:
        found = loads(text, typed=False) if text else None
    except DecodeError:
        found = None
    return found if isinstance(found, kind) else kind()
