"""One job at a time in each of many processes: a crash costs one job, and each has a core to itself."""

from __future__ import annotations

from dbqueue.pools.child import Execute, Link


def run_slots(link: Link, execute: Execute, slots: int) -> None:
    """Run jobs one after the other on this thread, the process's main thread."""
    link.is_ready()
    run_slot(link, execute)


def run_slot(link: Link, execute: Execute) -> None:
    """Run jobs one after the other."""
    while (job := link.inbox.take()) is not None:
        link.begins(job)
        link.report(execute.run(job))
