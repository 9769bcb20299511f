"""RQ: `python rq_.py ROW JOBS URL`.

Two workers of its `SimpleWorker`, which its documentation names for speed: its default worker forks for each job.
Results are kept for 500 seconds, its default. Many jobs are enqueued with `enqueue_many`.
"""

from __future__ import annotations

import os
import sys
import time

import redis
from measuring import called, drained, main
from processes import running
from rq import Queue

WORKERS = 2
URL = os.environ.get("RQ_BENCH_URL") or sys.argv[3]  # the worker imports this file with a command line of its own
connection = redis.Redis.from_url(URL)
queue = Queue(connection=connection)


def add(x, y):
    return x + y


def bulk(jobs):
    connection.flushdb()
    began = time.perf_counter()
    queue.enqueue_many([Queue.prepare_data("rq_.add", args=(1, 1)) for _ in range(jobs)])
    return {"rate": jobs / (time.perf_counter() - began)}


def single(jobs):
    connection.flushdb()
    queue.enqueue("rq_.add", 1, 1)
    return called(lambda: queue.enqueue("rq_.add", 1, 1), jobs)


def drain(jobs):
    bulk(jobs)
    command = [sys.executable, "-m", "rq.cli", "worker", "-u", URL, "-w", "rq.SimpleWorker", "--burst", "--quiet"]
    here = os.path.dirname(os.path.abspath(__file__))
    environment = {**os.environ, "RQ_BENCH_URL": URL}
    done = queue.finished_job_registry
    with running(*[command] * WORKERS, cwd=here, env=environment):
        return drained(lambda: len(done), lambda: len(queue) > 0, jobs)


if __name__ == "__main__":
    main({"drain": drain, "single": single, "bulk": bulk})
