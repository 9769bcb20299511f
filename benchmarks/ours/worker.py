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
    with started([*COMMAND, *options] for options in each_options) as processes:
        yield processes


@contextmanager
def started(commands: Iterable[list[str]]) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(timeout=120)
