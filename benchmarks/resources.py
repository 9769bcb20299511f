"""What processes cost, read from /proc: imported as measuring.py is, by peers as well."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """A process and all that come from it."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
    return [pid, *(each for child in children for each in tree(child))]


def _children(task: Path) -> list[str]:
    return (task / "children").read_text().split()


def resident_mb(pid: int) -> float:
    """Proportional set size of a process tree in megabytes: pages that forked processes share count once."""
    return sum(_kilobytes(each) for each in tree(pid)) / 1024


def _kilobytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def cpu_seconds(pid: int) -> float:
    """Of a process tree, without what has ended."""
    return sum(sum(map(int, _stat(each)[11:13])) for each in tree(pid)) / TICKS


def thread_seconds(pid: int) -> dict[int, float]:
    """Of each thread of a process, by its number; the main thread has the process's own."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            found[int(task.name)] = sum(map(int, _numbers(task / "stat")[11:13])) / TICKS
    return found


def _stat(pid: int) -> list[str]:
    return _numbers(Path(f"/proc/{pid}/stat"))


def _numbers(stat: Path) -> list[str]:
    return stat.read_text().rpartition(") ")[2].split()


def cpu_percent(pid: int, seconds: float) -> float:
    """Of one core, over so many seconds from now."""
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / seconds * 100


def cpu_ms(command: list[str], times: int) -> float:
    """CPU time of a command in milliseconds, the median of runs."""
    return statistics.median(_command_ms(command) for _ in range(times))


def _command_ms(command: list[str]) -> float:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        usage = os.wait4(process.pid, 0)[2]
        process.returncode = 0
    return (usage.ru_utime + usage.ru_stime) * 1000
