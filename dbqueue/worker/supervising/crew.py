"""The children of a worker: born, replaced, killed, counted.

The crew knows processes and sockets, not jobs: what a death means for the jobs that the child
held is the supervisor's to say.
"""

from __future__ import annotations

import itertools
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from dbqueue import signals
from dbqueue.pools import aio, prefork, solo, threads, wire
from dbqueue.pools.child import Execute, RunSlots, run_child
from dbqueue.pools.nursery import Died, Nursery, Unborn
from dbqueue.worker import log
from dbqueue.worker.config import MAX_PROCESSES, WorkerConfig
from dbqueue.worker.supervising.children import Child

POOLS: Final[dict[str, RunSlots]] = {
    "prefork": prefork.run_slots,
    "threads": threads.run_slots,
    "asyncio": aio.run_slots,
}
PROCESS_NAMES: Final = {"prefork": "ForkPoolWorker", "threads": "ThreadPoolWorker", "asyncio": "AsyncioWorker"}

QUICK_DEATH_SECONDS: Final = 1.0
"""A child that dies this young, with nothing done, is replaced only after as long again."""

CROWDED_SECONDS: Final = 1.0
"""How long to wait where the system has no room for a process."""

FIRST_ALONE: Final = 1_000_000
"""From this number on, children have one slot, for one job that may end its process."""
MAX_ALONE: Final = 8

DEAF_SECONDS: Final = 2.0
"""How long a doomed child may take to give back the jobs that wait in it."""
FROZEN_SECONDS: Final = 30.0
"""One that does not answer for so long is stopped, or a run holds its interpreter for good: what it runs beside that
one does not go on either, and counts as lost."""


