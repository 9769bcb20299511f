"""Deleting what has ended, on PostgreSQL: some pages of the table at a time, in the order in which they lie.

An index on `finished_at` would cost every completion its heap-only update, and a search without one reads the
whole table: with ten million rows that are kept it stopped the worker that prunes for seconds, once a minute. A range
of row addresses needs no index (`Tid Range Scan`) and has a bounded cost, however large the table is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, Literal

import psycopg

from dbqueue.store.kept import Marks, Place

PAGES_AT_ONCE: Final = 4096
"""32 MB: some ten milliseconds to look through."""
COUNTED_AT_ONCE: Final = 1024
"""Counting sorts what it sees: 4,096 full pages took 115 milliseconds, for which the rounds waited."""

TABLE_PAGES: Final = "SELECT pg_relation_size(to_regclass('{jobs}')) / current_setting('block_size')::int"

_ON_PAGES: Final = "ctid >= %(first)s::tid AND ctid < %(end)s::tid"

# Too old, or too many. Where one of the two is not asked for, its condition is NULL.
_EXPIRED: Final = f"""
{_ON_PAGES}
AND (finished_at < coalesce(%(now)s::timestamptz, now()) - make_interval(secs => %(seconds)s::float8)
    OR (finished_at, id) <= (%(surplus_at)s::timestamptz, %(surplus_id)s::text COLLATE "C"))"""

# The jobs of a workflow go as a whole (`workflows.sql`): here it is only seen that there are any. OFFSET keeps the
# planner from the index of workflows, all of which it would read.
PRUNE_PAGES: Final = f"""
WITH picked AS MATERIALIZED (
    SELECT ctid AS tid FROM {{jobs}} WHERE {_EXPIRED} AND workflow_id IS NULL LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM {{jobs}} j USING picked p WHERE j.ctid = p.tid RETURNING 1
)
SELECT (SELECT count(*) FROM gone), EXISTS (
    SELECT FROM (SELECT workflow_id FROM {{jobs}} WHERE {_EXPIRED} OFFSET 0) AS e WHERE e.workflow_id IS NOT NULL)"""

COUNT_PAGES: Final = f"""
SELECT finished_at, id, number, total FROM (
    SELECT finished_at, id, row_number() OVER (ORDER BY finished_at, id) AS number, count(*) OVER () AS total
    FROM {{jobs}} WHERE {_ON_PAGES} AND finished_at IS NOT NULL) AS f
WHERE mod(number, 1 + total / %(marks)s::bigint) = 0 OR number = total"""

# A key whose job is gone or has ended, and whose success stands for nothing any more. Asked twice: a key
# that was locked may have a new job by then, which the first statement's snapshot does not show.
_SPENT: Final = """
(u.until IS NULL OR u.until <= now() OR NOT EXISTS (
    SELECT FROM {jobs} j WHERE j.id = u.job_id AND j.status = 'SUCCESS'))
AND NOT EXISTS (SELECT FROM {jobs} j WHERE j.id = u.job_id AND j.finished_at IS NULL)"""

SPENT_KEYS: Final = f"SELECT key FROM {{unique_keys}} u WHERE {_SPENT} LIMIT %(limit)s FOR UPDATE SKIP LOCKED"

PRUNE_KEYS: Final = f'DELETE FROM {{unique_keys}} u WHERE key = ANY(%(keys)s::text[] COLLATE "C") AND {_SPENT}'

PRUNE_LIMITS: Final = """
DELETE FROM {limits} WHERE key = ANY(ARRAY(
    SELECT l.key FROM {limits} l
    WHERE l.source = 'call' AND l.updated_at < now() - interval '1 day'
      AND NOT EXISTS (SELECT FROM {jobs} j WHERE j.permit = l.key)
      AND NOT EXISTS (SELECT FROM {jobs} j WHERE j.limit_key = l.key AND j.held_at IS NOT NULL)
    FOR UPDATE SKIP LOCKED))"""


class Pass:
    """How far one worker has got on its way through the table, and what it has seen of workflows.

    Where only so many finished jobs are kept it goes through it twice: first it looks which are too many.
    """

    def __init__(self) -> None:
        self._step: Literal["idle", "counting", "deleting"] = "idle"
        self.page = 0
        self.pages = 0
        """How many there were when it began."""
        self._marks = Marks(1)
        self.newest_surplus: Place | None = None
        self.saw_workflows = False
        self.ripe: deque[tuple[str, int]] = deque()
        """Workflows that are to be deleted."""

    @property
    def under_way(self) -> bool:
        return self._step != "idle"

    def prune(
        self,
        driver: psycopg.Connection[Any],
        text: Callable[[str], str],
        *,
        seconds: float | None,
        keep: int | None,
        limit: int,
        now: datetime | None,
    ) -> int:
        """Delete at most `limit` rows of the next pages, or count the finished jobs there; how many were deleted."""
        if self._step == "idle":
            (self.pages,) = driver.execute(text(TABLE_PAGES)).fetchone() or (0,)
            self._marks, self.newest_surplus, self.saw_workflows = Marks(self.pages // COUNTED_AT_ONCE), None, False
            self._step = "deleting" if keep is None else "counting"
        at_once = COUNTED_AT_ONCE if self._step == "counting" else PAGES_AT_ONCE
        pages = {"first": f"({self.page},0)", "end": f"({self.page + at_once},0)"}
        if self._step == "counting":
            self._marks.add(driver.execute(text(COUNT_PAGES), pages | {"marks": self._marks.of_each_part}).fetchall())
            if self._is_through(at_once):
                self.newest_surplus = None if keep is None else self._marks.newest_surplus(keep)
                self._step = "idle" if seconds is None and self.newest_surplus is None else "deleting"
            return 0
        surplus_at, surplus_id = self.newest_surplus or (None, None)
        parameters = pages | {
            "seconds": seconds,
            "surplus_at": surplus_at,
            "surplus_id": surplus_id,
            "limit": limit,
            "now": now,
        }
        count, workflows = driver.execute(text(PRUNE_PAGES), parameters).fetchone() or (0, False)
        self.saw_workflows |= workflows
        if count < limit and self._is_through(at_once):  # else there may be more on these pages
            self._step = "idle"
        return int(count)

    def _is_through(self, pages: int) -> bool:
        """Go on to the next pages; whether there are none, and the next step begins with the first ones."""
        self.page += pages
        if self.page >= self.pages:
            self.page = 0
        return self.page == 0
