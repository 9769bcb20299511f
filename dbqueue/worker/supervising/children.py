"""A child as the supervisor sees it: its socket, what it holds, and what it is running.

Slots start jobs in the order in which they were sent, and answer each as it ends. So the first
`slots` jobs without an answer are the running ones, and no message is needed to say so. A run that is
ended from here has its slot until it answers all the same, or its process ends: no other runs there.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Iterable
from itertools import islice

from dbqueue.jobs import ClaimedJob
from dbqueue.pools import wire
from dbqueue.worker.supervising.silence import Silence


class Child:
    """One pool process (or, for solo, this process)."""

    def __init__(self, number: int, slots: int, connection: socket.socket, *, alone: bool = False) -> None:
        """`alone`: it is there for one job that may end its process, in a pool where jobs share one."""
        self.number, self.slots, self.alone = number, slots, alone
        self.socket = connection
        self.pid: int | None = None
        self.ready = False
        self.answered = 0
        """How many jobs it has finished."""
        self.left: float = math.inf
        """How many jobs it may still be sent (`max_tasks_per_child`)."""
        self.closed = False
        self.stopping = False
        """Told to stop: it gets no more jobs."""
        self.recalling = False
        """Whether it has yet to give back what it has not started."""
        self.recalled_at = -math.inf
        """When it was last asked to (monotonic)."""
        self.killed = False
        """This worker has ended it: what ran there is not counted as lost."""
        self.doomed_at: float | None = None
        """Since when it is to be ended, for a job in it must not run on; as soon as nothing else runs there."""
        self._end_signal: int | None = None
        self.held: dict[str, ClaimedJob] = {}
        """Jobs sent and not answered, in the order in which they were sent."""
        self.written_off: set[str] = set()
        """Jobs whose outcome is known while their runs go on."""
        self.backlog_seconds = 0.0
        """How long the held jobs will keep one slot busy, by the times of earlier runs."""
        self.silence = Silence(time.monotonic())
        self._reader = wire.Reader(connection)
        self._unsent = bytearray()
        connection.setblocking(False)

    @property
    def running(self) -> list[ClaimedJob]:
        return list(islice(self.held.values(), max(0, self.slots - len(self.written_off))))

    @property
    def free(self) -> int:
        return int(min(self.left, max(0, self.slots - len(self.written_off) - len(self.held))))

    @property
    def busy(self) -> int:
        """How many jobs are here to run: those that run, those that wait, those that were written off and go on."""
        return len(self.held) + len(self.written_off)

    def write_off(self, job: ClaimedJob) -> None:
        """The outcome of this run, which goes on, is known: its answer is not waited for."""
        del self.held[job.id]
        self.written_off.add(job.id)

    def drop_answer(self, job_id: str) -> bool:
        """Free the slot of a run that was written off and has answered; whether it was one: nobody waits for that."""
        written_off = job_id in self.written_off
        self.written_off.discard(job_id)
        return written_off

    def send_jobs(self, jobs: Iterable[ClaimedJob]) -> None:
        jobs = list(jobs)
        if not jobs:  # none of a batch could be announced
            return
        if not self.held:
            self.silence.began_at = time.monotonic()
        self.left -= len(jobs)
        self.held.update((job.id, job) for job in jobs)
        self.send(wire.run_frame(jobs))

    def send(self, data: bytes) -> None:
        """Send, or keep what the socket does not take now: a stopped child must not block the loop."""
        self._unsent += data
        self.flush()

    def flush(self) -> None:
        while self._unsent:
            try:
                sent = self.socket.send(self._unsent)
            except BlockingIOError:
                return
            except OSError:
                self._unsent.clear()  # it died: its socket's end and the nursery will tell
                return
            del self._unsent[:sent]

    @property
    def wants_to_write(self) -> bool:
        return bool(self._unsent)

    def receive(self) -> list[tuple[object, ...]] | None:
        """Messages that have come; None at the end of the stream."""
        try:
            return self._reader.receive()
        except BlockingIOError:
            return []

    def last_words(self) -> list[tuple[object, ...]]:
        """All that a dead child has said and nobody has read yet.

        Not until the stream's end: a process that a task has started may hold the other end open.
        """
        messages: list[tuple[object, ...]] = []
        with contextlib.suppress(OSError):  # BlockingIOError: there is no more
            while (read := self._reader.receive()) is not None:
                messages += read
        return messages

    def stop(self) -> None:
        """Let it end once its running jobs have."""
        if not self.stopping:
            self.stopping = True
            self.send(wire.frame(wire.STOP))

    def doom(self, signum: int = signal.SIGKILL) -> None:
        """Have it ended with this signal, by `end` in its time."""
        self.doomed_at = self.doomed_at or time.monotonic()
        self._end_signal = signum

    def end(self) -> None:
        """Send the signal of `doom`, once. A process that it does not end is left to its task."""
        signum, self._end_signal = self._end_signal, None
        if signum is not None:
            self._signal(signum)

    def kill(self) -> None:
        """End it at once; a worker's own process (solo) is spared."""
        if self.pid != os.getpid():
            self.killed = True
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.pid is not None and self.pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.socket.close()
