"""What a claim reads on SQLite, which keeps anything in any column: text that is no UTF-8, bytes, words for numbers.

A row that is no valid call because of that is refused by its run, as any other. One that cannot even be named (by its
id, or by what the claim's index has of it) ends as a FAILURE here, by its row number: no outcome could be written.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from dbqueue.codec import describe_exception
from dbqueue.errors import InvalidTaskError
from dbqueue.jobs import ClaimedJob
from dbqueue.store.engine import readable
from dbqueue.store.records import Claim, HeldClaim
from dbqueue.store.sqlite import sql

ID: Final = 1
_TEXTS: Final = (1, 2, 3, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16)
_CONTENT: Final = 10
_NUMBERS: Final = (4, 17, 18)
"""Of a claimed row: the columns that are declared as text, the one of bytes, and those of whole numbers."""
_BYTES: Final = (bytes, type(None))
_REPLACED: Final = "\ufffd"


def rows_of(driver: sqlite3.Connection, statement: str, parameters: Any) -> list[tuple[Any, ...]]:
    """The rows of a hot SELECT. The driver's own decoding saves 0.1 µs a text over `readable`, and fails where one is
    none: then they are read again."""
    driver.text_factory = str
    try:
        return driver.execute(statement, parameters).fetchall()
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
        driver.text_factory = readable
        return driver.execute(statement, parameters).fetchall()
    finally:
        driver.text_factory = readable


def refuse(driver: sqlite3.Connection, text: Callable[[str], str], row_number: int, why: str) -> None:
    """End a row that cannot be named."""
    error, _ = describe_exception(InvalidTaskError(f"the row is no valid call: {why}"), max_bytes=4096)
    driver.execute(text(sql.REFUSE), {"row": row_number, "error": error, "now": None})


def without_unnamed(
    driver: sqlite3.Connection, text: Callable[[str], str], rows: list[tuple[Any, ...]]
) -> list[tuple[Any, ...]]:
    """The rows, as claims read them, without those whose id is none: these end here."""
    for row in [row for row in rows if type(row[ID]) is not str or _REPLACED in row[ID]]:
        if not _is_of(driver, text(sql.IS_NAMED), row[0], row[ID]):
            refuse(driver, text, row[0], "its id is no text")
            rows.remove(row)
    return rows


def is_level(driver: sqlite3.Connection, text: Callable[[str], str], row: Sequence[Any]) -> bool:
    """Whether a held row (its number, limit, queue, priority, and when it is due) is found by these; else it ends."""
    number, key, queue, priority, due_in = row[:5]
    sound = type(priority) is int and due_in is not None and _is_of(driver, text(sql.IS_LEVEL), number, key, queue)
    if not sound:
        refuse(driver, text, number, "its queue, priority, limit or time is of another type than the column")
    return sound


def require_taken(taken: int, wanted: int) -> None:
    """Undo the claim where somebody's trigger has left rows out: they would run under a lease that they do not have."""
    if taken != wanted:
        raise sqlite3.IntegrityError(
            f"of {wanted} jobs to be claimed {taken} were changed: has their table a trigger that leaves rows out?"
        )


def _is_of(driver: sqlite3.Connection, statement: str, row_number: int, *names: Any) -> bool:
    """Whether the row has these texts; where one has the mark of `readable` that is to be asked."""
    if any(type(name) is not str for name in names):
        return False
    return all(_REPLACED not in name for name in names) or bool(
        driver.execute(statement, [row_number, *names]).fetchone()
    )


def _as_declared(row: Sequence[Any]) -> list[Any]:
    """The row with values of the declared types."""
    values = list(row)
    for column in _TEXTS:
        if isinstance(values[column], bytes):
            values[column] = readable(values[column])
    for column in _NUMBERS:
        if type(values[column]) is not int:
            values[column] = 0
    if not isinstance(values[_CONTENT], bytes | None):
        values[_CONTENT] = str(values[_CONTENT]).encode(errors="replace")
    return values


def claimed_job(row: Sequence[Any], claim: Claim | HeldClaim, permit: str | None = None) -> ClaimedJob:
    """A job as it was claimed; the row was read before that."""
    if (
        any(type(row[column]) is bytes for column in _TEXTS)
        or type(row[_CONTENT]) not in _BYTES
        or not type(row[4]) is type(row[17]) is type(row[18]) is int
    ):
        row = _as_declared(row)
    redeliver = row[2] not in claim.once
    return ClaimedJob._make((row[1], claim.lease, *row[2:19], redeliver, *map(bool, row[19:22]), permit, bool(row[23])))
