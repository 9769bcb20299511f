"""Jobs whose rows were not there when their outcomes came: deleted most likely, or only hidden from this worker.

Row-level security, a table renamed and put back, a restore of some rows: when such a row is seen again it is STARTED by
a worker that holds nothing of it. So it is looked for, for a while (see `strays`).
"""

from __future__ import annotations

import time
from collections.abc import KeysView
from typing import Final

from dbqueue.jobs import Outcome
from dbqueue.store.records import Stray

LOOK_SECONDS: Final = 600.0
"""How long a row is looked for."""
MOST: Final = 1000
"""So many are looked for; beyond that, the first are no more."""


class Absent:
    """Used by the thread of the rounds."""

    def __init__(self) -> None:
        self._jobs: dict[str, tuple[Outcome | None, float]] = {}
        """The outcome, where there is one, and until when (monotonic) the row is looked for; the first ends first."""

    @property
    def ids(self) -> KeysView[str]:
        return self._jobs.keys()

    def add(self, job_id: str, outcome: Outcome | None = None) -> None:
        self._jobs.pop(job_id, None)
        self._jobs[job_id] = (outcome, time.monotonic() + LOOK_SECONDS)
        if len(self._jobs) > MOST:
            del self._jobs[next(iter(self._jobs))]

    def outcome_of(self, found: Stray) -> Outcome | None:
        """Its outcome, where it is of the run that the row tells of."""
        outcome, _ = self._jobs.get(found.id, (None, 0.0))
        return outcome if outcome is not None and outcome.lease == found.lease else None

    def ended(self, job_id: str) -> None:
        """It was found, and is no more."""
        self._jobs.pop(job_id, None)

    def forget_old(self) -> None:
        now = time.monotonic()
        self._jobs = {job_id: kept for job_id, kept in self._jobs.items() if kept[1] > now}
