"""PgQueuer: `python pgqueuer_.py ROW JOBS URL`.

As its documentation recommends for speed: asyncpg, which is its fastest driver, on uvloop, as its own command
runs it; an `async def` entrypoint without a concurrency limit; its tables with their default durability. It has
no pool: two worker processes, as dbqueue's `-c 2`. Batches of 50; of 10 (its default), 50 and 200 the fastest.
Results are not kept, for it has none; finished rows leave the queue for its log. Many jobs are enqueued with one
`enqueue` of lists, as its documentation shows.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

import asyncpg
import uvloop
from measuring import drained, main
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from postgres import asking, clean, settle
from processes import running

BATCH = 50
PROCESSES = 2
URL = sys.argv[3]


async def be_worker():
    queue = PgQueuer(AsyncpgDriver(await asyncpg.connect(URL)))

    @queue.entrypoint("add")
    async def add(job) -> None:
        x, y = job.payload.split(b",")
        int(x) + int(y)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queue.shutdown.set)
    await queue.run(batch_size=BATCH)


async def fill(jobs):
    connection = await asyncpg.connect(URL)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    began = time.perf_counter()
    await queries.enqueue(["add"] * jobs, [b"1,1"] * jobs, [0] * jobs)
    seconds = time.perf_counter() - began
    await connection.close()
    return {"rate": jobs / seconds}


async def fill_singly(jobs):
    connection = await asyncpg.connect(URL)
    queries = Queries(AsyncpgDriver(connection))
    await queries.install()
    await queries.enqueue("add", b"1,1")
    began = time.perf_counter()
    for _ in range(jobs):
        await queries.enqueue("add", b"1,1")
    seconds = time.perf_counter() - began
    await connection.close()
    return {"rate": jobs / seconds}


def drain(jobs):
    bulk(jobs)
    settle(URL)
    left = asking(URL, "SELECT count(*) FROM pgqueuer")
    waiting = asking(URL, "SELECT EXISTS (SELECT FROM pgqueuer)")
    with running(*[[sys.executable, __file__, "worker", "0", URL]] * PROCESSES):
        return drained(lambda: jobs - left(), waiting, jobs)


def bulk(jobs):
    clean(URL)
    return uvloop.run(fill(jobs))


def single(jobs):
    clean(URL)
    return uvloop.run(fill_singly(jobs))


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        uvloop.run(be_worker())
    else:
        main({"drain": drain, "single": single, "bulk": bulk})
