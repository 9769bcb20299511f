"""Huge tables, a held snapshot, many workers, many queues, and many jobs at once, each beside the same without."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

from benchmarks.measuring import Figures
from benchmarks.ours import table
from benchmarks.ours.worker import worker
from benchmarks.ours.worker import workers as start_workers

DRAINED = 40_000
"""Jobs in each drain: a second or two."""
DRAINS = 3
"""Of which the median counts: single ones differ by a sixth."""
QUEUED = 20_000
"""Jobs in all queues together."""
FEW_WORKERS, MANY_WORKERS = 4, 64
READY_SECONDS = 5.0
"""From the last worker's row to the last of their pool processes."""
DUE_SECONDS = 15.0
"""In which all jobs are inserted that are due then."""
RATE = 2_000
"""Jobs a second while the snapshot is held."""


def huge(rows: int) -> Figures:
    """The rate of a drain on an empty table, with so many rows that wait behind, and with so many finished ones."""
    drained = min(DRAINED, rows)
    table.clear()
    table.insert_pending(drained)
    empty = _drain(drained)
    table.clear()
    table.insert_pending(drained + rows)
    pending = _drain(drained)
    table.clear()
    table.insert_finished(rows)
    table.insert_pending(drained)
    finished = _drain(drained)
    table.clear()
    return {
        "rate": empty,
        "pending_rate": pending,
        "finished_rate": finished,
        "pending": pending / empty,
        "finished": finished / empty,
    }


def xmin(seconds: int) -> Figures:
    """The rate of a drain before, during and after a transaction that holds its snapshot for so many seconds.

    While it is held, jobs come and go at 2,000 a second; their dead rows and index entries cannot be removed.
    """
    # Enqueued, not inserted as older than what has gone before: its last claim would walk past all of that once more.
    drained = min(DRAINED, RATE * seconds)
    table.clear()
    before = _median_drain(drained)
    with _held_snapshot():
        _steady(seconds)
        held = _median_drain(drained)
    after = _median_drain(drained)
    table.clear()
    return {
        "rate": before,
        "held_rate": held,
        "after_rate": after,
        "held": held / before,
        "after": after / before,
    }


def workers(jobs: int) -> Figures:
    """The rate of 4 and of 64 workers with a process each, on one database; of 8 where it shall only be seen to run."""
    few = _with_workers(FEW_WORKERS, jobs)
    many = _with_workers(MANY_WORKERS if jobs >= DRAINED else 2 * FEW_WORKERS, jobs)
    return {"rate": few, "many_rate": many, "many_to_few": many / few}


def workers_sqlite(jobs: int) -> Figures:
    """The rate of one worker with a process, and of 4, on one file."""
    one, four = (_with_workers(count, jobs, table.fill_at_once) for count in (1, FEW_WORKERS))
    return {"rate": four, "one_rate": one, "many_to_one": four / one}


def queues(count: int) -> Figures:
    """The rate of jobs in so many queues, through one worker that takes all of them, and of as many in one queue."""
    rates: dict[int, float] = {}
    for number in (1, count):
        table.clear()
        table.insert_pending(QUEUED, queues=number)
        mark = table.clock()
        with worker("-c", "2", "-Q", "q*"):
            table.wait(lambda mark=mark: table.finished_since(mark) >= QUEUED)  # type: ignore[misc]
        rates[number] = table.rate_since(mark, QUEUED)
    table.clear()
    return {"rate": rates[count], "one_rate": rates[1], "many_to_one": rates[count] / rates[1]}


def due(jobs: int) -> Figures:
    """How late the first of so many jobs begins that are due at one moment, and the last one ends."""
    table.clear()
    mark = table.clock()
    with worker():
        table.wait_for_workers(1)
        moment = table.insert_due(jobs, DUE_SECONDS)
        table.wake()
        if table.clock() > moment:
            raise TimeoutError("they were due before all were there")
        table.wait(lambda: table.finished_since(mark) >= jobs)
    first, last = table.late(moment)
    rate = table.rate_since(mark, jobs)
    table.clear()
    return {"first_ms": first * 1000, "last_s": last, "rate": rate}


def _drain(jobs: int) -> float:
    """Of the first jobs that wait.

    The worker goes on until so many have finished: one that is ended hands back what it claimed and has not begun.
    """
    table.settle()
    mark, last = table.clock(), table.waiting_at(jobs)
    with worker():
        table.wait(lambda: table.has_finished(last))
        table.wait(lambda: table.finished_since(mark) >= jobs)
    return table.rate_since(mark, jobs)


def _median_drain(jobs: int) -> float:
    """One takes a second, and says little by itself."""

    def drain() -> float:
        table.fill(jobs)
        return _drain(jobs)

    return statistics.median(drain() for _ in range(DRAINS))


@contextlib.contextmanager
def _held_snapshot() -> Iterator[None]:
    with table.connection() as connection:
        connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ")
        # A connection of dbqueue's has one.
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        connection.exec_driver_sql("SELECT count(*) FROM dbqueue_workers")
        yield
        connection.exec_driver_sql("ROLLBACK")


def _steady(seconds: int) -> None:
    """A worker, and jobs at a steady rate."""
    with worker():
        began = time.monotonic()
        for tick in range(seconds * 10):
            table.fill(RATE // 10)
            time.sleep(max(0.0, began + (tick + 1) / 10 - time.monotonic()))
        table.wait_until_idle()


def _with_workers(count: int, jobs: int, insert: Callable[[int], None] = table.insert_pending) -> float:
    """All are ready before the first job is there: their start would be most of what is measured."""
    table.clear()
    with start_workers(("-c", "1", "-n", f"bench{number}@%h") for number in range(count)):
        table.wait_for_workers(count)
        time.sleep(READY_SECONDS)
        mark = table.clock()
        insert(jobs)
        table.wake()
        table.wait_until_idle()
    return table.rate_since(mark, jobs)
