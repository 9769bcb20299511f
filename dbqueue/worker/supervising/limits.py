"""How long a job may run, and what is done about it.

Limits of the call go before those of the task, and those before the worker's. The soft one raises
SoftTimeLimitExceeded inside the task; the hard one ends its process, and the job is a FAILURE. The pool solo
has no process to end: there a hard limit is only logged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from dbqueue.codec import describe_exception
from dbqueue.codec.plain import json_object
from dbqueue.errors import TimeLimitExceeded
from dbqueue.jobs import ClaimedJob, Failed
from dbqueue.pools import wire
from dbqueue.worker import log
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.crew import Crew


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds of running; None is no limit."""

    soft: float | None = None
    hard: float | None = None

    def __post_init__(self) -> None:
        for value in (self.soft, self.hard):
            number: object = value  # a row's options may hold anything
            if number is not None and not (isinstance(number, int | float) and number > 0):
                raise ValueError(f"a time limit is a positive number of seconds, not {value!r}")

    def __bool__(self) -> bool:
        return self.soft is not None or self.hard is not None

    def over(self, other: Limits) -> Limits:
        """These limits, and where they say nothing the others."""
        return Limits(
            other.soft if self.soft is None else self.soft,
            other.hard if self.hard is None else self.hard,
        )


NO_LIMITS = Limits()


class TimeLimits:
    """Watches the running jobs of all children. `by_task` may be changed while running."""

    def __init__(self, by_task: Mapping[str, Limits], worker: Limits) -> None:
        self.by_task = dict(by_task)
        self.worker = worker
        self._started: dict[tuple[int, str], tuple[float, Limits]] = {}
        self._warned: set[tuple[int, str]] = set()
        self._over: set[tuple[int, str]] = set()
        """The runs that were told of their soft limit, and those that were to end by their hard one."""

    def of(self, job: ClaimedJob) -> Limits:
        limits = self.by_task.get(job.task, NO_LIMITS).over(self.worker)
        if job.options is not None and "time_limit" in job.options:
            options = json_object(job.options)
            try:
                return Limits(options.get("soft_time_limit"), options.get("time_limit")).over(limits)
            except ValueError:  # no number: as if there were none
                return limits
        return limits

    def enforce(self, crew: Crew, complete: Callable[..., None]) -> None:
        """See to jobs that have run for too long."""
        for child, job, kind, seconds in self.exceeded(iter(crew)):
            if kind == "soft":
                log.soft_limit(job, seconds)
                child.send(wire.frame(wire.INTERRUPT, job.id, True))
                crew.watch(child)
                continue
            if crew.place is not None:
                log.hard_limit_in_place(job, seconds)
                continue
            log.hard_limit(job, seconds)
            child.write_off(job)
            error, _ = describe_exception(TimeLimitExceeded(seconds), max_bytes=4096)
            complete(Failed(job.id, job.lease, error, None, seconds), job=job)
            child.doom()

    def has_waited(self, child: Child, job: ClaimedJob) -> None:
        """The job has not begun in the child, which was busy with others: its time begins now."""
        key = (id(child), job.lease + job.id)
        if key in self._started:
            self._started[key] = (time.monotonic(), self._started[key][1])
            self._warned.discard(key)
            log.has_waited(job)

    def ran_seconds(self, child: Child, job: ClaimedJob) -> float:
        """How long the child has run the job, to the accuracy of the loop's turns; 0.0 where it does not."""
        began, _ = self._started.get((id(child), job.lease + job.id), (time.monotonic(), NO_LIMITS))
        return time.monotonic() - began

    def exceeded(self, children: Iterator[Child]) -> Iterator[tuple[Child, ClaimedJob, Literal["soft", "hard"], float]]:
        """The jobs that have run past a limit just now, each limit once."""
        now = time.monotonic()
        seen: dict[tuple[int, str], tuple[float, Limits]] = {}
        for child in children:
            for job in child.running:
                key = (id(child), job.lease + job.id)
                began, limits = self._started.get(key) or (now, self.of(job))
                seen[key] = (began, limits)
                if limits.hard is not None and now - began >= limits.hard and key not in self._over:
                    self._over.add(key)
                    yield child, job, "hard", limits.hard
                elif limits.soft is not None and now - began >= limits.soft and key not in self._warned:
                    self._warned.add(key)
                    yield child, job, "soft", limits.soft
        self._started = seen
        self._warned &= seen.keys()
        self._over &= seen.keys()
