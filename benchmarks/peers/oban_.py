"""Oban for Python: `python oban_.py ROW JOBS URL`; it needs Python 3.12 or later.

As its documentation recommends for speed: asyncio on uvloop, which its own command uses, its pool of ten
connections, and a limit of 100 jobs, in one process: only its paid edition has several. Finished jobs stay in its
table; it has no results. Many jobs are enqueued with one `enqueue_many`.
"""

from __future__ import annotations

import asyncio
import sys
import time

import uvloop
from measuring import drained, main
from oban import Oban, worker
from oban.schema import install
from postgres import asking, clean, settle
from processes import running

LIMIT = 100
URL = sys.argv[3]


@worker(queue="default")
class Add:
    async def process(self, job):
        job.args["x"] + job.args["y"]


async def be_worker():
    pool = await Oban.create_pool(URL)
    async with Oban(pool=pool, queues={"default": LIMIT}):
        await asyncio.Event().wait()


async def fill(jobs, *, singly=False):
    clean(URL)
    pool = await Oban.create_pool(URL)
    await install(pool)
    async with Oban(pool=pool) as oban:
        new = [Add.new({"x": 1, "y": 1}) for _ in range(jobs)]
        await oban.enqueue(Add.new({"x": 1, "y": 1}) if singly else new.pop())
        began = time.perf_counter()
        if singly:
            for _ in range(jobs):
                await Add.enqueue({"x": 1, "y": 1})
        else:
            await oban.enqueue_many(new)
        seconds = time.perf_counter() - began
    await pool.close()
    return {"rate": jobs / seconds}


def drain(jobs):
    uvloop.run(fill(jobs))
    settle(URL)
    finished = asking(URL, "SELECT count(*) FROM oban_jobs WHERE state = 'completed'")
    waiting = asking(URL, "SELECT EXISTS (SELECT FROM oban_jobs WHERE state = 'available')")
    with running([sys.executable, __file__, "worker", "0", URL]):
        return drained(finished, waiting, jobs)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        uvloop.run(be_worker())
    else:
        main(
            {
                "drain": drain,
                "single": lambda jobs: uvloop.run(fill(jobs, singly=True)),
                "bulk": lambda jobs: uvloop.run(fill(jobs)),
            }
        )
