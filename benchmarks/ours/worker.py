"""Workers, started by the real command."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

COMMAND = [sys.executable, "-m", "dbqueue.cli", "-A", "benchmarks.ours.app", "worker"]


@contextmanager
def worker(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    """At its default log level, with two processes unless `options` say otherwise; stopped warmly."""
    with workers([options or ("-c", "2")]) as (process,):
        yield process


@contextmanager
def workers(each_options: Iterable[tuple[str, ...]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = [subprocess.Popen([*COMMAND, *options], stdout=subprocess.DEVNULL) for options in each_options]
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(timeout=120)
