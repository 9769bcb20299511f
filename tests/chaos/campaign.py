"""One run of the suite: a database with its trigger, workers with their histories, faults, healing, and the verdict."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue, chain, chord
from dbqueue.errors import DBQueueError, OperationalError
from dbqueue.failpoints import LOG_VARIABLE
from dbqueue.failpoints import VARIABLE as FAILPOINTS
from dbqueue.jobs import new_job_id
from tests.chaos import checker, history, leaks, transitions
from tests.chaos.load import make_app
from tests.waiting import wait_until
from tests.workers import WorkerProcess

LEASE = {"worker_lease_seconds": 2.5, "worker_heartbeat_interval": 0.4, "task_max_losses": 60}
"""Short, for a rescue is waited for; but a worker that waits for the processor must not lose it."""
POOLS = ("prefork", "threads", "asyncio")
SLOW_SECONDS = 15.0
"""What a crowded machine may add to the time that a rescue takes."""
TASKS = {"asyncio": "chaos.awork"}
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Pulse:
    """Measures how late a process that wants to run is run: one of its own, for the threads here share a lock."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _PULSE], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.longest_wait = 0.0
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def stop(self) -> None:
        with self._process:  # which closes its pipes
            self._process.kill()
            self._listener.join()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.longest_wait = float(line)


_PULSE = """
import select, sys, time
longest = 0.0
while True:
    began = time.monotonic()
    if select.select([0], [], [], 0.02)[0]:
        break  # whoever wants to know has ended
    if (late := time.monotonic() - began - 0.02) > longest + 0.01:
        longest = late
        print(longest, flush=True)
"""


