"""SQL text with its parameters, as a value that any connection can run.

The text is written once, with `:name` parameters as SQLAlchemy and sqlite3 take them; `pyformat` turns it into
psycopg's form, and `numbered` into libpq's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL text with `:name` parameters, and their values."""

    sql: str
    parameters: dict[str, Any]


_PARAMETER: Final = re.compile(r"(?<!:):([a-z_]+)\b")


def literal(text: str) -> str:
    """The text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


@lru_cache(maxsize=256)
def pyformat(sql: str) -> str:
    """The same text with psycopg's `%(name)s` parameters; `::` casts are left alone."""
    return _PARAMETER.sub(r"%(\1)s", sql)


@lru_cache(maxsize=256)
def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """The same text with libpq's `$1` parameters, and their names in that order."""
    names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
    return _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", sql), names


@lru_cache(maxsize=256)
def named(sql: str) -> str:
    """The way back: `:name` parameters for any driver, where a text is in psycopg's form."""
    cast = re.sub(r"%\((\w+)\)s::(\w+(?:\[\])?)", r"CAST(:\1 AS \2)", sql)
    return re.sub(r"%\((\w+)\)s", r":\1", cast)
