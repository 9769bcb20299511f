"""Which finished jobs are too many, where only so many may be kept: for `result_max_kept`.

Counting and sorting all rows would take seconds in a table of millions, and an index by the time of the end would
cost each completion its heap-only update. So the table is read in parts, as pruning does, and of each part
some rows are remembered, with the number of finished jobs up to each: all, where the table is small.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

Place = tuple[Any, str]
"""The end of a job, as its driver gives it, and its id: jobs that ended in the same instant have an order, too."""

MARKS: Final = 20_000
"""Rows that are remembered of a whole table: 5 MB, and of ten million jobs one in five hundred."""
FEWEST_MARKS: Final = 100
"""Of one part."""


class Marks:
    """What has been seen of the finished jobs in the parts that were read."""

    def __init__(self, parts: int) -> None:
        self.of_each_part = max(FEWEST_MARKS, MARKS // max(1, parts))
        self._seen: list[tuple[Any, str, int]] = []

    def add(self, rows: Iterable[tuple[Any, str, int, int]]) -> None:
        """Every so many-th job of a part by its end, and the last: with its number there, and how many the part has."""
        for finished_at, job_id, number, total in rows:
            step = 1 + total // self.of_each_part
            self._seen.append((finished_at, job_id, number % step or step))

    def newest_surplus(self, keep: int) -> Place | None:
        """The place up to which, itself included, all finished jobs are too many; None if none is.

        A mark stands for itself and those before it, so that no more than `keep` are left, whatever lies between marks.
        """
        kept = 0
        for finished_at, job_id, jobs in sorted(self._seen, key=_order, reverse=True):
            # Where the newest mark stands for more than may be kept, it stays: the next count will be finer.
            if kept and kept + jobs > keep:
                return finished_at, job_id
            kept += jobs
        return None


def _order(mark: tuple[Any, Any, int]) -> tuple[Any, ...]:
    """SQLite keeps bytes in any column, and sorts them behind all text."""
    finished_at, job_id, _ = mark
    return isinstance(finished_at, bytes), finished_at, isinstance(job_id, bytes), job_id
