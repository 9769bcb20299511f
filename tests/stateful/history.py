"""What must hold of any history of rows, whatever a model says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from dbqueue.jobs import STARTED, TERMINAL, WAITING


class History:
    """Of one store: it is shown the rows after each step."""

    def __init__(self) -> None:
        self._before: dict[str, dict[str, Any]] = {}
        self._leases: defaultdict[str, list[str]] = defaultdict(list)

    def look(self, rows: dict[str, dict[str, Any]], repeated: Collection[str]) -> None:
        """`repeated`: the jobs that an operator let begin again in this step."""
        for job_id, row in rows.items():
            before = self._before.get(job_id)
            if before is not None and before["status"] in TERMINAL and job_id not in repeated:
                assert row == before, f"{job_id} had ended as {before!r}, and now it is {row!r}"
            leases, lease = self._leases[job_id], row["lease"]
            if lease is not None and (before is None or lease != before["lease"]):
                assert lease not in leases, f"{job_id} has a lease again that it had lost"
                leases.append(lease)
            assert (lease is None) == (row["status"] in WAITING) or row["status"] in TERMINAL
            assert row["permit"] is None or row["status"] == STARTED, f"{job_id} keeps a permit and does not run"
        self._before = rows
