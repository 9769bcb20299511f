"""Deleting what has ended, on PostgreSQL: some pages of the table at a time, in the order in which they lie.

An index on `finished_at` would cost every completion its heap-only update, and a search without one reads the
whole table: with ten million rows that are kept it stopped the worker that prunes for seconds, once a minute. A range
of row addresses needs no index (`Tid Range Scan`) and has a bounded cost, however large the table is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

import psycopg
from psycopg import errors

from dbqueue.store.kept import Marks, Place

PAGES_AT_ONCE: Final = 4096
"""32 MB: some ten milliseconds to look through."""
COUNTED_AT_ONCE: Final = 1024
"""Counting sorts what it sees: 4,096 full pages took 115 milliseconds, for which the rounds waited."""

TABLE_PAGES: Final = "SELECT pg_relation_size(to_regclass({jobs_text})) / current_setting('block_size')::int"

ON_PAGES: Final = "ctid >= %(first)s::tid AND ctid < %(end)s::tid"

# Too old, or too many. Where one of the two is not asked for, its condition is NULL.
_EXPIRED: Final = f"""
{ON_PAGES}
AND (finished_at < coalesce(%(now)s::timestamptz, now()) - make_interval(secs => %(seconds)s::float8)
    OR (finished_at, id) <= (%(surplus_at)s::timestamptz, %(surplus_id)s::text COLLATE "C"))"""

# The jobs of a workflow go as a whole (`workflows.removing`): here it is only seen that there are any. OFFSET keeps the
# planner from the index of workflows, all of which it would read. ONLY: nothing of a table that was partitioned since.
PRUNE_PAGES: Final = f"""
WITH picked AS MATERIALIZED (
    SELECT ctid AS tid FROM ONLY {{jobs}} WHERE {_EXPIRED} AND workflow_id IS NULL
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM ONLY {{jobs}} j USING picked p WHERE j.ctid = p.tid RETURNING 1
)
SELECT (SELECT count(*) FROM gone), EXISTS (
    SELECT FROM (SELECT workflow_id FROM ONLY {{jobs}} WHERE {_EXPIRED} OFFSET 0) AS e
    WHERE e.workflow_id IS NOT NULL)"""

COUNT_PAGES: Final = f"""
SELECT finished_at, id, number, total FROM (
    SELECT finished_at, id, row_number() OVER (ORDER BY finished_at, id) AS number, count(*) OVER () AS total
    FROM {{jobs}} WHERE {ON_PAGES} AND finished_at IS NOT NULL) AS f
