"""Looks for jobs that are STARTED by workers without an open row: as `pruning` does, some pages at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import psycopg
from psycopg import errors

from dbqueue.store.postgres.pruning import ON_PAGES, PAGES_AT_ONCE, TABLE_PAGES, Part, pages
from dbqueue.store.postgres.sql import CREATED_AT

# A worker is registered before it claims, and its row is closed after its last job is gone: in no snapshot has one that
# lives such jobs. ONLY, as in PRUNE_PAGES.
LOST_WORKERS: Final = f"""
SELECT DISTINCT worker FROM ONLY {{jobs}} j
WHERE {ON_PAGES} AND status = 'STARTED'
  AND NOT EXISTS (SELECT FROM {{workers}} w WHERE w.id = j.worker AND w.closed_at IS NULL)"""

# Jobs of a worker that lives, of which it knows nothing: see `Stray`.
STRAYS: Final = f"""
SELECT id, lease::text, ({CREATED_AT})::text, redeliver, losses, successors FROM {{jobs}} j
WHERE id = ANY(%(ids)s::text[] COLLATE "C") AND worker = %(worker)s AND status = 'STARTED'"""


class Look:
    """How far one worker has got on its way through the table."""

    def __init__(self) -> None:
        self._unseen: deque[tuple[str, int]] = deque()
        """Tables, and in each a page to go on from."""

    def step(
        self,
        driver: psycopg.Connection[Any],
        text: Callable[[str, str], str],
        parts: Callable[[], Sequence[Part]],
    ) -> tuple[list[str], bool]:
        """What is on the next pages, and whether there are more; see `Pass.prune`."""
        if not self._unseen:
            for table, _ in parts():
                row = driver.execute(text(TABLE_PAGES, table)).fetchone()
                size = (row and row[0]) or 0
                self._unseen.extend((table, page) for page in range(0, size, PAGES_AT_ONCE))
        found: list[str] = []
        if self._unseen:
            table, page = self._unseen.popleft()
            try:
                rows = driver.execute(text(LOST_WORKERS, table), pages(page, PAGES_AT_ONCE)).fetchall()
                found = [row[0] for row in rows]
            except errors.UndefinedTable:  # a partition that was dropped meanwhile
                pass
        return found, bool(self._unseen)