class Campaign:
    """Use as a context: what it started has ended after it."""

    def __init__(self, url: str, folder: Path, *, app_url: str | None = None, **settings: Any) -> None:
        """`app_url` is how this process reaches the database, where `url` (the workers' way) is under attack."""
        self.url, self.folder = url, folder
        self.settings = LEASE | settings
        self.log = history.Recorder(folder / "history", "test")
        self.workers: list[WorkerProcess] = []
        self._descriptors: dict[int, int] = {}
        """How many each of them had open at its start, where that was waited for."""
        self.may_fail: set[str] = set()
        self.crashed = False
        self.void = False
        """Whether the moment that the fault is for has not come: the run proves nothing."""
        self.zombies = False
        """Whether processes are stopped, so that they cannot end their runs in time."""
        self.heal_seconds = 0.0
        self.heal_timeout = 120.0
        self.app: DBQueue = make_app(app_url or url, **self.settings)
        self._healing_since: float | None = None
        self._counted = 0
        self._producers: list[threading.Thread] = []
        self._stop = threading.Event()
        self._pulse = Pulse()
        self._known: dict[str, None] = {}
        self._answered: dict[str, tuple[str, str | None]] = {}
        transitions.install(self.store)
        self._clock_offset = self._read_offset()

    @property
    def starved(self) -> bool:
        """Whether the machine let a process wait for about as long as a worker has between its deadline and its rival.

        A tenth of a lease; a worker that gets no processor then is a zombie that nobody has made.
        """
        return self._pulse.longest_wait > 0.05 * float(self.settings["worker_lease_seconds"])

    @property
    def store(self) -> Any:
        return self.app.database.store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pulse.stop()
        for thread in self._producers:
            thread.join(60)
        for worker in self.workers:
            worker.end()
        self.app.close()

    # load

    def enqueue(self, count: int, *args: Any, task: str = "chaos.work", **options: Any) -> list[str]:
        """Call the task so many times; a call that fails is repeated with its id until it is acknowledged."""
        ids = [new_job_id() for _ in range(count)]
        for job in ids:
            self.send(job, *args, task=task, **options)
        return ids

    def send(self, job: str, *args: Any, task: str, app: DBQueue | None = None, **options: Any) -> None:
        self.log("invoke", job)
        self._known[job] = None
        while True:
            try:
                (app or self.app).tasks[task].apply_async(args, task_id=job, **options)
            except OperationalError as error:
                self.log("unknown", job, error=str(error)[:200])
                if self._stop.wait(0.02):
                    return
            except DBQueueError as error:
                self.log("refused", job, error=str(error)[:200])
                return
            else:
                self.log("ok", job)
                return

    def enqueue_many(self, count: int, *args: Any, task: str = "chaos.work") -> list[str]:
        """As `enqueue`, in one batch."""
        ids = [result.id for result in self.app.tasks[task].enqueue_many([args] * count)]
        self.know(ids)
        return ids

    def workflows(self, count: int, *, failing: bool = False) -> None:
        """Enqueue chains and chords: three jobs, and four more of which one waits for all others.

        `failing`: chains of two as well, whose first fails, so that the second never runs.
        """
        follow, fails = self.app.tasks["chaos.follow"], self.app.tasks["chaos.fails"]
        for _ in range(count):
            chained = chain(follow.si(), follow.s(), follow.s()).apply_async()
            self.know([chained.id, chained.parent.id, chained.parent.parent.id])
            joined = chord([follow.si() for _ in range(3)], follow.s()).apply_async()
            self.know([joined.id, *(member.id for member in joined.parent.results)])
            if failing:
                broken = chain(fails.si(), follow.s()).apply_async()
                self.know([broken.id, broken.parent.id])
                self.may_fail.update((broken.id, broken.parent.id))

    def know(self, ids: Collection[str]) -> None:
        """Jobs that were enqueued in another way, and acknowledged."""
        for job in ids:
            self.log("invoke", job)
            self.log("ok", job)
            self._known[job] = None

    def producing(self, *args: Any, task: str = "chaos.work", pause: float = 0.004, app: DBQueue | None = None) -> None:
        """Go on enqueueing beside all else, until `heal`."""

        def produce() -> None:
            while not self._stop.wait(pause):
                self.send(new_job_id(), *args, task=task, app=app)

        thread = threading.Thread(target=produce)
        self._producers.append(thread)
        thread.start()

    def stop_producing(self) -> None:
        self._stop.set()
        for thread in self._producers:
            thread.join(60)
            assert not thread.is_alive(), "a producer is stuck in an enqueue"
        self._producers.clear()
        self._stop.clear()

    # workers

    def start_worker(
        self,
        pool: str = "prefork",
        *,
        url: str | None = None,
        failpoints: str = "",
        environment: dict[str, str] | None = None,
        settings: dict[str, Any] | None = None,
        ready: bool = True,
        concurrency: int = 2,
        options: dict[str, Any] | None = None,
    ) -> WorkerProcess:
        number = len(self.workers)
        surroundings = {
            history.VARIABLE: str(self.folder / "history"),
            FAILPOINTS: failpoints,
            LOG_VARIABLE: str(self.folder / f"failpoints-{number}"),
            **(environment or {}),
        }
        worker = WorkerProcess(
            url or self.url,
            pool=pool,
            module="tests.chaos.load",
            concurrency=concurrency,
            settings=self.settings | (settings or {}),
            environment=surroundings,
            folder=self.folder,
            ready=False,
            **(options or {}),
        )
        self.workers.append(worker)
        if ready:
            worker.wait_ready()
            self._descriptors[worker.pid] = leaks.descriptors(worker.pid)
        return worker

    # faults

    def fault(self, what: str, worker: WorkerProcess | None = None) -> None:
        """Say that this happens now; no worker: to all of them."""
        self.log("fault", what=what, worker=worker and worker.pid)
        self._counted = self.running()

    def kill_child(self, worker: WorkerProcess, victim: int) -> bool:
        self.fault("SIGKILL of a child", worker)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
            return True
        return False

    # what is to be seen

    def running(self) -> int:
        """How many runs have begun so far."""
        return sum(1 for event in self.events() if event.kind == "start")

    def events(self) -> list[history.Event]:
        events = history.read(self.folder / "history")
        for number, worker in enumerate(self.workers):
            events += history.read_failpoints(self.folder / f"failpoints-{number}", worker.pid)
        return sorted(events, key=lambda event: event.at)

    def wait_running(self, more: int = 1, timeout: float = 60.0) -> None:
        """Until so many more runs have begun, since the last fault or the last of these calls."""
        target = self._counted + more
        self._counted = wait_until(
            lambda: found if (found := self.running()) >= target else 0, timeout=timeout, what=f"{more} more runs"
        )

    def statuses(self) -> dict[str, int]:
        with self.store.connect() as connection:
            query = "SELECT status, count(*) FROM dbqueue_jobs GROUP BY status"
            return {row[0]: row[1] for row in connection.execute(sa.text(query))}

    def unfinished(self) -> int:
        return sum(count for status, count in self.statuses().items() if status not in checker.TERMINAL)

    def last_round(self) -> set[str]:
        """The statuses that the last transaction which has changed jobs has left (PostgreSQL)."""
        with self.store.connect() as connection:
            query = """SELECT DISTINCT status FROM dbqueue_jobs
                WHERE age(xmin) = (SELECT min(age(xmin)) FROM dbqueue_jobs)"""
            return set(connection.execute(sa.text(query)).scalars())

    def starts(self, job: str) -> list[str]:
        """The leases under which it has begun, in order."""
        return [event.lease for event in self.events() if event.kind == "start" and event.job == job]

    def wait_starts(self, job: str, count: int) -> None:
        wait_until(lambda: len(self.starts(job)) >= count, what=f"{count} runs of the job")

    def wait_points(self, count: int, feed: Callable[[], None] = lambda: None) -> None:
        """Until failpoints of the workers have been passed so often; `feed` is called as long as they have not."""

        def passed() -> bool:
            logs = [self.folder / f"failpoints-{number}" for number in range(len(self.workers))]
            if sum(len(log.read_text().splitlines()) for log in logs if log.exists()) >= count:
                return True
            feed()
            return False

        wait_until(passed, what=f"{count} failpoints")

    def wait_finish(self, job: str, lease: str) -> None:
        """Until its run under this lease has ended, whether anybody has been told or not."""

        def has_finished() -> bool:
            found = (event for event in self.events() if event.kind == "finish")
            return any((event.job, event.lease) == (job, lease) for event in found)

        wait_until(has_finished, what="the end of the run")

    def wait_event(self, kind: str) -> None:
        wait_until(lambda: any(event.kind == kind for event in self.events()), what=f"an event: {kind}")

    def wait_done(self) -> None:
        wait_until(lambda: self.unfinished() == 0, what="the end of all jobs")

    # the end

    def heal(self, timeout: float | None = None) -> None:
        """The faults have ended: wait until all is done, and note how long that took."""
        began = time.monotonic()
        self.stop_producing()
        self._healing_since = history.boot_clock()

        def healed() -> bool:
            try:
                self.answers()
                return self.unfinished() == 0
            except OperationalError:
                return False

        try:
            wait_until(healed, timeout=timeout or self.heal_timeout, what="the end of all jobs")
        except AssertionError as error:
            logs = "\n".join(worker.log[-1500:] for worker in self.workers if worker.alive)
            raise AssertionError(f"{error}; {self.statuses()}\n{logs}") from None
        self.heal_seconds = time.monotonic() - began
        self._see_no_leaks()

    def answers(self) -> None:
        """Read what a client would be told, and note each answer that is new."""
        ids = list(self._known)
        for start in range(0, len(ids), 500):
            for job, record in self.store.finished(ids[start : start + 500]).items():
                if self._answered.get(job) != (record.status, record.result):
                    self._answered[job] = record.status, record.result
                    answer = self.app.AsyncResult(job)
                    value = answer.result if record.status == "SUCCESS" else None
                    self.log("answer", job, status=record.status, value=value)

    def stop_workers(self, code: int = 0) -> None:
        """End the workers that live, and see that nothing of them is left."""
        living = [worker for worker in self.workers if worker.alive]
        for worker in living:
            worker.term()
        for worker in living:
            assert worker.wait() == code, worker.log[-3000:]
        for worker in self.workers:
            wait_gone(worker)
        self._see_no_leaks()

    def _see_no_leaks(self) -> None:
        living = {worker.pid for worker in self.workers if worker.alive}
        leaks.await_descriptors({pid: count for pid, count in self._descriptors.items() if pid in living})
        if not self.settings.get("database_pooler"):  # whose sessions are its own affair
            leaks.await_sessions(self.store, leaks.SESSIONS * len(living))

    def verdict(self) -> checker.Verdict:
        rows = transitions.read_rows(self.store)
        return checker.check(
            checker.Evidence(
                self.events(),
                transitions.read_transitions(self.store),
                rows,
                transitions.read_workers(self.store),
                clock_offset=self._clock_offset,
                crashed=self.crashed,
                zombies=self.zombies,
                healing_since=self._healing_since,
                patience_seconds=self._patience_seconds,
                may_fail=self.may_fail,
            )
        )

    @property
    def _patience_seconds(self) -> float:
        """A lease, and two looks for dead workers (I6); the work itself is none of a job that has run, or is due."""
        look = max(1.0, float(self.settings["worker_heartbeat_interval"]))  # SQLite's is a second
        return float(self.settings["worker_lease_seconds"]) + 2 * 1.2 * look + SLOW_SECONDS

    def _read_offset(self) -> float:
        query = "SELECT extract(epoch FROM clock_timestamp())"
        if self.store.dialect == "sqlite":
            query = "SELECT (julianday('now') - 2440587.5) * 86400.0"
        with self.store.connect() as connection:
            return history.boot_clock() - float(connection.execute(sa.text(query)).scalar_one())


def children_of(pid: int) -> list[int]:
    """The pool processes of a worker, or whatever else descends from it directly."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def pool_processes(worker: WorkerProcess) -> list[int]:
    """Its pool processes, when there are any."""
    return wait_until(
        lambda: [child for nursery in children_of(worker.pid) for child in children_of(nursery)], what="a pool process"
    )


def wait_gone(worker: WorkerProcess, timeout: float = 60.0) -> None:
    """Until neither the worker nor anything that it has started is left."""
    wait_until(lambda: not worker.alive and worker.family() == [], timeout=timeout, what="the end of its processes")


def task_of(pool: str) -> str:
    return TASKS.get(pool, "chaos.work")


def wrong_clock(shift: str) -> dict[str, str]:
    """The environment of a process whose clock is so many seconds off."""
    if not FAKETIME.exists():
        pytest.skip("the library libfaketime is not installed")
    return {"LD_PRELOAD": str(FAKETIME), "FAKETIME": f"{shift}s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
