"""Columns as PostgreSQL's text of an array, which `unnest` turns into rows again.

The driver looks at each element by itself, with a regular expression for each text: of a job's way
through the worker's database thread that was a fifth (2 µs). Here a whole column is quoted at once.
The form: PostgreSQL's manual, "Array Input and Output Syntax".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BETWEEN = "\0"
"""No text column can hold it, and PostgreSQL refuses it by itself."""


def array(values: Sequence[Any]) -> Any:
    """The text of an array of texts, NULLs among them, or of numbers; of anything else the list, for the driver."""
    kinds = set(map(type, values))
    if kinds == {str}:
        return _texts(values)
    if kinds == {type(None)}:
        return f"{{{','.join(['NULL'] * len(values))}}}"
    if kinds <= {int, float}:
        return f"{{{','.join(map(repr, values))}}}"
    return list(values)


def times(values: Sequence[float]) -> str:
    """The text of an array of seconds, to the microsecond, which is as far as the database's own times go.

    All digits of a float take six times as long to make.
    """
    return f"{{{','.join(['%.6f'] * len(values)) % tuple(values)}}}"


def _texts(values: Sequence[str]) -> Any:
    joined = _BETWEEN.join(values)
    if joined.count(_BETWEEN) != len(values) - 1:
        return list(values)  # a NUL in one of them: the driver's error says so
    if "\\" in joined or '"' in joined:
        joined = joined.replace("\\", "\\\\").replace('"', '\\"')
    quoted = joined.replace(_BETWEEN, '","')
    return f'{{"{quoted}"}}'
