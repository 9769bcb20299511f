"""Values that are hard to write down, for tests of what becomes of them."""

from __future__ import annotations

from typing import Any

from dbqueue import codec

LIMIT = 1 << 20


def dumps(value: Any, max_bytes: int = LIMIT) -> str:
    return codec.dumps(value, what="arguments of proj.add", max_bytes=max_bytes)


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep(depth: int = 100_000) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


class Hostile(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__
