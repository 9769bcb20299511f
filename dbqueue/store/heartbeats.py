"""How old the heartbeats of workers are before the eyes of who looks at them, whatever the clocks on the walls say.

A heartbeat is old when it has stayed the same for a lease, by the observer's own steady clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic


class Heartbeats:
    """How long each worker's heartbeat has stayed the same before the eyes of this process.

    Never longer than its lease has run for the worker itself: who looks for the first time knows of no age. The clock
    stops while the machine is suspended, and all of its workers with it.
    """

    def __init__(self) -> None:
        self._first_seen: dict[str, tuple[str, float]] = {}

    def ages(self, heartbeats: Mapping[str, str]) -> dict[str, float]:
        """Seconds since these were seen first; those of all workers that there are, as they are written now."""
        now, before = monotonic(), self._first_seen
        self._first_seen = {
            worker_id: before[worker_id] if before.get(worker_id, ("",))[0] == heartbeat else (heartbeat, now)
            for worker_id, heartbeat in heartbeats.items()
        }
        return {worker_id: now - seen_at for worker_id, (_, seen_at) in self._first_seen.items()}
