"""How many pool processes a worker has, following its work: `--autoscale=max,min`.

One process more than are busy, within the bounds: the free one takes the next job at once, and
shows that there is no more work. Growing is immediate; processes leave only after they were too
many for `KEEPALIVE_SECONDS`, so that a worker does not fork and end them with every gust.
"""

from __future__ import annotations

import time
from typing import Final

from dbqueue.worker import log
from dbqueue.worker.config import MAX_PROCESSES

KEEPALIVE_SECONDS: Final = 30.0
"""Celery's AUTOSCALE_KEEPALIVE."""


class Autoscaler:
    """Raises ValueError for bounds that cannot be."""

    def __init__(self, maximum: int, minimum: int = 0, *, keepalive: float = KEEPALIVE_SECONDS) -> None:
        self.maximum, self.minimum = maximum, minimum
        self.update(maximum, minimum)
        self._keepalive = keepalive
        self._enough_at = time.monotonic()
        """When there were last no more processes than needed."""

    def update(self, maximum: int | None = None, minimum: int | None = None) -> None:
        """Change the bounds; None leaves one as it is."""
        for bound in (maximum, minimum):
            given: object = bound  # a command may say anything
            if given is not None and not (isinstance(given, int) and not isinstance(given, bool) and given >= 0):
                raise ValueError(f"autoscale: bounds are whole numbers from 0, not {given!r}")
        upper = self.maximum if maximum is None else maximum
        lower = max(1, self.minimum if minimum is None else minimum)  # with none, nothing would show that work has come
        if upper < lower:
            raise ValueError(f"autoscale: the maximum ({upper}) is less than the minimum ({lower})")
        if upper > MAX_PROCESSES:
            raise ValueError(f"autoscale: the maximum ({upper}) is more than a worker may have ({MAX_PROCESSES})")
        self.maximum, self.minimum = upper, lower

    def info(self, size: int, wanted: int) -> dict[str, int]:
        """The bounds, the present `size` and for how many tasks, in the shape of Celery's `inspect stats`."""
        return {"max": self.maximum, "min": self.minimum, "current": size, "qty": wanted}

    def change(self, size: int, busy: int, *, now: float | None = None) -> int:
        """How many processes to add (or, below 0, to let go), where `busy` of `size` run a task."""
        now = time.monotonic() if now is None else now
        wanted = min(max(busy + 1, self.minimum), self.maximum)
        if wanted >= size:
            self._enough_at = now
            if wanted > size:
                log.logger.info("Scaling up %d processes.", wanted - size)
            return wanted - size
        if size > self.maximum or now - self._enough_at >= self._keepalive:
            self._enough_at = now
            log.logger.info("Scaling down %d processes.", size - wanted)
            return wanted - size
        return 0
