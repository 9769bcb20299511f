"""Plans that have gone bad: found by rounds that are slow, and made anew.

A statement's plan is kept by the connection. One that was made while the table had three rows reads the whole
primary key for each batch of outcomes, and goes on to do so when the table has a million: until the server's next
ANALYZE, which may be a minute off (50,000 rows: 200 ms for 500 outcomes, in the place of 25). Where the last ANALYZE
saw pages and no rows, even a new plan takes the table for empty, however large it is.

No form of the statement was found that leaves the planner no choice and costs nothing: the target of an UPDATE cannot
be made the inner side of its join. So a round that is slow for its size drops the plans, at most every ten
seconds, and has the table analysed where the statistics say that it is empty and its size says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import psycopg

SLOW_SECONDS: Final = 0.1
SLOW_SECONDS_A_ROW: Final = 0.0002
"""A round whose plans are right takes 0.05 to 0.1 ms for a row, on a busy machine."""
AGAIN_SECONDS: Final = 10.0

# For an owner of the table; others wait for the server's own ANALYZE. Of a partitioned one each partition is asked.
THOUGHT_EMPTY: Final = """
SELECT oid::regclass::text FROM pg_class
WHERE (oid = to_regclass({jobs_text})
    OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass({jobs_text})))
  AND reltuples = 0 AND pg_relation_size(oid) > 1000000 AND pg_has_role(relowner, 'USAGE')"""


class PlanCare:
    """For one connection."""

    def __init__(self, driver: psycopg.Connection[Any], text: Callable[[str], str]) -> None:
        self._driver, self._text = driver, text
        self._slow, self._not_before = False, 0.0

    def took(self, seconds: float, rows: int) -> None:
        """A round of so many rows took so long."""
        self._slow |= seconds > SLOW_SECONDS + SLOW_SECONDS_A_ROW * rows

    def look(self) -> None:
        """Between two rounds: have all statements planned anew where one was slow, and that was not tried lately."""
        if not self._slow or time.monotonic() < self._not_before:
            return
        self._slow, self._not_before = False, time.monotonic() + AGAIN_SECONDS
        for (table,) in self._driver.execute(self._text(THOUGHT_EMPTY)).fetchall():
            self._driver.execute(f"ANALYZE (SKIP_LOCKED) {table}".encode())
        self._driver.execute("DISCARD PLANS")
