"""The application under test: tasks that write down what they do. `make_app` is what `tests.workers` starts."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from dbqueue import DBQueue
from dbqueue.errors import OperationalError
from tests.chaos.history import VARIABLE, Recorder
from tests.waiting import wait_until

TICK_SECONDS = 0.05
USED_FIRST = "DBQUEUE_CHAOS_USED_FIRST"
"""Set: the application has used its database before a worker is made of it."""

record = Recorder(os.environ.get(VARIABLE, "."), "run")


def lease_of(request: Any) -> str:
    """The lease that a task runs under, which tasks have no use for and are not told."""
    lease: str = request._outlet[1]
    return lease


def slices(seconds: float) -> list[float]:
    whole, rest = divmod(seconds, TICK_SECONDS)
    return [TICK_SECONDS] * int(whole) + ([rest] if rest else [])


def finish(job: str, lease: str) -> str:
    value = uuid4().hex
    record("finish", job, lease, value=value)
    return value


def work(self: Any, seconds: float = 0.0) -> str:
    """Runs for so long, and says again and again that it does."""
    job, lease = self.request.id, lease_of(self.request)
    record("start", job, lease)
    for each in slices(seconds):
        time.sleep(each)
        record("tick", job, lease)
    return finish(job, lease)


async def awork(self: Any, seconds: float = 0.0) -> str:
    """As `work`, on an event loop."""
    job, lease = self.request.id, lease_of(self.request)
    record("start", job, lease)
    for each in slices(seconds):
        await asyncio.sleep(each)
        record("tick", job, lease)
    return finish(job, lease)


def hold_interpreter(self: Any, seconds: float) -> str:
    """A call into C that does not let go of the interpreter."""
    job, lease = self.request.id, lease_of(self.request)
    record("start", job, lease)
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))
    return finish(job, lease)


def fails(self: Any) -> None:
    record("start", self.request.id, lease_of(self.request))
    raise ValueError("as it is meant to")


def eat(self: Any, how: str, group: str) -> None:
    """Joins a group of processes whose memory is bounded, and takes more."""
    record("start", self.request.id, lease_of(self.request))
    record("fault", self.request.id, what=how, worker=None)
    Path(group).write_text(str(os.getpid()))
    bytearray(b"x" * (1 << 28))


def zombie(self: Any, how: str, go: str) -> str:
    """The first run waits for a file, and then ends in this way; the second waits for another."""
    job, lease = self.request.id, lease_of(self.request)
    record("start", job, lease)
    mark = Path(go + ".first")
    if mark.exists():
        wait_until(Path(go + ".second").exists)
        return finish(job, lease)
    mark.touch()
    wait_until(Path(go).exists)
    value = finish(job, lease)
    if how == "fail":
        raise ValueError("a zombie's failure")
    if how == "retry":
        raise self.retry(countdown=0)
    return value


def calls(self: Any) -> str:
    """Enqueues one more, which has the same id in each run, and asks until it is told that it is there."""
    job, lease = self.request.id, lease_of(self.request)
    record("start", job, lease)
    called = f"{job}-called"
    record("invoke", called)
    while True:
        try:
            self.app.tasks["chaos.work"].apply_async(task_id=called)
        except OperationalError as error:
            record("unknown", called, error=str(error)[:200])
        else:
            break
    record("ok", called)
    return finish(job, lease)


EFFECTS = "CREATE TABLE chaos_effects (job text NOT NULL)"
_ADD_EFFECT = sa.text("INSERT INTO chaos_effects (job) VALUES (:job)")


def effect(self: Any) -> str:
    """A transactional task: leaves a row, which is there as often as it has succeeded."""
    job, lease = self.request.id, lease_of(self.request)
    record("start", job, lease)
    self.session.execute(_ADD_EFFECT, {"job": job})
    return finish(job, lease)


async def aeffect(self: Any) -> str:
    """As `effect`, on an event loop."""
    job, lease = self.request.id, lease_of(self.request)
    record("start", job, lease)
    await self.session.execute(_ADD_EFFECT, {"job": job})
    return finish(job, lease)


def follow(self: Any, value: Any = None) -> str:
    """A job of a workflow: takes what the one before it has left."""
    job, lease = self.request.id, lease_of(self.request)
    record("start", job, lease)
    return finish(job, lease)


def poison(self: Any, how: str) -> None:
    """Does what ends a process, or never ends itself."""
    record("start", self.request.id, lease_of(self.request))
    record("fault", self.request.id, what=how, worker=None)
    _POISONS[how]()


def odd(self: Any, how: str) -> Any:
    """Returns what no database can keep, or raises what cannot be shown."""
    record("start", self.request.id, lease_of(self.request))
    record("fault", self.request.id, what=how, worker=None)
    value = _ODDITIES[how]()
    if isinstance(value, BaseException):
        raise value
    return value


def _segfault() -> None:
    ctypes.string_at(0)


def _recurse() -> None:
    sys.setrecursionlimit(10_000_000)
    _recurse_on([])


def _recurse_on(value: list[Any]) -> None:
    _recurse_on([value])


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)
    os._exit(1)


def _loop() -> None:
    while True:
        pass


def _hang() -> None:
    ctypes.PyDLL(None).usleep(600_000_000)


def _close_all() -> None:
    os.closerange(3, 256)
    os._exit(0)


def _eat_memory() -> None:
    limit = 1 << 29
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    bytearray(1 << 30)


def _memory_kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # what the kernel's out-of-memory killer does, seen from here


_POISONS = {
    "segfault": _segfault,
    "abort": os.abort,
    "_exit": lambda: os._exit(0),
    "sys.exit": sys.exit,
    "loop": _loop,
    "hang": _hang,
    "recursion": _recurse,
    "fork": _fork,
    "close all": _close_all,
    "memory": _eat_memory,
    "memory kill": _memory_kill,
}


class Unshowable(Exception):
    """Raises when it is shown, and when it is sent."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__

    def __reduce__(self) -> Any:
        raise RuntimeError("no reduce")


def _nested() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def _caused() -> BaseException:
    error: Exception = ValueError(0)
    for number in range(1000):
        try:
            raise ValueError(number) from error
        except ValueError as caught:
            error = caught
    return error


_ODDITIES: dict[str, Callable[[], Any]] = {
    "nul": lambda: "a\0b",
    "surrogate": lambda: "\ud800",
    "nan": lambda: float("nan"),
    "nested": _nested,
    "large": lambda: "x" * 100_000_000,
    "unpicklable": threading.Lock,
    "unshowable": Unshowable,
    "causes": _caused,
}


def make_app(url: str, **settings: Any) -> DBQueue:
    app = DBQueue("chaos", broker=url, set_as_current=False, **settings)
    for task in (work, awork, hold_interpreter, follow, fails, eat, zombie, calls):
        app.task(name=f"chaos.{task.__name__}", bind=True)(task)
    for transactional in (effect, aeffect):
        app.task(name=f"chaos.{transactional.__name__}", bind=True, transactional=True)(transactional)
    app.task(name="chaos.poison", bind=True, time_limit=1.5)(poison)
    app.task(name="chaos.odd", bind=True)(odd)
    app.task(name="chaos.once", bind=True, acks_late=False)(work)
    app.task(name="chaos.beaten", bind=True)(work)
    app.task(name="chaos.zombie_once", bind=True, acks_late=False)(zombie)
    app.task(name="chaos.limited", bind=True, time_limit=1.0)(hold_interpreter)
    if os.environ.get(USED_FIRST):
        app.AsyncResult("nobody").exists()
        app.database.store.wake()
    return app