class Crew:
    """`start_child(name)` runs first in each child; `execute` runs its jobs."""

    def __init__(self, config: WorkerConfig, execute: Execute, start_child: Callable[[str], None]) -> None:
        self._config, self._execute, self._start_child = config, execute, start_child
        self.selector = selectors.DefaultSelector()
        self.children: dict[int, Child] = {}
        self._wanted = set(range(1, config.concurrency + 1) if config.pool == "prefork" else range(1, 2))
        """The numbers of the children that are to be there; one of another number is leaving."""
        self._slots = 1 if config.pool in ("prefork", "solo") else config.concurrency
        self.shared = config.pool in ("threads", "asyncio")
        """Whether jobs run beside others in one process."""
        self._nursery: Nursery | None = None
        self._born_at: dict[int, float] = {}
        self._missing: dict[int, float] = {}
        """Numbers of children to bear, and when."""
        self._alone_not_before = 0.0
        self._is_crowded = False
        """Whether it was said that the system has no room for a process, and none was born since."""
        self._modules: tuple[tuple[str, ...], bool] = ((), False)
        """What each new child imports first, and whether anew; see `restart`."""
        self.place: socket.socket | None = None
        """The child's end of solo's socket, for the thread that runs its tasks."""

    def fork_nursery(self) -> None:
        """Before the process has any thread or connection."""
        if self._config.pool != "solo":
            self._nursery = Nursery(self._be_child)
            self.selector.register(self._nursery.socket, selectors.EVENT_READ, self._nursery)

    def start(self) -> None:
        """Bear all children; does nothing the second time."""
        if not self.children:
            self._missing = dict.fromkeys(sorted(self._wanted), 0.0)
            self.bear_missing()

    def _be_child(self, connection: socket.socket, number: int) -> None:
        self._start_child(f"{PROCESS_NAMES[self._config.pool]}-{number}")
        memory = self._config.max_memory_per_child
        run_child(connection, self._slots_of(number), self._execute, POOLS[self._config.pool], memory)
        signals.worker_process_shutdown.send(self._config.name, pid=os.getpid(), exitcode=0)

    def _slots_of(self, number: int) -> int:
        return 1 if number >= FIRST_ALONE else self._slots

    def _bear(self, number: int) -> None:
        signals.worker_before_create_process.send(self)
        try:
            ours = self._ask_for(number)
        except BlockingIOError:  # so many are to be born at once that the nursery takes no more requests
            self._bear_later(number, 0.0)
            return
        except OSError as error:
            self._has_no_room(number, error.errno)
            return
        alone = number >= FIRST_ALONE
        child = self.children[number] = Child(number, self._slots_of(number), ours, alone=alone)
        if alone:
            child.left = 1
        elif self._config.max_tasks_per_child is not None and self._nursery is not None:
            child.left = self._config.max_tasks_per_child
        if self._modules[0]:
            child.send(wire.frame(wire.IMPORT, *self._modules))
        self._born_at[number] = time.monotonic()
        self.selector.register(ours, selectors.EVENT_READ, child)
        if self._nursery is None:
            child.pid = os.getpid()

    def _ask_for(self, number: int) -> socket.socket:
        """Have a child born; returns the supervisor's end of its socket."""
        ours, theirs = socket.socketpair()
        if self._nursery is None:
            self.place = theirs
            return ours
        try:
            self._nursery.bear(number, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours

    def _has_no_room(self, number: int, errno: int | None) -> None:
        """The system has none for this child: it is tried again, and that is said once."""
        if not self._is_crowded:
            self._is_crowded = True
            why = os.strerror(errno or 0)
            log.logger.warning("No pool process can be started (%s): trying again every %g s", why, CROWDED_SECONDS)
        self._bear_later(number, CROWDED_SECONDS)

    def _bear_later(self, number: int, seconds: float) -> None:
        if number in self._wanted:
            self._missing[number] = time.monotonic() + seconds
        else:
            self._alone_not_before = time.monotonic() + seconds

    def nursery_events(self) -> list[Died] | None:
        """Deaths since the last call; None when the nursery is gone, and no child can be born."""
        assert self._nursery is not None
        events = self._nursery.events()
        if events is None:
            self.selector.unregister(self._nursery.socket)
            return None
        deaths = []
        for event in events:
            if isinstance(event, Died):
                deaths.append(event)
                continue
            child = self.children.get(event.number)
            if child is None:
                continue
            if isinstance(event, Unborn):
                self.hang_up(child)
                del self.children[event.number]
                self._has_no_room(event.number, event.errno)
                continue
            self._is_crowded = False
            child.pid = event.pid
            if child.killed:
                child.kill()
        return deaths

    def by_pid(self, pid: int) -> Child | None:
        return next((child for child in self.children.values() if child.pid == pid), None)

    def watch(self, child: Child) -> None:
        """Ask to be told when the socket takes data again, while there is some to send."""
        if not child.closed:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.wants_to_write else 0)
            if self.selector.get_key(child.socket).events != events:
                self.selector.modify(child.socket, events, child)

    def hang_up(self, child: Child) -> None:
        """The child's socket has ended. Its death follows, which the nursery tells of."""
        if self._nursery is not None:
            self._nursery.go_on()
        if not child.closed:
            self.selector.unregister(child.socket)
            child.close()

    def remove(self, child: Child, *, replace: bool) -> None:
        """The child is dead; another takes its number, at once unless this one died too young."""
        self.hang_up(child)
        del self.children[child.number]
        if child.alone and not child.ready:
            self._alone_not_before = time.monotonic() + QUICK_DEATH_SECONDS
        if replace and child.number in self._wanted:
            age = time.monotonic() - self._born_at[child.number]
            pause = QUICK_DEATH_SECONDS if age < QUICK_DEATH_SECONDS and not child.answered else 0.0
            self._bear_later(child.number, pause)

    def bear_missing(self) -> None:
        now = time.monotonic()
        for number in [number for number, at in self._missing.items() if at <= now]:
            del self._missing[number]
            self._bear(number)

    @property
    def is_settled(self) -> bool:
        """Whether no process is about to be started, or to end."""
        return not self._missing and all(child.ready and not child.stopping for child in self)

    def provide_alone(self, jobs: int) -> None:
        """Have processes for so many jobs that are each to run alone; what is no longer needed goes."""
        idle = [child for child in self if child.alone and not child.held and not child.stopping]
        for child in idle[jobs:]:
            self.retire(child)
        room = MAX_ALONE - sum(child.alone for child in self) if time.monotonic() >= self._alone_not_before else 0
        for _ in range(min(jobs - len(idle), room)):
            self._bear(next(number for number in itertools.count(FIRST_ALONE) if number not in self.children))

    # its size

    @property
    def slots(self) -> int:
        """How many jobs it can run at once."""
        return len(self._wanted) * self._slots

    def resize(self, change: int) -> None:
        """Bear this many more children, or let as many go: the idlest first, each when its running job has ended.

        Raises ValueError for a pool of one process, and where none would be left, or too many.
        """
        if self._config.pool != "prefork":
            raise ValueError(f"the pool {self._config.pool} cannot grow or shrink: it is one process")
        if len(self._wanted) + change < 1:
            raise ValueError(f"the pool has {len(self._wanted)} processes, and one must be left")
        if len(self._wanted) + change > MAX_PROCESSES:
            raise ValueError(f"the pool has {len(self._wanted)} processes, and may have {MAX_PROCESSES} at most")
        for _ in range(change):
            self._want_another()
        for number in sorted(self._wanted, key=self._load)[: max(0, -change)]:
            self._wanted.discard(number)
            self._missing.pop(number, None)
            if number in self.children:
                self.retire(self.children[number])

    def _want_another(self) -> None:
        # Not the number of a child that is leaving: it is in use until that one is dead.
        number = next(number for number in itertools.count(1) if number not in {*self._wanted, *self.children})
        self._wanted.add(number)
        self._missing[number] = time.monotonic()

    def restart(self, modules: Iterable[str] = (), *, reload: bool = False) -> None:
        """Replace each child when its running jobs have ended; those that come after import these modules first.

        They are forked from a process that has the application as it was when the worker started. Raises ValueError
        for solo, whose one child is the worker itself.
        """
        if self._config.pool == "solo":
            raise ValueError("the pool solo cannot be restarted: it is the worker's own process")
        self._modules = (tuple(dict.fromkeys((*self._modules[0], *modules))), reload or self._modules[1])
        for child in self:
            self.retire(child)

    def _load(self, number: int) -> tuple[int, int]:
        child = self.children.get(number)
        return (0 if child is None else len(child.held), -number)

    def recall(self, child: Child) -> None:
        """Ask for the jobs that it has not started."""
        if not child.recalling:
            child.recalling, child.recalled_at = True, time.monotonic()
            child.send(wire.frame(wire.RECALL))
            self.watch(child)

    def retire(self, child: Child) -> None:
        """Let it end once its running jobs have, and give back the others.

        One that others share is replaced at once: its last job may be a long one, and its other slots would wait.
        """
        if not child.stopping and self._config.pool != "solo":
            self.recall(child)
            child.stop()
            self.watch(child)
            if self.shared and child.number in self._wanted:
                self._wanted.discard(child.number)
                self._want_another()

    def end_doomed(self) -> None:
        """End the children that are doomed, as soon as nothing else runs there."""
        for child in self:
            if child.doomed_at is not None:
                self.retire(child)
                # What it has begun meanwhile is not among the jobs that it gives back. One that gives back nothing has
                # begun nothing either: the interpreter is held by the run that it is to be ended for.
                deaf = time.monotonic() - child.doomed_at > DEAF_SECONDS
                if not child.running and (deaf or not (child.held and child.recalling)):
                    child.end()
                elif self.shared and self._is_frozen(child):
                    child.doom()  # by a signal that does not wait until it goes on
                    child.end()

    def _is_frozen(self, child: Child) -> bool:
        """Whether it has not answered for so long; one that has is asked again, for it may have stopped since."""
        unheard = time.monotonic() - child.recalled_at > FROZEN_SECONDS
        if unheard and not child.recalling:
            self.recall(child)
            return False
        return unheard

    def kill(self) -> None:
        for child in self.children.values():
            child.kill()

    def close(self) -> None:
        """End every process of the crew. May be called twice."""
        if self._nursery is not None:
            self._nursery.close()
        for child in self.children.values():
            child.close()
        self.selector.close()

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self.children.values()))

    def run_in_place(self) -> None:
        """solo: be the child, on this thread."""
        assert self.place is not None
        solo.run_in_place(self.place, self._execute)
        log.logger.debug("The slot on thread %s has ended", threading.current_thread().name)
