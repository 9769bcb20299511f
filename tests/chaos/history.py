"""What happened, as each process saw it: a file of its own, one write for a line, on the boot clock.

Never in the database under test: what a fault undoes there must not be undone here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VARIABLE = "DBQUEUE_CHAOS_HISTORY"
"""The folder of the files, for processes that a test starts."""


def boot_clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Event:
    """One line: `kind` is one of those below, `job` and `lease` where it is about a run.

    invoke, ok, refused, unknown    an enqueue, and what its caller was told
    start, tick, finish             a run; `data["value"]` is what it returned
    answer                          what a reader saw: `data["status"]`, `data["value"]`
    fault                           `data["what"]`, and `data["worker"]`: the pid of the worker that it is done to
    """

    at: float
    kind: str
    job: str = ""
    lease: str = ""
    data: dict[str, Any] = field(default_factory=dict)


class Recorder:
    """Writes events; a forked process writes to a file of its own."""

    def __init__(self, folder: Path | str, name: str) -> None:
        self._folder, self._name = Path(folder), name
        self._descriptor, self._pid = -1, 0

    def __call__(self, kind: str, job: str = "", lease: str = "", **data: Any) -> None:
        if self._pid != os.getpid():
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{self._name}-{os.getpid()}.jsonl"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor, self._pid = os.open(path, flags, 0o666), os.getpid()
        line = json.dumps([boot_clock(), kind, job, lease, data]) + "\n"
        os.write(self._descriptor, line.encode())


def read(folder: Path) -> list[Event]:
    """All events, in the order of time. A last line that a kill has cut short is none."""
    return sorted(_lines(folder), key=lambda event: event.at)


def _lines(folder: Path) -> Iterator[Event]:
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield Event(*json.loads(line))


def read_failpoints(log: Path, worker: int) -> list[Event]:
    """The faults that a worker's failpoints have noted."""
    if not log.exists():
        return []
    lines = [line.split() for line in log.read_text().splitlines()]
    return [
        Event(float(at), "fault", data={"what": f"{action} at {name}", "worker": worker, "pid": int(pid)})
        for at, pid, name, action in lines
    ]
