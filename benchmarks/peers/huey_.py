"""Huey on SQLite: `python huey_.py ROW JOBS FILE [fsync]`.

Its consumer with two processes (`-k process -w 2`), as dbqueue's `-c 2`, quiet, and its own defaults for SQLite:
write-ahead log, a cache of 8 MB. Without `fsync` (its default is to leave `synchronous` alone; it is turned off
here, which is its fastest) a commit is not on disk when it returns; with it, it is. The consumer polls every 10 ms, a
tenth of its default, so that a round trip is not mostly waiting. Results are kept until they are read. It has no
call for many.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from huey import SqliteHuey
from measuring import called, drained, main, timed
from processes import running

# The consumer imports this file with a command line of its own, and is told in the environment.
FILE, FSYNC = os.environ["HUEY_BENCH"].split("|") if "HUEY_BENCH" in os.environ else (sys.argv[3], "fsync" in sys.argv)
huey = SqliteHuey(filename=FILE, fsync=bool(FSYNC), timeout=30)


@huey.task()
def add(x, y):
    return x + y


def consumer():
    here = Path(__file__).parent
    boot = (
        "import sys; from huey.bin.huey_consumer import consumer_main;"
        "sys.argv = ['huey', 'huey_.huey', '-k', 'process', '-w', '2', '-q', '-d', '0.01', '-m', '0.01'];"
        "consumer_main()"
    )
    environment = {**os.environ, "HUEY_BENCH": f"{FILE}|{'fsync' if FSYNC else ''}"}
    return running([sys.executable, "-c", boot], cwd=here, env=environment)


def drain(jobs):
    huey.storage.flush_all()
    for _ in range(jobs):
        add(1, 1)
    with consumer():
        return drained(huey.storage.result_store_size, lambda: huey.storage.queue_size() > 0, jobs)


def single(jobs):
    huey.storage.flush_all()
    return called(lambda: add(1, 1), jobs)


def round_trip(jobs):
    huey.storage.flush_all()

    def call():
        return add(1, 1)(blocking=True, timeout=30, backoff=1, max_delay=0.005)

    with consumer():
        call()
        return timed(call, jobs)


if __name__ == "__main__":
    import huey_  # the consumer knows the task by the name of the module in which it is

    main({"drain_sqlite": huey_.drain, "single": huey_.single, "round_trip_sqlite": huey_.round_trip})
