"""The limit for a worker in Python: a bare supervisor loop, and children that run functions: `drain JOBS URL`.

One process with one connection does rounds (complete these, claim that many, in one round trip and one durable
transaction); two children decode each job's arguments, call its function and encode its result. Both sides work
at the same time, as in any worker that is worth its name: while the children have one batch the round of the
other is under way. There is nothing else: no time limits, signals, logs, heartbeats, retries, or lost leases.

Batches of 500 for the two children together.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import uuid
from multiprocessing.connection import Connection

from benchmarks.limits import table
from benchmarks.measuring import Figures, main

BATCH = 500
CHILDREN = 2


def add(x: int, y: int) -> int:
    return x + y


TASKS = {"add": add}


def child(pipe: Connection) -> None:
    while (message := pipe.recv_bytes()) != b"end":
        jobs = json.loads(message)
        results = [json.dumps(TASKS[task](*json.loads(args))) for _, task, args in jobs]
        pipe.send_bytes(json.dumps(results).encode())


def drain(jobs: int) -> Figures:
    url = sys.argv[3]
    table.fill(url, jobs)
    pipes = _children()
    session, lease = table.Session(url), str(uuid.uuid4())
    began = time.perf_counter()
    # Two batches are under way: one with the children, one with the database.
    running = session.round([], [], lease, BATCH)
    _give(pipes, running)
    waiting = session.round([], [], lease, BATCH)
    while running:
        results = _take(pipes)
        done = [job[0] for job in running]
        _give(pipes, waiting)
        running, waiting = waiting, session.round(done, results, lease, BATCH)
    seconds = time.perf_counter() - began
    for pipe in pipes:
        pipe.send_bytes(b"end")
    assert session.finished() == jobs
    return {"rate": jobs / seconds}


def _children() -> list[Connection]:
    pipes = []
    for _ in range(CHILDREN):
        ours, theirs = multiprocessing.Pipe()
        multiprocessing.Process(target=child, args=(theirs,), daemon=True).start()
        pipes.append(ours)
    return pipes


def _give(pipes: list[Connection], jobs: list[table.Job]) -> None:
    share = -(-len(jobs) // len(pipes))
    for number, pipe in enumerate(pipes):
        pipe.send_bytes(json.dumps(jobs[number * share : (number + 1) * share]).encode())


def _take(pipes: list[Connection]) -> list[str]:
    return [result for pipe in pipes for result in json.loads(pipe.recv_bytes())]


if __name__ == "__main__":
    main({"drain": drain})
