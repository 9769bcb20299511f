"""Procrastinate: `python procrastinate_.py ROW JOBS URL`.

As its documentation recommends for speed: psycopg 3, an asynchronous task, a concurrency of 10 in each of two
worker processes (it has no pool), woken by LISTEN. `defer` is synchronous, with the synchronous connector that
its documentation gives for that. Finished jobs stay in its table, which is its default; it has no results.
"""

from __future__ import annotations

import asyncio
import sys
import time

from measuring import called, drained, main
from postgres import asking, clean, settle
from processes import running
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

CONCURRENCY = 10
PROCESSES = 2
URL = sys.argv[3]

app = App(connector=SyncPsycopgConnector(conninfo=URL))


@app.task(name="add")
async def add(x, y):
    return x + y


async def be_worker():
    async with app.with_connector(PsycopgConnector(conninfo=URL, max_size=CONCURRENCY)).open_async() as opened:
        await opened.run_worker_async(concurrency=CONCURRENCY)


def install():
    clean(URL)
    app.open()
    app.schema_manager.apply_schema()


def bulk(jobs):
    install()
    began = time.perf_counter()
    add.batch_defer(*[{"x": 1, "y": 1}] * jobs)
    return {"rate": jobs / (time.perf_counter() - began)}


def single(jobs):
    install()
    add.defer(x=1, y=1)
    return called(lambda: add.defer(x=1, y=1), jobs)


def drain(jobs):
    bulk(jobs)
    settle(URL)
    finished = asking(URL, "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'")
    waiting = asking(URL, "SELECT EXISTS (SELECT FROM procrastinate_jobs WHERE status = 'todo')")
    with running(*[[sys.executable, __file__, "worker", "0", URL]] * PROCESSES):
        return drained(finished, waiting, jobs)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(be_worker())
    else:
        main({"drain": drain, "single": single, "bulk": bulk})
