"""What a worker remembers of tasks by their names, which are those of rows: any number of them, and of any length."""

from __future__ import annotations

from collections import Counter
from typing import Final

from dbqueue.jobs import MAX_NAME_LENGTH

MOST_TASKS: Final = 10_000
"""More than any project has."""


class Totals(Counter[str]):
    """How many jobs have run of each task; of no more tasks than MOST_TASKS, those that were met first."""

    def add(self, task: str) -> None:
        """Count a job."""
        if task in self or (len(self) < MOST_TASKS and len(task) <= MAX_NAME_LENGTH):
            self[task] += 1


class Averages(dict[str, float]):
    """How long the jobs of each task take, as moving averages in seconds.

    Beyond MOST_TASKS the one that was met first is forgotten.
    """

    def add(self, task: str, seconds: float, weight: float) -> None:
        """Learn from a run; `weight` is its share of the average."""
        old = self.get(task)
        if old is None and len(task) > MAX_NAME_LENGTH:
            return
        if old is None and len(self) >= MOST_TASKS:
            del self[next(iter(self))]
        self[task] = seconds if old is None else old + weight * (seconds - old)
