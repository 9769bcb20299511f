"""Celery: `python celery_.py ROW JOBS BROKER BACKEND`, on Redis, RabbitMQ or its SQLAlchemy transport.

As its documentation recommends for speed: prefork with two processes, JSON, a prefetch multiplier of 64, no
gossip, mingle or heartbeat, no events, the worker's default log level. On RabbitMQ results go to Redis, which its
documentation calls a common pair: its own RPC backend keeps no result that nobody waits for. Results are kept, as
dbqueue keeps them.
"""

from __future__ import annotations

import os
import sys
import time

from celery import Celery, chord, group
from measuring import called, drained, main, timed
from processes import running

BROKER, BACKEND = sys.argv[3], sys.argv[4]
HERE = os.path.dirname(os.path.abspath(__file__))

app = Celery("celery_", broker=BROKER, backend=BACKEND)
app.conf.update(worker_prefetch_multiplier=64, broker_connection_retry_on_startup=True, result_expires=600)


@app.task(name="add")
def add(x, y):
    return x + y


@app.task(name="nap")
def nap(seconds):
    time.sleep(seconds)


@app.task(name="total")
def total(numbers):
    return sum(numbers)


def worker(*more):
    boot = "import sys; import celery_; celery_.app.worker_main(['worker'] + sys.argv[5:])"
    options = [*(more or ("-c", "2")), "--without-gossip", "--without-mingle", "--without-heartbeat"]
    return running([sys.executable, "-c", boot, "worker", "0", BROKER, BACKEND, *options], cwd=HERE)


class RedisResults:
    """In a database of its own, where each key is a result: DBSIZE costs nothing."""

    def __init__(self):
        import redis

        self.client = redis.Redis.from_url(BACKEND)

    def clear(self):
        if BROKER.startswith("redis"):
            self.client.flushall()
        else:
            app.control.purge()
            self.client.flushdb()

    def finished(self):
        return self.client.dbsize()


class DatabaseResults:
    def __init__(self):
        from postgres import asking

        self.url = BACKEND.replace("db+postgresql+psycopg", "postgresql", 1)
        self._count = asking(self.url, "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'")

    def clear(self):
        from postgres import clean

        clean(self.url)

    def finished(self):
        import psycopg

        try:
            return self._count()
        except psycopg.errors.UndefinedTable:  # until the first result
            return 0


results = DatabaseResults() if BACKEND.startswith("db+") else RedisResults()


def drain(jobs):
    results.clear()
    group(add.s(1, 1) for _ in range(jobs)).apply_async()
    with worker():
        return drained(results.finished, lambda: results.finished() < jobs, jobs)


def single(jobs):
    results.clear()
    add.delay(1, 1)
    return called(lambda: add.delay(1, 1), jobs)


def bulk(jobs):
    results.clear()
    began = time.perf_counter()
    group(add.s(1, 1) for _ in range(jobs)).apply_async()
    return {"rate": jobs / (time.perf_counter() - began)}


def round_trip(jobs):
    results.clear()
    with worker():
        add.delay(1, 1).get(timeout=60)
        return timed(lambda: add.delay(1, 1).get(timeout=30), jobs)


def long(jobs):
    """Its threads: the time from the first to the last result, beside the ideal."""
    results.clear()
    with worker("-c", "20", "-P", "threads"):
        add.delay(1, 1).get(timeout=60)
        began = time.perf_counter()
        group(nap.s(0.1) for _ in range(jobs)).apply_async()
        while results.finished() < jobs + 1:
            time.sleep(0.02)
        return {"to_ideal": (time.perf_counter() - began) / (jobs / 20 * 0.1)}


def chord_(jobs):
    results.clear()
    with worker():
        add.delay(1, 1).get(timeout=60)
        began = time.perf_counter()
        chord((add.s(1, 1) for _ in range(jobs)), total.s()).apply_async().get(timeout=300)
        return {"us_per_header": (time.perf_counter() - began) / jobs * 1e6}


def memory(jobs):
    from resources import resident_mb

    results.clear()
    with worker("-c", "1") as (process,):
        add.delay(1, 1).get(timeout=60)
        return {"idle_mb": resident_mb(process.pid)}


def idle(jobs):
    from resources import cpu_percent

    results.clear()
    with worker() as (process,):
        add.delay(1, 1).get(timeout=60)
        time.sleep(2)  # what it does once at its start is not its idle cost
        return {"cpu_percent": cpu_percent(process.pid, jobs)}


def startup(jobs):
    from resources import cpu_ms

    return {
        "import_ms": cpu_ms([sys.executable, "-c", "import celery"], jobs),
        "app_ms": cpu_ms([sys.executable, "-c", "import celery; celery.Celery('app')"], jobs),
        "help_ms": cpu_ms([sys.executable, "-m", "celery", "--help"], jobs),
    }


if __name__ == "__main__":
    main(
        {
            "drain": drain,
            "single": single,
            "bulk": bulk,
            "round_trip": round_trip,
            "long": long,
            "chord": chord_,
            "memory": memory,
            "idle": idle,
            "startup": startup,
        }
    )
