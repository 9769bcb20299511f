"""Dramatiq on Redis: `python dramatiq_.py ROW JOBS URL`.

Its own command with two processes of four threads each: of 1, 4 and 8 (its default) the fastest here. Results
are kept in Redis (`store_results`), as dbqueue keeps them. It has no call for many messages.
"""

from __future__ import annotations

import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from measuring import called, drained, main, timed
from processes import running

URL = os.environ.setdefault("DRAMATIQ_BENCH_URL", sys.argv[-1])
PROCESSES, THREADS = "2", "4"

backend = RedisBackend(url=URL)
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=backend))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def add(x, y):
    return x + y


def worker():
    command = [sys.executable, "-m", "dramatiq", "dramatiq_", "-p", PROCESSES, "-t", THREADS]
    return running(command, cwd=os.path.dirname(os.path.abspath(__file__)))


def waiting():
    return backend.client.hlen("dramatiq:default.msgs") > 0


def drain(jobs):
    broker.flush_all()
    backend.client.flushdb()
    for _ in range(jobs):
        add.send(1, 1)
    with worker():
        return drained(lambda: jobs - backend.client.hlen("dramatiq:default.msgs"), waiting, jobs)


def single(jobs):
    backend.client.flushdb()
    add.send(1, 1)
    return called(lambda: add.send(1, 1), jobs)


def round_trip(jobs):
    backend.client.flushdb()
    with worker():
        add.send(1, 1).get_result(block=True, timeout=30_000)
        return timed(lambda: add.send(1, 1).get_result(block=True, timeout=30_000), jobs)


if __name__ == "__main__":
    main({"drain": drain, "single": single, "round_trip": round_trip})
