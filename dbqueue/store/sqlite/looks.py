"""Looks for jobs that nobody would ever see to: lost workers' and overdue ones, some rows of the table at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Final

from dbqueue.store.sqlite import sql

OVERDUE_ROWS_AT_ONCE: Final = 5000
"""Where all rows wait for others that is some twenty milliseconds; more where a job waits for very many."""


class Look:
    """How far one worker has got on its way through the table."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._unseen = range(0)
        """Where the next parts begin, by row numbers."""

    def step(self, execute: Callable[[str, Any], sqlite3.Cursor], *, at_once: int) -> tuple[list[Sequence[Any]], bool]:
        """What is in the next rows, and whether there are more."""
        if not self._unseen:
            first, last = execute(sql.ROW_NUMBERS, []).fetchone()
            self._unseen = range((first or 1) - 1, last or 0, at_once)
        if not self._unseen:
            return [], False
        after, self._unseen = self._unseen[0], self._unseen[1:]
        rows = execute(self._template, {"after": after, "end": after + at_once}).fetchall()
        return rows, bool(self._unseen)
