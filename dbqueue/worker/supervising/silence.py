"""How long a child has answered nothing, but for the time in which it stood in line for a processor.

A child with a long job and one that gets no turn look the same from here: both are silent. The jobs that wait behind
the first are better off elsewhere; those of the second would mostly stand in the same line there. On a machine with
many more processes than processors the second is the rule: with 64 workers on two processors, to recall and send again
what was about to run was half of the work. The kernel counts how long each thread ran and stood in line; where it does
not tell, all silence counts.
"""

from __future__ import annotations

import os
from typing import Final, NamedTuple, TypeAlias

FROM_SECONDS: Final = 0.02
"""So much of a silence counts in any case: from then on the child is watched."""
LONGEST_SECONDS: Final = 1.0
"""So long a silence counts whole, however the child stands in line: it may have a long job all the same."""
MOST_THREADS: Final = 16
"""To ask for one takes some 30 µs of the worker's loop."""


class Silence:
    """Of one child, since its last answer, or since it was sent a job when it had none."""

    def __init__(self, began_at: float) -> None:
        """On the monotonic clock."""
        self.began_at = began_at
        self._watched_from: float | None = None
        self._watched_at = began_at
        self._then: Threads = {}

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
        return FROM_SECONDS + own_seconds(self._then, threads, now - self._watched_at)


class Thread(NamedTuple):
    """Seconds in all, since it began."""

    ran: float
    stood_in_line: float
    """Those whose turn has come: who still waits is not counted yet."""
    able: bool
    """Whether it runs, or stands in line."""


Threads: TypeAlias = dict[str, Thread]
"""Of one process, by their numbers."""
_NEW: Final = Thread(0.0, 0.0, False)


def own_seconds(then: Threads, now: Threads, passed: float) -> float:
    """How much of the time that has passed was the process's own: it ran, or waited for something else than a turn.

    While a thread is able, what is not counted as run may be time in line. What ran was its own in any case, however
    many other threads stood in line meanwhile.
    """
    changes = [(thread, then.get(number, _NEW)) for number, thread in now.items()]
    ran = sum(thread.ran - before.ran for thread, before in changes)
    stood_in_line = sum(thread.stood_in_line - before.stood_in_line for thread, before in changes)
    waited = 0.0 if any(thread.able for thread in now.values()) else passed - stood_in_line
    return min(passed, max(ran, waited))


def threads_of(pid: int | None) -> Threads | None:
    """None where nobody tells, where so many are to be asked that it would take long, and of this process."""
    if pid is None or pid == os.getpid():  # its other threads are the worker's own
        return None
    try:
        numbers = os.listdir(f"/proc/{pid}/task")
        threads = {number: _thread(f"/proc/{pid}/task/{number}") for number in numbers[: MOST_THREADS + 1]}
    except (OSError, IndexError, ValueError):  # not Linux, a kernel without these figures, or a thread that has ended
        return None
    # A kernel that counts nothing says 0.
    told = len(threads) <= MOST_THREADS and any(thread.ran for thread in threads.values())
    return threads if told else None


def _thread(folder: str) -> Thread:
    with open(f"{folder}/schedstat", "rb") as figures, open(f"{folder}/stat", "rb") as state:
        ran, stood_in_line = figures.read().split()[:2]
        # The state comes after the name, which may hold anything.
        return Thread(int(ran) / 1e9, int(stood_in_line) / 1e9, state.read().rpartition(b") ")[2].startswith(b"R"))
