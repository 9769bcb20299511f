"""How every contestant is measured, dbqueue, limits and peers alike.

Standard library only, and old-fashioned on purpose: programs in the peers' environments import it as a
file of its own, from whatever Python they have.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

POLL_SECONDS = 0.02
POLL_SHARE = 0.02
"""Looks become rarer the longer a row takes. Each walks past what has ended already, in any queue on a database: every
20 ms they take a twelfth of the machine from whom they measure."""
LIMIT_SECONDS = 240
Figures = dict[str, float]


def main(measures: dict[str, Callable[[int], Figures]]) -> None:
    """`PROGRAM ROW JOBS ADDRESS...`: run one row and print its figures as the last line, in JSON."""
    print(json.dumps(measures[sys.argv[1]](int(sys.argv[2]))))


def drained(finished: Callable[[], int], waiting: Callable[[], bool], jobs: int) -> Figures:
    """Jobs a second from the first that is seen to have finished to the last: the worker's start does not count.

    `waiting` is asked all the time and must be cheap, or the measurement slows what it measures.
    """
    deadline = time.monotonic() + LIMIT_SECONDS
    first = wait_for(finished, deadline)
    began = time.perf_counter()
    wait_for(lambda: not waiting(), deadline)
    wait_for(lambda: finished() >= jobs, deadline)
    return {"rate": (jobs - first) / (time.perf_counter() - began)}


def wait_for(condition: Callable[[], int], deadline: float) -> int:
    began = time.monotonic()
    while not (value := condition()):
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError(f"not done after {LIMIT_SECONDS} s")
        time.sleep(max(POLL_SECONDS, POLL_SHARE * (now - began)))
    return value


def called(call: Callable[[], object], times: int) -> Figures:
    """Calls a second, one after the other."""
    began = time.perf_counter()
    for _ in range(times):
        call()
    return {"rate": times / (time.perf_counter() - began)}


def latencies(seconds: list[float]) -> Figures:
    """Milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": cuts[49] * 1000, "p99": cuts[98] * 1000}


def timed(call: Callable[[], object], times: int) -> Figures:
    """The latency of calls, one after the other."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        took.append(time.perf_counter() - began)
    return latencies(took)
