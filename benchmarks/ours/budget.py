"""Where the processor's time of a job goes: what Linux counts for each process and thread, divided by the jobs."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.measuring import Figures
from benchmarks.ours import table
from benchmarks.ours.worker import worker
from benchmarks.resources import cpu_seconds, thread_seconds


class Spent(NamedTuple):
    """Seconds of processor until some moment."""

    main: float
    threads: float
    """The others of the supervisor: the rounds, and nearly nothing else."""
    children: float
    database: float
    """All processes of the server: sessions, and who writes and clears away for them."""


def budget(jobs: int) -> Figures:
    """Microseconds of a job in a drain, by where they are spent; the first and the last tenth do not count."""
    table.clear()
    table.fill(jobs)
    table.settle()
    first, last = (table.waiting_at(jobs * tenths // 10) for tenths in (1, 9))
    with worker() as process:
        table.wait(lambda: table.has_finished(first))
        before, begin = _spent(process.pid), table.clock()
        table.wait(lambda: table.has_finished(last))
        end, after = table.clock(), _spent(process.pid)
        table.wait_until_idle()
    ended = max(1, table.finished_since(begin) - table.finished_since(end))  # of few jobs all may end between two looks
    main, threads, children, database = (
        (late - early) / ended * 1e6 for early, late in zip(before, after, strict=True)
    )
    return {
        "total_us": main + threads + children + database,
        "main_us": main,
        "threads_us": threads,
        "children_us": children,
        "database_us": database,
    }


def _spent(worker_pid: int) -> Spent:
    threads = thread_seconds(worker_pid)
    main, whole = threads[worker_pid], sum(threads.values())
    return Spent(main, whole - main, cpu_seconds(worker_pid) - whole, cpu_seconds(table.server()))
