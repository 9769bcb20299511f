"""Which queues a worker takes jobs from just now, and in which order.

Patterns stand for what is there, and paused queues are left out. A claim reads one queue after the
other until it has what it wants, so a queue's share of a busy worker is how often it stands first:

    strict        always the first of `-Q`; a later queue waits while an earlier one has jobs
    round robin   each in its turn
    weighted      each as often as its weight says, spread evenly: with a: 3, b: 1 it is a a b a

The last is nginx's smooth weighted round robin. Each queue stands first at least once in as many turns
as all weights are together, so none starves.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from dbqueue.queue_patterns import is_pattern, matches, resolve
from dbqueue.store.sessions import WorkSession
from dbqueue.worker.config import WorkerConfig

LOOK_SECONDS: Final = 1.0
"""How old the answer may be. A pause is kept within this time, and costs a claim nothing in between: a join in the
claim itself would read the pauses for each of thousands of claims a second."""


class QueueChoice:
    """Used by the thread of the rounds, but for `consume`."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self.chosen: tuple[str, ...] = config.queues
        """What the worker was told to take jobs from."""
        self._turns = {False: 0, True: 0}
        """Of claims, and of looks at held jobs: between them, each would get every other order of the other's."""
        self._credit: dict[bool, dict[str, int]] = {False: {}, True: {}}
        self.names: list[str] = []
        """The queues, as they were at the last look."""
        self.restless = True
        """Whether the answer may change without a job that comes: an idle worker is to look again at `look_at`."""
        self.look_at = 0.0
        """When to look again, on the monotonic clock."""

    def look(self, session: WorkSession) -> None:
        """Ask the database what is there and what is paused."""
        self.look_at = time.monotonic() + LOOK_SECONDS  # first: `consume` may come meanwhile, and asks for another look
        patterns = any(map(is_pattern, self.chosen))
        present = session.waiting_queues() if patterns else []
        paused = session.paused_queues()
        chosen = resolve(self.chosen, present, self._config.excluded)
        self.names = [name for name in chosen if name not in paused]
        self.restless = patterns or len(self.names) < len(chosen)

    def consume(self, queues: Iterable[str]) -> None:
        """Take jobs from these instead. Called on any thread."""
        self.chosen = tuple(queues)
        self.look_at = 0.0

    def next_order(self, *, held: bool = False) -> list[str]:
        """The queues in the order in which the next claim reads them: each first in its turn, or always the same."""
        if self._config.strict_order or not self.names:
            return self.names
        if self._config.queue_weights:
            return self._weighted(self._credit[held])
        self._turns[held] += 1
        start = self._turns[held] % len(self.names)
        return self.names[start:] + self.names[:start]

    def _weighted(self, credit: dict[str, int]) -> list[str]:
        """The queue with the most credit first; each turn gives credit by weight, and the first one pays for all."""
        weights = {name: self._weight(name) for name in self.names}
        current = {name: credit.get(name, 0) + weight for name, weight in weights.items()}
        order = sorted(self.names, key=lambda name: -current[name])
        current[order[0]] -= sum(weights.values())
        credit.clear()
        credit.update(current)
        return order

    def _weight(self, name: str) -> int:
        """Its own, or that of the first pattern that fits."""
        weights = self._config.queue_weights
        return weights.get(name) or next((weight for each, weight in weights.items() if matches(name, [each])), 1)
