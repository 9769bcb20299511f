"""Long tasks, and short ones beside a long one."""

from __future__ import annotations

import itertools
import time

from benchmarks.measuring import Figures, wait_for
from benchmarks.ours import table
from benchmarks.ours.app import add, nap
from benchmarks.ours.worker import worker

THREADS = 20
NAP_SECONDS = 0.1
LONG_SECONDS = 5.0
SHORT_SECONDS = 0.001


def long(jobs: int) -> Figures:
    """Naps in threads: the time from the enqueue to the last end, beside that of threads which never wait for work."""
    table.clear()
    with worker("-P", "threads", "-c", str(THREADS)):
        add.delay(1, 1).get(timeout=60)
        began = time.perf_counter()
        nap.enqueue_many([(NAP_SECONDS,)] * jobs)
        wait_for(lambda: table.finished() > jobs, time.monotonic() + 120)
        took = time.perf_counter() - began
    return {"to_ideal": took / (jobs / THREADS * NAP_SECONDS)}


def fairness(jobs: int) -> Figures:
    """One long job amid many short ones, two processes: how long a short one waits beyond its turn, in milliseconds.

    Two things would show a short job that was held up behind the long one: it ends later than the place that it
    had in the queue gives it, at the pace of this very run; or nothing ends at all for a while.
    """
    table.clear()
    half = [(SHORT_SECONDS,)] * (jobs // 2)
    with worker():
        add.delay(1, 1).get(timeout=60)
        nap.enqueue_many([*half, (LONG_SECONDS,), *half])
        wait_for(lambda: table.finished() >= 2 * len(half) + 2, time.monotonic() + 60)
    query = "SELECT extract(epoch FROM {}_at)::float8 FROM dbqueue_jobs WHERE task = 'nap' AND args::text {} '[5.0]'"
    ends = table.column(query.format("finished", "<>") + " ORDER BY id")
    long_began = table.column(query.format("started", "="))[0]
    in_turn = sorted(ends)
    late = [end - turn for end, turn in zip(ends, in_turn, strict=True)]
    beside = [end for end in in_turn if end > long_began]
    pauses = [later - earlier for earlier, later in itertools.pairwise([long_began, *beside])]
    return {"longest_wait_ms": max(*late, *pauses) * 1000, "beside": len(beside)}
