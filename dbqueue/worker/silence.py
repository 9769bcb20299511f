"""How long a child has answered nothing, but for the time in which it stood in line for a processor.

A child with a long job and one that gets no turn look the same from here: both are silent. The jobs that wait behind
the first are better off elsewhere; those of the second would stand in the same line there. On a machine with many more
processes than processors the second is the rule: with 64 workers on two processors, to recall and send again what was
about to run was half of the work. The kernel counts how long each thread ran and stood in line; where it does not
tell, all silence counts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

FROM_SECONDS: Final = 0.02
"""So much of a silence counts in any case: from then on the child is watched."""
LONGEST_SECONDS: Final = 1.0
"""So long a silence counts whole, however the child stands in line: it may have a long job all the same."""


class Silence:
    """Of one child, since its last answer, or since it was sent a job when it had none."""

    def __init__(self, began_at: float) -> None:
        """On the monotonic clock."""
        self.began_at = began_at
        self._watched_from: float | None = None
        self._watched_at, self._then = began_at, Threads(0.0, 0.0, False)

    def seconds(self, now: float, pid: int | None) -> float:
        """Of a child that was not watched yet at most `FROM_SECONDS`: the next call knows more."""
        silent = now - self.began_at
        if silent <= FROM_SECONDS or silent > LONGEST_SECONDS:
            return silent
        threads = threads_of(pid)
        if threads is None:
            return silent
        if self._watched_from != self.began_at:
            self._watched_from, self._watched_at, self._then = self.began_at, now, threads
        return FROM_SECONDS + threads.own_seconds(self._then, now - self._watched_at)


class Threads(NamedTuple):
    """Of one process: seconds in all, since it began."""

    ran: float
    stood_in_line: float
    """Those whose turn has come: who still waits is not counted yet."""
    able: bool
    """Whether one of them runs, or stands in line."""

    def own_seconds(self, then: Threads, passed: float) -> float:
        """How much of the time since `then` was theirs: they ran, or waited for something else than a processor."""
        own = passed - (self.stood_in_line - then.stood_in_line)
        return max(0.0, min(own, self.ran - then.ran) if self.able else own)


def threads_of(pid: int | None) -> Threads | None:
    """None where nobody tells, and of this process, whose other threads are the worker's own."""
    if pid is None or pid == os.getpid():
        return None
    ran = stood_in_line = 0
    able = False
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            figures = (thread / "schedstat").read_bytes().split()
            ran += int(figures[0])
            stood_in_line += int(figures[1])
            # The state comes after the name, which may hold anything.
            able = able or (thread / "stat").read_bytes().rpartition(b") ")[2].startswith(b"R")
    except (OSError, IndexError, ValueError):  # not Linux, a kernel without these figures, or a thread that has ended
        return None
    return Threads(ran / 1e9, stood_in_line / 1e9, able)
