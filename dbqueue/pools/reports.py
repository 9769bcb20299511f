"""A child's reports of progress: the latest of each job, sent by a thread of its own.

The task's thread only leaves its report here, so that a task which reports in a tight loop floods
neither the socket nor the supervisor. The thread starts with the first report: a child whose tasks
report nothing has none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from dbqueue.jobs import Progress
from dbqueue.pools import wire

PAUSE_SECONDS: Final = 0.1
"""Shortest time between two sendings: less than the worker's pace of writing, so that it has the latest."""


class Reports:
    """`send` writes a frame to the supervisor's socket, from any thread."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._latest: dict[str, Progress] = {}
        self._lock = threading.Lock()
        self._signal = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, report: Progress) -> None:
        """Send it soon, unless another of the same job comes first."""
        with self._lock:
            self._latest[report.job_id] = report
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="reports", daemon=True)
                self._thread.start()
        self._signal.set()

    def drop(self, job_id: str) -> None:
        """The job has ended: what it reported is of no more use."""
        if self._latest:  # called for every job: most report nothing
            with self._lock:
                self._latest.pop(job_id, None)

    def close(self) -> None:
        """End the thread; what was not sent is dropped."""
        self._closed = True
        self._signal.set()

    def _run(self) -> None:
        while True:
            self._signal.wait()
            self._signal.clear()
            if self._closed:
                return
            with self._lock:
                reports = list(self._latest.values())
                self._latest.clear()
            try:
                for report in reports:
                    self._send(wire.frame(wire.PROGRESS, tuple(report)))
            except OSError:
                return  # the supervisor is gone; the reader sees to that
            time.sleep(PAUSE_SECONDS)
