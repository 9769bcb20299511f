"""Many jobs at a time in the threads of one process: for tasks that wait on the network."""

from __future__ import annotations

import threading

from dbqueue.pools import prefork
from dbqueue.pools.child import Execute, Link, end_by_error


def run_slots(link: Link, execute: Execute, slots: int) -> None:
    """Run as many threads as there are slots, each of them one job after the other."""
    threads = [
        threading.Thread(target=_run_slot, args=(link, execute), name=f"slot-{number}")
        for number in range(1, slots + 1)
    ]
    for thread in threads:
        thread.start()
    link.is_ready()
    for thread in threads:
        thread.join()


def _run_slot(link: Link, execute: Execute) -> None:
    try:
        prefork.run_slot(link, execute)
    except BaseException:  # noqa: BLE001 - the other slots would go on, and its job never be answered
        end_by_error()
