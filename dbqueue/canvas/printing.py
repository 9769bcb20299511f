"""Calls and canvases as text, in the forms that Celery prints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST_LIST = 100
"""How many characters of a `map`'s list are shown."""


def call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """`tasks.add(2, y=2)`."""
    return f"{name}({', '.join([*map(repr, args), *(f'{key}={value!r}' for key, value in kwargs.items())])})"


def without_repetition(task: str, text: str) -> str:
    """The text with the task's module shown at its first occurrence only: `tasks.add(2) | add(3)`."""
    module = task.rpartition(".")[0]
    if not module:
        return text
    head, found, tail = text.partition(f"{module}.")
    # Not in the midst of another module's name.
    return head + found + re.sub(rf"(?<![\w.-]){re.escape(module)}\.", "", tail)


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST_LIST else f"{text[: LONGEST_LIST - 3]}..."
