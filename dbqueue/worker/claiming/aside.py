"""Outcomes that wait until somebody's transaction lets go of a row: their own job's, or that of one which waits for it.

An application that has locked a chord's body, say, keeps its headers from ending. A round that waited for it would
hold up all that this worker does. So it writes what it can (`WorkSession.settle_free`), and the rest lies here, with
its leases, and is tried again and again, beside the rounds; these tries hardly wait for a lock (`free_rows`).
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Final

from dbqueue.jobs import Outcome
from dbqueue.worker import log

AGAIN_SECONDS: Final = 0.2
MAX_TRIED: Final = 1000
"""Most outcomes in one try."""
MAX_ASIDE: Final = 10_000
"""With so many the worker claims no more: jobs may end faster than the lock, and all of these are in its memory."""


class Aside:
    """Used by the thread of the rounds."""

    def __init__(self) -> None:
        self._outcomes: deque[Outcome] = deque()
        self._again_at = 0.0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._outcomes)

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self._outcomes)

    @property
    def is_full(self) -> bool:
        return len(self._outcomes) >= MAX_ASIDE

    @property
    def again_at(self) -> float | None:
        """When to try again, on the monotonic clock; None: there is nothing here."""
        return self._again_at if self._outcomes else None

    @property
    def due(self) -> bool:
        return bool(self._outcomes) and time.monotonic() >= self._again_at

    def put(self, outcomes: Sequence[Outcome], refusal: str = "") -> None:
        """These cannot be written now; `refusal` is why, where that is no lock."""
        if outcomes and not self._outcomes:
            self._since = time.monotonic()
            self._pause()
            log.locked(outcomes[0].job_id, len(outcomes), refusal)
        self._outcomes.extend(outcomes)

    def next_try(self) -> list[Outcome]:
        """Those that have been here for longest."""
        return list(islice(self._outcomes, MAX_TRIED))

    def tried(self, outcomes: Collection[Outcome], locked: Collection[str]) -> None:
        """These were tried, the first that are here; those of the jobs `locked` still cannot be written."""
        left = [outcome for outcome in outcomes if outcome.job_id in locked]  # of one job there may be two, of two runs
        for _ in outcomes:
            self._outcomes.popleft()
        self._outcomes.extend(left)
        if len(left) == len(outcomes):
            self._pause()
        if not self._outcomes:
            log.unlocked(time.monotonic() - self._since)

    def _pause(self) -> None:
        self._again_at = time.monotonic() + random.uniform(0.5, 1.0) * AGAIN_SECONDS
