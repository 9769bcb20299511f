"""The application under measurement; workers are started with `dbqueue -A benchmarks.ours.app worker`."""

from __future__ import annotations

import os
import time

from dbqueue import DBQueue

app = DBQueue("benchmarks.ours.app", broker=os.environ["DBQUEUE_BENCH_URL"])


@app.task(name="add")
def add(x: int, y: int) -> int:
    return x + y


@app.task(name="nap")
def nap(seconds: float) -> None:
    time.sleep(seconds)


@app.task(name="total")
def total(numbers: list[int]) -> int:
    return sum(numbers)
