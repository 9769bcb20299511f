"""Which workers are dead: the server's clock says so, as long as it goes evenly; after a step the observer's own does.

A heartbeat is older than its lease at once where the server's clock is put forward, or a standby takes over whose
clock is ahead: all workers would be dead to each other, and run each other's jobs beside them. Where the clock is put
back, one that has died would live for as long. So each look compares how far both clocks have come since the last one.

The server's clock is asked at all because it knows the age of a heartbeat at the first look: after a crash of all
workers those that come up need not wait for a lease. So one that comes up right after a step, before the others have
beaten again, takes its word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from time import monotonic
from typing import Any, Final

from dbqueue.store.heartbeats import Heartbeats

STEP_SECONDS: Final = 0.5
"""What is no step yet: a clock that is corrected gains less than that between two looks."""

Row = tuple[str, str, float, bool, float]
"""Of an open worker: id, heartbeat, lease in seconds, whether it is late by the server's clock, that clock's time."""


class Liveness:
    """What one process has seen of workers; it outlives a connection that broke."""

    def __init__(self) -> None:
        self._heartbeats = Heartbeats()
        self._before: tuple[float, float, float] | None = None
        """When the last look was sent and answered, by this clock, and the server's time in between."""
        self._stepped_at = -inf

    def dead(self, look: Callable[[], Sequence[Any]]) -> dict[str, str]:
        """Those that are dead, with the heartbeats that tell it. `look` reads the rows of all open workers."""
        sent = monotonic()
        rows: Sequence[Row] = look()
        now = monotonic()
        if rows:
            self._compare(sent, now, rows[0][4])
        ages = self._heartbeats.ages({row[0]: row[1] for row in rows})
        return {
            worker_id: heartbeat
            for worker_id, heartbeat, lease, late, _ in rows
            if ages[worker_id] > lease or (late and now - self._stepped_at > lease)
        }

    def _compare(self, sent: float, answered: float, server: float) -> None:
        before, self._before = self._before, (sent, answered, server)
        if before is not None:
            # However long a look was under way, both times were read within it.
            least, most = sent - before[1], answered - before[0]
            if not least - STEP_SECONDS <= server - before[2] <= most + STEP_SECONDS:
                self._stepped_at = answered
