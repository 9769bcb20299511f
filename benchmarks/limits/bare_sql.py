"""Two processes that complete and claim in batches, with no Python work for a job: `drain JOBS URL`.

Batches of 500: of 100, 500 and 1,000 the fastest on two cores, by a little.
"""

from __future__ import annotations

import multiprocessing
import sys
import time
import uuid
from multiprocessing.synchronize import Barrier

from benchmarks.limits import table
from benchmarks.measuring import Figures, main

BATCH = 500
PROCESSES = 2


def work(url: str, gate: Barrier) -> None:
    session, lease = table.Session(url), str(uuid.uuid4())
    gate.wait()
    ids: list[str] = []
    while jobs := session.round(ids, ["2"] * len(ids), lease, BATCH):
        ids = [job[0] for job in jobs]


def drain(jobs: int) -> Figures:
    url = sys.argv[3]
    table.fill(url, jobs)
    gate = multiprocessing.Barrier(PROCESSES + 1, timeout=30)
    processes = [multiprocessing.Process(target=work, args=(url, gate)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    gate.wait()
    began = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - began
    assert table.Session(url).finished() == jobs
    return {"rate": jobs / seconds}


if __name__ == "__main__":
    main({"drain": drain})
