"""Drain, enqueues, round trips and chords."""

from __future__ import annotations

import time

from benchmarks.measuring import Figures, called, drained, timed
from benchmarks.ours import table
from benchmarks.ours.app import add, total
from benchmarks.ours.worker import worker
from dbqueue import chord, group


def drain(jobs: int) -> Figures:
    table.clear()
    table.fill(jobs)
    with worker():
        return drained(table.finished, table.waiting, jobs)


def single(jobs: int) -> Figures:
    table.clear()
    add.delay(1, 1)
    return called(lambda: add.delay(1, 1), jobs)


def bulk(jobs: int) -> Figures:
    """Both ways to enqueue many, each in one call; making the group is part of it."""
    table.clear()
    began = time.perf_counter()
    add.enqueue_many([(1, 1)] * jobs)
    rate = jobs / (time.perf_counter() - began)
    table.clear()
    began = time.perf_counter()
    group(add.s(1, 1) for _ in range(jobs)).apply_async()
    return {"rate": rate, "group": jobs / (time.perf_counter() - began)}


def round_trip(jobs: int) -> Figures:
    table.clear()
    with worker():
        add.delay(1, 1).get(timeout=60)
        return timed(lambda: add.delay(1, 1).get(timeout=30), jobs)


def chord_(jobs: int) -> Figures:
    """From the call to the body's result, for each header; and for a tenth of the headers, which shows how it grows."""
    table.clear()
    with worker():
        add.delay(1, 1).get(timeout=60)
        tenth = _chord_us(jobs // 10)
        whole = _chord_us(jobs)
        return {"us_per_header": whole, "to_a_tenth": whole / tenth}


def _chord_us(headers: int) -> float:
    began = time.perf_counter()
    result = chord((add.s(1, 1) for _ in range(headers)), total.s()).apply_async().get(timeout=300)
    assert result == 2 * headers
    return (time.perf_counter() - began) / headers * 1e6
