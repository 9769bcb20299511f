"""Deleting what has ended, on SQLite, and counting before it where only so many finished jobs are kept.

The count goes by ranges of row numbers, outside of a transaction that writes: nobody waits for it, however large
the table is.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable
from typing import Final, Literal

from dbqueue.store.kept import Marks, Place
from dbqueue.store.sqlite import sql

ROWS_AT_ONCE: Final = 20_000
"""Some ten milliseconds to look through."""


class Pass:
    """How far one worker has got with its count and with deleting what is too much, and what it found of workflows."""

    def __init__(self, driver: sqlite3.Connection, text: Callable[[str], str]) -> None:
        self._driver, self._text = driver, text
        self._step: Literal["idle", "counting", "deleting"] = "idle"
        self._after = self._last = 0
        self._marks = Marks(1)
        self.newest_surplus: Place | None = None
        self.ripe: deque[tuple[str, int]] = deque()
        """Workflows that are to be deleted."""

    @property
    def under_way(self) -> bool:
        return self._step != "idle"

    def has_counted(self, keep: int | None) -> bool:
        """Count on, if only so many finished jobs are kept; whether it is known now which are too many."""
        if keep is None or self._step == "deleting":
            return True
        if self._step == "idle":
            first, last = self._driver.execute(self._text(sql.ROW_NUMBERS)).fetchone()
            self._after, self._last = (first or 0) - 1, last or 0
            self._marks, self._step = Marks((self._last - self._after) // ROWS_AT_ONCE), "counting"
        end = self._after + ROWS_AT_ONCE
        rows = {"after": self._after, "end": end, "marks": self._marks.of_each_part}
        self._marks.add(self._driver.execute(self._text(sql.COUNT_ROWS), rows).fetchall())
        self._after = end
        if end < self._last:
            return False
        self.newest_surplus, self._step = self._marks.newest_surplus(keep), "deleting"
        return True

    def delete(self, *, seconds: float | None, limit: int, at: str | None) -> int:
        """Delete at most `limit` jobs of no workflow; how many were deleted."""
        surplus_at, surplus_id = self.newest_surplus or (None, None)
        parameters = {"seconds": seconds, "surplus_at": surplus_at, "surplus_id": surplus_id, "limit": limit, "now": at}
        return self._driver.execute(self._text(sql.PRUNE), parameters).rowcount

    def rest(self) -> None:
        """Nothing is left to be deleted: the next call counts anew."""
        self._step, self.newest_surplus = "idle", None
