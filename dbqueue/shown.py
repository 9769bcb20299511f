"""Values as text for people who watch: shortened, and never an error.

Events, `inspect` and logs show arguments of calls whose classes may do anything in their `repr`.
"""

from __future__ import annotations

import reprlib
import unicodedata
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import logging

MAX_CHARACTERS: Final = 1024
"""Celery's `argsrepr_maxsize` and `resultrepr_maxsize`."""
_MANY: Final = 1000
MAX_LOGGED_CHARACTERS: Final = 65_536
"""Of one value in a line of a log: a row of plain SQL may have a name of any length."""
JOB_FIELDS: Final = ("task_id", "task_name", "queue")
"""Of the records that are about a job, for formats that name them."""


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


def harmless(text: str, *, lines: bool = False) -> str:
    """The text with its control characters escaped, for terminals and logs; `lines` leaves line ends and tabs."""
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(char if char in kept or not _controls(char) else ascii(char)[1:-1] for char in text)


def _controls(char: str) -> bool:
    category = unicodedata.category(char)
    return category.startswith("C") or category in ("Zl", "Zp")


def clean(record: logging.LogRecord) -> bool:
    """A filter of loggers: no text out of a row begins a line of its own, or fills the log. It keeps all records."""
    if isinstance(record.args, tuple):
        record.args = tuple(map(_logged, record.args))
    for name in JOB_FIELDS:
        if name in record.__dict__:
            record.__dict__[name] = _logged(record.__dict__[name])
    return True


def _logged(value: Any) -> Any:
    return harmless(value[:MAX_LOGGED_CHARACTERS]) if isinstance(value, str) else value
