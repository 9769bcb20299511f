"""A worker whose loop the test turns.

No processes and no database are there. What is sent to a child is read at the other end of its socket, what the
database is to be told is looked up in the rounds, whose thread does not run.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.jobs import ClaimedJob, Outcome, Released, Succeeded
from dbqueue.pools import wire
from dbqueue.pools.nursery import Died
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.crew import Crew
from dbqueue.worker.supervising.limits import Limits, TimeLimits
from dbqueue.worker.supervising.supervisor import Supervisor
from dbqueue.worker.watch import boot_clock
from tests.stores import claimed_job

PID = 2**22 + 1
"""More than any process has."""


longest_wait = Supervisor._longest_wait
"""Which no turn here waits for."""


class Nursery:
    """Bears nobody: the test has the children's ends of their sockets, and tells of deaths."""

    def __init__(self) -> None:
        self.socket, self._other = socket.socketpair()
        self.ends: dict[int, socket.socket] = {}
        self.deaths: list[Died] | None = []

    def bear(self, number: int, connection: socket.socket) -> None:
        if number in self.ends:
            self.ends[number].close()
        self.ends[number] = connection.dup()

    def dies(self, child: Child, status: int = 9) -> None:
        assert self.deaths is not None
        assert child.pid is not None
        self.deaths.append(Died(child.pid, status))
        self._other.send(b"\0")

    def is_gone(self) -> None:
        self.deaths = None
        self._other.send(b"\0")

    def events(self) -> list[Died] | None:
        self.socket.recv(100)
        deaths, self.deaths = self.deaths, [] if self.deaths is not None else None
        return deaths

    def go_on(self) -> None:
        pass

    def close(self) -> None:
        for end in (self.socket, self._other, *self.ends.values()):
            end.close()


class Worker:
    """A supervisor whose loop the test turns."""

    def __init__(self, *, concurrency: int = 1, pool: str = "prefork", **config: Any) -> None:
        settings = WorkerConfig("w@test", ("celery",), pool, concurrency, **config)
        self.crew = Crew(settings, SimpleNamespace(), lambda name: None)
        self.nursery = Nursery()
        self.crew._nursery = self.nursery  # type: ignore[assignment]
        store: Any = SimpleNamespace(sees_deaths=True, must_poll=False, supports_listen=True)
        self.readied = 0
        limits = TimeLimits({}, Limits())
        supervisor = self.supervisor = Supervisor(store, settings, self.crew, limits=limits, on_ready=self._is_ready)
        self.rounds, self.ending, self.dispatcher = supervisor._rounds, supervisor._ending, supervisor._dispatcher
        self.crew.selector.register(supervisor._wakeup.reader, selectors.EVENT_READ, supervisor._wakeup)
        self.crew.selector.register(self.nursery.socket, selectors.EVENT_READ, self.nursery)
        supervisor._watch.beat_for("w@test#1", boot_clock())
        self.crew.start()
        for child in self.crew:
            child.pid = PID + child.number
        self.readers = {number: wire.Reader(end) for number, end in self.nursery.ends.items()}
        for end in self.nursery.ends.values():
            end.setblocking(False)

    def _is_ready(self) -> None:
        self.readied += 1

    @property
    def child(self) -> Child:
        (child,) = self.crew
        return child

    def turn(self) -> None:
        self.supervisor._look_after_at = 0.0
        self.supervisor._turn()

    def says(self, *message: Any, child: int = 1) -> None:
        """The child does, and is heard."""
        self.nursery.ends[child].send(wire.frame(*message))
        self.turn()

    def answers(self, outcome: Outcome, child: int = 1) -> None:
        self.nursery.ends[child].send(wire.done_frame(outcome))
        self.turn()

    def is_ready(self) -> None:
        for number in list(self.nursery.ends):
            self.says(wire.READY, child=number)
        self.sent()

    def claims(self, *jobs: ClaimedJob) -> None:
        """The rounds did; and the next turn of the loop."""
        self.rounds.handover.add(jobs)
        self.rounds.handover.give()
        self.turn()

    def sent(self, child: int = 1) -> list[Any]:
        """The kinds of the messages to a child since the last look."""
        try:
            return [message[0] for message in self.readers[child].receive() or ()]
        except BlockingIOError:
            return []

    def written(self) -> list[Outcome]:
        """What the database is to be told since the last look."""
        outcomes = list(self.rounds._holding.outcomes)
        self.rounds._holding.outcomes.clear()
        return outcomes

    def close(self) -> None:
        self.crew.close()
        self.supervisor._wakeup.close()


@contextlib.contextmanager
def starting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []
    monkeypatch.setattr(Supervisor, "_longest_wait", lambda self: 0.0)

    def start(*, ready: bool = True, **options: Any) -> Worker:
        workers.append(Worker(**options))
        if ready:
            workers[-1].is_ready()
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def released(job: ClaimedJob, *, lost: bool = False, ended: bool = False) -> Outcome:
    return Released(job.id, job.lease, job.ready_at, lost=lost, ended=ended)


def done(job: ClaimedJob) -> Outcome:
    return Succeeded(job.id, job.lease, "1", 9.0)


A, B, C = (claimed_job(each, redeliver=True) for each in "abc")
