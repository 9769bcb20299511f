"""A child: takes jobs from its supervisor, runs them, and sends each outcome back at once.

Two kinds of thread share an inbox. The reader waits for the supervisor's messages, so that jobs
which wait here can be recalled while a task runs. The slots take jobs from the inbox in order and
run them. When the supervisor is gone the reader ends the process, whatever the slots do: another
worker will run their jobs.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import logging
import os
import queue
import resource
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, NoReturn, Protocol

from dbqueue.codec import describe_exception
from dbqueue.errors import EncodeError
from dbqueue.jobs import ClaimedJob, Failed, Outcome, Progress
from dbqueue.pools import interrupts, wire
from dbqueue.pools.reports import Reports

logger: Final = logging.getLogger("dbqueue.worker")

ORPHANED: Final = 70
"""Exit code of a child whose supervisor went away (EX_SOFTWARE)."""


class Execute(Protocol):
    """What runs one job: an executor that never raises and knows no database."""

    report: Callable[[Progress], None] | None
    """Takes what running jobs say of their progress."""
    retire: Callable[[str], None] | None
    """Asks for another process in this one's place, and says why: "has ..."."""

    def run(self, job: ClaimedJob) -> Outcome: ...

    def run_async(self, job: ClaimedJob) -> Awaitable[Outcome]: ...


class Inbox:
    """Jobs that were sent to this child and have not started. None means: stop."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[ClaimedJob | None] = queue.SimpleQueue()
        self.put = self._jobs.put
        self.take: Callable[[], ClaimedJob | None] = self._jobs.get

    def recall(self) -> list[ClaimedJob]:
        """Take back all that have not started; a slot that asks at the same moment gets each or not."""
        jobs: list[ClaimedJob] = []
        stops = 0
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is None:
                    stops += 1
                else:
                    jobs.append(job)
        for _ in range(stops):  # a recall after a stop must not undo it
            self._jobs.put(None)
        return jobs


class Link:
    """A child's end of the socket to its supervisor."""

    def __init__(self, connection: socket.socket, slots: int, max_memory_kilobytes: int | None = None) -> None:
        self.inbox = Inbox()
        self._max_memory = max_memory_kilobytes
        self._retires = False
        self._slots = slots
        self._socket = connection
        self._sending = threading.Lock()
        self._held: set[str] = set()
        """Jobs that were sent here, and that are not answered and not given back."""
        self._begun: set[str] = set()
        """Those of them that a slot has begun."""
        self._holding = threading.Lock()
        self.reports = Reports(self.send)

    def send(self, data: bytes) -> None:
        with self._sending:
            self._socket.sendall(data)

    def is_ready(self) -> None:
        """Have jobs sent here. All threads without which none can be answered are there: who
        ends for want of one loses no job with it."""
        self.send(wire.frame(wire.READY))

    def begins(self, job: ClaimedJob) -> None:
        """A slot runs the job from now on: its time counts."""
        self._begun.add(job.id)

    def report(self, outcome: Outcome) -> None:
        self.reports.drop(outcome.job_id)
        with self._holding:
            self._held.discard(outcome.job_id)
            self._begun.discard(outcome.job_id)
            interrupts.forget(outcome.job_id)
        try:
            data = wire.done_frame(outcome)
        except Exception as error:  # noqa: BLE001 - a value of the task's own class among its fields
            text, _ = describe_exception(EncodeError(f"the outcome cannot be sent: {error}"), max_bytes=4096)
            data = wire.done_frame(Failed(outcome.job_id, outcome.lease, text, None, 0.0))
        self.send(data)
        if self._max_memory is not None and not self._retires and peak_memory_kilobytes() > self._max_memory:
            self.retire("has grown past worker_max_memory_per_child")

    def retire(self, why: str) -> None:
        """Ask to be replaced, once."""
        if not self._retires:
            self._retires = True
            self.send(wire.frame(wire.RETIRE, why))

    def read(self, on_close: Callable[[], None]) -> None:
        """Serve the supervisor's messages until the socket closes."""
        reader = wire.Reader(self._socket)
        while (messages := reader.receive()) is not None:
            for message in messages:
                if message[0] == wire.RUN:
                    for job in wire.read_jobs(message[1]):
                        self._held.add(job.id)
                        self.inbox.put(job)
                elif message[0] == wire.IMPORT:
                    import_modules(message[1], reload=message[2])
                elif message[0] == wire.RECALL:
                    recalled = [job.id for job in self.inbox.recall()]
                    self._held.difference_update(recalled)
                    self.send(wire.frame(wire.RECALLED, recalled))
                elif message[0] == wire.INTERRUPT:
                    self._interrupt(*message[1:])
                elif message[0] == wire.STOP:
                    for _ in range(self._slots):
                        self.inbox.put(None)
        on_close()

    def _interrupt(self, job_id: str, limit: bool = False) -> None:
        with self._holding:
            if job_id in self._held:
                if limit and job_id not in self._begun:
                    self.send(wire.frame(wire.WAITING, job_id))
                else:
                    interrupts.interrupt(job_id)


RunSlots = Callable[[Link, Execute, int], None]
"""How a kind of pool says that its slots are ready, and runs jobs in them until it is told to stop."""


def run_child(
    connection: socket.socket,
    slots: int,
    execute: Execute,
    run_slots: RunSlots,
    max_memory_kilobytes: int | None = None,
) -> None:
    """Be a child process until told to stop. The supervisor's signals are not for children."""
    die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    interrupts.listen()
    link = Link(connection, slots, max_memory_kilobytes)
    execute.report, execute.retire = link.reports.put, link.retire
    threading.Thread(target=_read, args=(link,), name="reader", daemon=True).start()
    run_slots(link, execute, slots)
    sys.stdout.flush()
    sys.stderr.flush()


def import_modules(names: Iterable[str], *, reload: bool) -> None:
    """Import modules, anew where they are loaded already; what one raises is logged, and the others are imported."""
    for name in names:
        try:
            if reload and name in sys.modules:
                importlib.reload(sys.modules[name])
            else:
                importlib.import_module(name)
        except Exception:
            logger.exception("The module %s cannot be imported; what was loaded of it stays", name)


def peak_memory_kilobytes() -> int:
    """The most memory that this process has held resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def end_by_error() -> NoReturn:
    """End this process with the error that is being handled: what it runs beside is lost, but known to be.

    Whoever cannot be answered for, as where a task has closed the socket to the supervisor, would be STARTED for ever.
    """
    with contextlib.suppress(Exception):  # standard error may be closed, too
        traceback.print_exc()
    os._exit(1)


def _read(link: Link) -> None:
    try:
        link.read(_end_orphan)
    except BaseException:  # noqa: BLE001 - its slots would go on, deaf to all that follows
        end_by_error()


def _end_orphan() -> None:
    os._exit(ORPHANED)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; elsewhere the socket's end tells)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
