"""Very many jobs at once: made while others are written, and with the collector of garbage out of the way."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeAlias, TypeVar

from dbqueue.jobs import NewJob

T = TypeVar("T")

MADE_AT_ONCE: Final = 5_000
"""How many alike jobs are made before the next are written: 20 ms of work."""


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """No collection of garbage while very many objects are made, none of which is garbage.

    The collector would go over all of them again and again: two fifths of the time to make a hundred thousand
    jobs and results. It is paused for the whole process, so nothing in such a block may wait for others.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


GATHER_SECONDS: Final = 0.02


def gathered(items: Iterable[T]) -> list[T]:
    """The items as a list, with the collector paused while they come quickly: half of the time of a large group.

    It is on for a moment every 20 ms, for they may come from anywhere.
    """
    found: list[T] = []
    coming, more = iter(items), True
    while more:
        until, more = time.monotonic() + GATHER_SECONDS, False
        with collector_paused():
            for item in coming:
                found.append(item)
                if time.monotonic() > until:
                    more = True
                    break
    return found


class AlikeJobs:
    """Many jobs that differ in their ids, arguments and options only; each is made when it is first asked for.

    So the database writes the first ones while the last are still being made. They are kept, for
    whoever goes over them again.
    """

    def __init__(self, jobs: Iterable[NewJob], number: int) -> None:
        self._made: list[NewJob] = []
        self._coming, self._number = iter(jobs), number

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[NewJob]:
        yield from self._made
        while made := self._make():
            yield from made

    def _make(self) -> list[NewJob]:
        with collector_paused():
            jobs = list(islice(self._coming, MADE_AT_ONCE))
        self._made += jobs
        return jobs


Batch: TypeAlias = Sequence[NewJob] | AlikeJobs
"""Jobs to enqueue together."""
