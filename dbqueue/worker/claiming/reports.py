"""The worker's reports of progress: the latest of each job, until the next round writes them together.

All jobs share one pace: a worker adds at most four short statements a second to the database's
load, whatever its tasks report.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from dbqueue.jobs import Progress

WRITE_SECONDS: Final = 0.25
"""Shortest time between two writings: often enough for a bar that a person watches."""


class ProgressBoard:
    """The supervisor puts reports in; the rounds thread takes them out when they are due."""

    def __init__(self) -> None:
        self._latest: dict[str, Progress] = {}
        self._lock = threading.Lock()
        self._next_at = 0.0

    def put(self, report: Progress) -> None:
        with self._lock:
            self._latest[report.job_id] = report

    def due_at(self) -> float | None:
        """When there is something to write, on the monotonic clock; None where there is nothing."""
        return self._next_at if self._latest else None

    def is_due(self, now: float) -> bool:
        """Whether there is something to write now."""
        return bool(self._latest) and now >= self._next_at

    def take_due(self, now: float, leases: Mapping[str, str]) -> list[Progress]:
        """The reports to write now, in the order of ids.

        Those of jobs that are held no more under the lease of the report are dropped: their rows
        would not match.
        """
        if not self.is_due(now):
            return []
        self._next_at = now + WRITE_SECONDS
        with self._lock:
            reports = list(self._latest.values())
            self._latest.clear()
        return sorted(report for report in reports if leases.get(report.job_id) == report.lease)
