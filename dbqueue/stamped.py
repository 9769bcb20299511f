"""Which jobs have which stamps: the headers that canvases put on their calls (`dbqueue.canvas.stamping`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from dbqueue.codec.plain import json_object

Wanted: TypeAlias = Mapping[str, Sequence[Any]]
"""By the name of a stamp, the values that are meant."""


def wanted(headers: Mapping[str, Any] | Iterable[str]) -> dict[str, list[Any]]:
    """Stamps as a caller names them: `{"customer": "acme"}`, `{"run": ["a", "b"]}` or `["customer=acme"]`.

    Raises ValueError.
    """
    if not isinstance(headers, Mapping):
        pairs = [each.split("=", 1) for each in headers]
        if not all(len(pair) == 2 for pair in pairs):
            raise ValueError(f"stamps are NAME=VALUE, not {list(headers)!r}")
        headers = dict(pairs)
    return {name: list(value) if isinstance(value, list | tuple | set) else [value] for name, value in headers.items()}


def matches(headers: str | None, wanted: Wanted) -> bool:
    """Whether a job with these headers (JSON text) has, under one of the names, one of the values wanted for it."""
    if headers is None or '"stamps"' not in headers:
        return False
    stamps = json_object(headers).get("stamps")
    if not isinstance(stamps, dict):
        return False
    return any(
        value in values
        for name, values in wanted.items()
        if name in stamps
        for value in (stamps[name] if isinstance(stamps[name], list) else [stamps[name]])
    )
