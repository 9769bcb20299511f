"""Values as text for people who watch: shortened, and never an error.

Events, `inspect` and logs show arguments of calls whose classes may do anything in their `repr`.
"""

from __future__ import annotations

import reprlib
from typing import Any, Final

MAX_CHARACTERS: Final = 1024
"""Celery's `argsrepr_maxsize` and `resultrepr_maxsize`."""
_MANY: Final = 1000


def shown(value: Any, *, levels: int = 3, characters: int = MAX_CHARACTERS) -> str:
    """`repr`, to a depth of `levels` and at most so many characters; `...` stands for the rest."""
    text = _repr(value, levels)
    return text if len(text) <= characters else text[: characters - 3] + "..."


def _repr(value: Any, levels: int) -> str:
    # One for each call: a Repr's limits are its attributes.
    limited = reprlib.Repr()
    limited.maxlevel = levels
    limited.maxtuple = limited.maxlist = limited.maxdict = limited.maxset = limited.maxfrozenset = _MANY
    limited.maxstring = limited.maxother = limited.maxlong = MAX_CHARACTERS
    try:
        return limited.repr(value)
    except BaseException as error:  # noqa: BLE001 - whatever a task's own class does
        return f"<unprintable {type(value).__qualname__}: {type(error).__name__} in its __repr__>"
