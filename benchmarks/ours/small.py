"""What an idle worker costs, its memory, and how fast the command starts."""

from __future__ import annotations

import compileall
import statistics
import sys
import time
from pathlib import Path

import dbqueue
from benchmarks.measuring import LIMIT_SECONDS, Figures, wait_for
from benchmarks.ours import table
from benchmarks.ours.app import add
from benchmarks.ours.worker import worker
from benchmarks.resources import cpu_ms, cpu_percent, resident_mb

SETTLE_SECONDS = 2.0
"""What a worker does once at its start is not its idle cost."""
SLOW_RATE = 1_000
"""Jobs a second that any machine does."""
REPORTED_SECONDS = 11.0
"""An idle session of PostgreSQL may wait ten seconds before it reports the transactions that it has made."""


def idle(seconds: int) -> Figures:
    """CPU in percent of a core, transactions and connections, over so many seconds without a job."""
    table.clear()
    table.insert_pending(1)  # not by `delay()`, which would keep a connection of this program's for its notice
    with worker() as process:
        wait_for(table.finished, time.monotonic() + 60)
        time.sleep(REPORTED_SECONDS if seconds >= REPORTED_SECONDS else SETTLE_SECONDS)
        connections = _others()
        before = _transactions()
        cpu = cpu_percent(process.pid, seconds)
        queries = _transactions() - before - 1  # less the one that asks
        return {"cpu_percent": cpu, "queries": max(0, queries) / seconds, "connections": connections}


def _transactions() -> int:
    """Of this database: each statement of an idle worker is a transaction of its own."""
    query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"
    return int(table.scalar(query))


def _others() -> int:
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    return int(table.scalar(query))


def memory(jobs: int) -> Figures:
    """Supervisor, nursery and one child, idle, in megabytes; and how much they have grown after so many jobs."""
    table.clear()
    # As pip does with what it installs, the peers among it: a process that compiles its modules keeps 3 MB of that.
    compileall.compile_dir(str(Path(dbqueue.__file__).parent), quiet=2)
    with worker("-c", "1") as process:
        add.delay(1, 1).get(timeout=60)
        time.sleep(SETTLE_SECONDS)
        idle_mb = resident_mb(process.pid)
        if not jobs:
            return {"idle_mb": idle_mb}
        # The first tenth fills caches and buffers; growth is what comes after it.
        _run(jobs // 10)
        warm_mb = resident_mb(process.pid)
        _run(jobs - jobs // 10)
        return {"idle_mb": idle_mb, "warm_mb": warm_mb, "growth": resident_mb(process.pid) / warm_mb}


def _run(jobs: int) -> None:
    table.fill(jobs)
    wait_for(lambda: not table.waiting(), time.monotonic() + max(LIMIT_SECONDS, jobs / SLOW_RATE))
    wait_for(lambda: not table.running(), time.monotonic() + 60)


def startup(times: int) -> Figures:
    """CPU milliseconds of `import dbqueue`, of making an application, and of `dbqueue --help`, with Python's start; and
    milliseconds until a worker has ended its first job.
    """
    command = str(Path(sys.executable).with_name("dbqueue"))
    return {
        "import_ms": cpu_ms([sys.executable, "-c", "import dbqueue"], times),
        "app_ms": cpu_ms([sys.executable, "-c", "import dbqueue; dbqueue.DBQueue('app')"], times),
        "help_ms": cpu_ms([command, "--help"], times),
        "worker_ms": statistics.median(_first_job_ms() for _ in range(times)),
    }


def _first_job_ms() -> float:
    """From the command's start to the end of a job that waits for its worker."""
    table.clear()
    table.insert_pending(1)
    began = time.monotonic()
    with worker():
        wait_for(table.finished, began + 60)
        return (time.monotonic() - began) * 1000