WHERE mod(number, 1 + total / %(marks)s::bigint) = 0 OR number = total"""

# A key whose job is gone or has ended, and whose success stands for nothing any more. Asked twice: a key
# that was locked may have a new job by then, which the first statement's snapshot does not show.
#
# OFFSET keeps the planner to one probe for each key. Where it took the jobs for few it read them all, into a table in
# memory that nothing bounds (300,000 jobs and 20 keys: 100 ms).
_SPENT: Final = """
NOT EXISTS (
    SELECT FROM {jobs} j
    WHERE j.id = u.job_id AND (j.finished_at IS NULL OR (j.status = 'SUCCESS' AND u.until > now())) OFFSET 0)"""

SPENT_KEYS: Final = f"SELECT key FROM {{unique_keys}} u WHERE {_SPENT} LIMIT %(limit)s FOR UPDATE SKIP LOCKED"

PRUNE_KEYS: Final = f'DELETE FROM {{unique_keys}} u WHERE key = ANY(%(keys)s::text[] COLLATE "C") AND {_SPENT}'

# A rate of less than one a day is remembered for as long as it holds its next job back. OFFSET as above: where no jobs
# were held when the planner last looked, it read all that are for each limit (200 limits and 100,000 jobs: 15 seconds).
PRUNE_LIMITS: Final = """
DELETE FROM {limits} WHERE key = ANY(ARRAY(
    SELECT l.key FROM {limits} l
    WHERE l.source = 'call' AND l.updated_at < now() - interval '1 day'
      AND coalesce(l.full_at, 0) <= extract(epoch FROM now())
      AND NOT EXISTS (SELECT FROM {jobs} j WHERE j.permit = l.key OFFSET 0)
      AND NOT EXISTS (SELECT FROM {jobs} j WHERE j.limit_key = l.key AND j.held_at IS NOT NULL OFFSET 0)
    FOR UPDATE SKIP LOCKED))"""


class Part(NamedTuple):
    """A table to look through: that of the jobs, or one of its partitions, where addresses are unique again."""

    table: str
    by_age: bool = True
    """Whether what has expired is deleted there, and not only what is too much."""


def pages(first: int, count: int) -> dict[str, Any]:
    """The parameters of `ON_PAGES`."""
    return {"first": f"({first},0)", "end": f"({first + count},0)"}


class Pass:
    """How far one worker has got on its way through the table, and what it has seen of workflows.

    Where only so many finished jobs are kept it goes through it twice: first it looks which are too many.
    """

    def __init__(self) -> None:
        self._step: Literal["idle", "counting", "deleting"] = "idle"
        self._parts: list[tuple[Part, int]] = []
        """With their pages, as many as there were when it began."""
        self._at = 0
        """The number of the part."""
        self.page = 0
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
        text: Callable[[str, str], str],
        parts: Callable[[], Sequence[Part]],
        *,
        seconds: float | None,
        keep: int | None,
        limit: int,
        now: datetime | None,
    ) -> int:
        """Delete at most `limit` rows of the next pages, or count the finished jobs there; how many were deleted.

        `text` makes a statement of a template, about one part.
        """
        if self._step == "idle":
            self._begin(driver, text, [part for part in parts() if part.by_age or keep is not None])
            self._step = "idle" if not self._parts else "deleting" if keep is None else "counting"
        step, deleted, seen = self._step, 0, 0
        at_once = COUNTED_AT_ONCE if step == "counting" else PAGES_AT_ONCE
        # Of small parts several: those of a table that is not partitioned are one.
        while self._step == step != "idle" and deleted < limit and seen < at_once:
            part, size = self._parts[self._at]
            seen += max(1, min(size - self.page, at_once))
            age = seconds if part.by_age else None
            try:
                if step == "counting":
                    self._count(driver, text, part, keep, expire=seconds is not None)
                else:
                    deleted += self._delete(driver, text, part, age, limit - deleted, now)
            except errors.UndefinedTable:  # a partition that was dropped meanwhile: begin again
                self._step = "idle"
        return deleted

    def _begin(self, driver: psycopg.Connection[Any], text: Callable[[str, str], str], parts: Sequence[Part]) -> None:
        sizes = [(driver.execute(text(TABLE_PAGES, part.table)).fetchone() or (0,))[0] or 0 for part in parts]
        self._parts, self._at, self.page = list(zip(parts, sizes, strict=True)), 0, 0
        self._marks, self.newest_surplus, self.saw_workflows = Marks(sum(sizes) // COUNTED_AT_ONCE), None, False

    def _count(
        self,
        driver: psycopg.Connection[Any],
        text: Callable[[str, str], str],
        part: Part,
        keep: int | None,
        *,
        expire: bool,
    ) -> None:
        parameters = pages(self.page, COUNTED_AT_ONCE) | {"marks": self._marks.of_each_part}
        self._marks.add(driver.execute(text(COUNT_PAGES, part.table), parameters).fetchall())
        if self._is_through(COUNTED_AT_ONCE):
            self.newest_surplus = None if keep is None else self._marks.newest_surplus(keep)
            self._step = "deleting" if expire or self.newest_surplus is not None else "idle"

    def _delete(
        self,
        driver: psycopg.Connection[Any],
        text: Callable[[str, str], str],
        part: Part,
        seconds: float | None,
        limit: int,
        now: datetime | None,
    ) -> int:
        surplus_at, surplus_id = self.newest_surplus or (None, None)
        parameters = pages(self.page, PAGES_AT_ONCE) | {
            "seconds": seconds,
            "surplus_at": surplus_at,
            "surplus_id": surplus_id,
            "limit": limit,
            "now": now,
        }
        count, workflows = driver.execute(text(PRUNE_PAGES, part.table), parameters).fetchone() or (0, False)
        self.saw_workflows |= workflows
        if count < limit and self._is_through(PAGES_AT_ONCE):  # else there may be more on these pages
            self._step = "idle"
        return int(count)

    def _is_through(self, count: int) -> bool:
        """Go on to the next pages; whether there are none, and the next step begins with the first ones."""
        self.page += count
        if self.page >= self._parts[self._at][1]:
            self.page = 0
            self._at = (self._at + 1) % len(self._parts)
        return self.page == 0 and self._at == 0
