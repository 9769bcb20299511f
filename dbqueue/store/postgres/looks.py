"""Looks for jobs that nobody would ever see to, some pages of the table at a time, as `pruning` does.

Those that are STARTED by workers without an open row, and those that wait for others which have all ended.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from psycopg import errors

from dbqueue.store.postgres.pruning import ON_PAGES, TABLE_PAGES, Part, pages
from dbqueue.store.postgres.sql import CREATED_AT

PAGES_AT_ONCE: Final = 4096
"""32 MB: some ten milliseconds to look through."""

# A worker is registered before it claims, and its row is closed after its last job is gone: in no snapshot has one that
# lives such jobs. ONLY, as in PRUNE_PAGES.
LOST_WORKERS: Final = f"""
SELECT DISTINCT worker FROM ONLY {{jobs}} j
WHERE {ON_PAGES} AND status = 'STARTED'
  AND NOT EXISTS (SELECT FROM {{workers}} w WHERE w.id = j.worker AND w.closed_at IS NULL)"""

# See `store.workflows.overdue`. OFFSET keeps the planner from joining the whole of a table, whatever it thinks of its
# size: a job that waits costs some reads by index. All predecessors are there, or some are gone.
OVERDUE: Final = f"""
SELECT id, NOT EXISTS (
    SELECT FROM {{edges}} e
    WHERE e.successor = j.id AND NOT EXISTS (SELECT FROM {{all_jobs}} p WHERE p.id = e.predecessor OFFSET 0) OFFSET 0)
FROM ONLY {{jobs}} j
WHERE {ON_PAGES} AND status IN ('PENDING', 'RETRY') AND blocked_reason = 'predecessors'
  AND EXISTS (SELECT FROM {{edges}} e WHERE e.successor = j.id OFFSET 0)
  AND NOT EXISTS (
    SELECT FROM {{edges}} e
    CROSS JOIN LATERAL (SELECT status FROM {{all_jobs}} p WHERE p.id = e.predecessor OFFSET 0) AS p
    WHERE e.successor = j.id AND p.status IN ('PENDING', 'RETRY', 'STARTED') OFFSET 0)"""
OVERDUE_PAGES_AT_ONCE: Final = 512
"""Where all rows wait for others that is some fifty milliseconds; more where a job waits for very many."""

# What is only hidden by row-level security is not to be taken for gone: with this it is an error.
SEE_ALL: Final = "SELECT set_config('row_security', 'off', true)"

# Jobs of a worker that lives, of which it knows nothing: see `Stray`.
STRAYS: Final = f"""
SELECT id, lease::text, ({CREATED_AT})::text, redeliver, losses, successors FROM {{jobs}} j
WHERE id = ANY(%(ids)s::text[] COLLATE "C") AND worker = %(worker)s AND status = 'STARTED'"""


class Look:
    """How far one worker has got on its way through the table."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._unseen: deque[tuple[str, int]] = deque()
        """Tables, and in each a page to go on from."""

    def step(
        self,
        run: Callable[[str, dict[str, str]], Sequence[Sequence[Any]]],
        text: Callable[[str, str], str],
        parts: Callable[[], Sequence[Part]],
        *,
        at_once: int,
    ) -> tuple[list[Sequence[Any]], bool]:
        """What is on the next pages, and whether there are more; `text` and `parts` as in `Pass.prune`."""
        if not self._unseen:
            for table, _ in parts():
                size = run(text(TABLE_PAGES, table), {})[0][0] or 0
                self._unseen.extend((table, page) for page in range(0, size, at_once))
        found: list[Sequence[Any]] = []
        if self._unseen:
            table, page = self._unseen.popleft()
            with contextlib.suppress(errors.UndefinedTable):  # a partition that was dropped meanwhile
                found = list(run(text(self._template, table), pages(page, at_once)))
        return found, bool(self._unseen)
