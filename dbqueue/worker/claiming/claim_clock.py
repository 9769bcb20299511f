"""When the rounds claim next: at once, after a pause, or when the database has told that a job is due."""

from __future__ import annotations

import random
import time
from typing import Final

from dbqueue.retry import backoff_seconds
from dbqueue.worker.config import WorkerConfig

SETTLE_SECONDS: Final = 0.02
"""How long after a round to wait for its jobs' outcomes before asking when the next job is due. A caller that waits for
each of its results before the next call needs 2 to 5 ms between two rounds: to ask meanwhile would be in its way."""
LONGEST_SETTLE_SECONDS: Final = 0.1
"""How long after a claim, though one job after the other ends: so much later than its time a job may begin."""
REFUSED_SECONDS: Final = 0.05
"""Half of the first pause of a worker whose turn to claim has not come."""
LONGEST_REFUSED_SECONDS: Final = 1.0
MOST_REFUSALS: Final = 10
"""Some five seconds in turn: with 64 workers on two processors four are usual. One that was stopped, or cut off, in the
middle of its claim keeps the turn for as long as the server waits for it; then the others claim without."""


class ClaimClock:
    """Kept by the thread of the rounds; other threads may say `at_once`, at any time."""

    def __init__(self, config: WorkerConfig, *, must_poll: bool) -> None:
        self._config, self._must_poll = config, must_poll
        self.at: float | None = 0.0
        """When to claim again, on the monotonic clock; None: to be asked from the database."""
        self._mark = 0.0
        self._asked_at = 0.0
        self._last_round_at = self._unknown_since = 0.0
        self.empty_claims = 0
        """How many claims in turn have found nothing."""
        self._refusals = 0

    @property
    def yields(self) -> bool:
        """Whether the next claim may be refused."""
        return self._refusals < MOST_REFUSALS

    @property
    def is_refused(self) -> bool:
        """Whether the last claim in turn was."""
        return self._refusals > 0

    @property
    def due(self) -> bool:
        return self.at is not None and time.monotonic() >= self.at

    def at_once(self) -> None:
        self.at = 0.0

    def claim_begins(self) -> None:
        """Noted before the claim looks: a wake-up that comes while it looks must not be lost."""
        self._mark = self.at = time.monotonic() + self._longest_pause

    def claim_found(self, count: int, limit: int) -> None:
        """There may be more where it found as many as it could take."""
        self._refusals = 0
        self.empty_claims = 0 if count else self.empty_claims + 1
        if count >= limit:
            self.at = 0.0
        elif self.at == self._mark:
            self.at, self._unknown_since = None, time.monotonic()

    def claim_refused(self) -> None:
        """Another is claiming; with luck the next try comes when that has ended."""
        self._refusals += 1
        pause = backoff_seconds(self._refusals, factor=REFUSED_SECONDS, maximum=LONGEST_REFUSED_SECONDS, jitter=None)
        if self.at == self._mark:  # no wake-up came meanwhile
            self.at = time.monotonic() + random.uniform(0.5, 1.0) * pause

    def round_ended(self) -> None:
        self._last_round_at = time.monotonic()

    def settling_seconds(self, now: float) -> float:
        """Jobs that were just given out may end at once, and their round will look for more: for how long to wait."""
        return max(0.0, min(self._last_round_at + SETTLE_SECONDS, self._unknown_since + LONGEST_SETTLE_SECONDS) - now)

    def asking(self, now: float, *, no_later_than: float | None) -> None:
        """The database is being asked when a job is due; meanwhile the next claim is after the longest pause."""
        mark = now + self._longest_pause
        self._asked_at = now
        self._mark = self.at = mark if no_later_than is None else min(mark, no_later_than)

    def told(self, seconds: float | None) -> None:
        """So many seconds after it was asked a job is due, or none is waiting."""
        if seconds is not None and self.at == self._mark:
            # A due job that a claim does not get is locked by somebody: no reason to ask without a pause.
            pause = 0.0 if self.empty_claims <= 1 else min(0.5, 0.05 * self.empty_claims)
            self.at = min(self._mark, self._asked_at + max(pause, seconds))

    @property
    def _longest_pause(self) -> float:
        """Seconds until the next look for work at the latest: where nobody tells of it, soon after there was some."""
        longest = self._config.poll_seconds
        if not self._must_poll:
            return longest
        return backoff_seconds(self.empty_claims, factor=self._config.min_poll_seconds, maximum=longest, jitter=None)
