"""ChordError, and what the task in the header raised, in one exception.

In Celery it depends on a race which of both `get` raises: the body's ChordError, or the error of its
parent. Programs catch the one or the other; here both do.
"""

from __future__ import annotations

from typing import Any

from dbqueue.errors import ChordError
from dbqueue.states import PROPAGATE_STATES


def with_cause(error: ChordError, cause: BaseException) -> ChordError:
    """The error as one that is also of the cause's class; as it is where Python cannot make such a class."""
    try:
        both = type("ChordError", (ChordError, type(cause)), {"__module__": ChordError.__module__, "__str__": _text})
        merged: ChordError = both.__new__(both, *error.args)
        merged.args = error.args
        merged.__dict__.update(cause.__dict__)
    except Exception:  # noqa: BLE001 - whatever the class does to be made
        merged = error
    merged.__cause__ = cause
    return merged


def _text(self: ChordError) -> str:
    return str(self.args[0]) if self.args else ""


def first_error_above(result: Any) -> BaseException | None:
    """What the nearest of its parents that failed has raised itself."""
    node = result.parent
    while node is not None:
        error = _first_error(node)
        if error is not None:
            return error
        node = node.parent
    return None


def _first_error(result: Any) -> BaseException | None:
    """What a call, or the first of a group that failed, has raised itself."""
    from dbqueue.result.sets import ResultSet

    if isinstance(result, ResultSet):
        result._look()
        return next((error for each in result if (error := _first_error(each)) is not None), None)
    if result.state not in PROPAGATE_STATES:
        return None
    error = result.result
    if isinstance(error, ChordError):
        return first_error_above(result)
    return error if isinstance(error, BaseException) else None
