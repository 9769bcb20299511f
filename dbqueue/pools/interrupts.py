"""Raising SoftTimeLimitExceeded inside a running task, and in no other moment.

The supervisor says which job has had its time; by then the slot may be busy with the next one. So
each slot says which job it is running, and only that one is interrupted.

    a function on the process's main thread   by a signal, out of a blocking call too
    a function on another thread              by the interpreter, at the next bytecode: cooperative; also where the
                                              job is an event loop's
    a coroutine                               at the `await` where it waits; on a main thread's loop by the
                                              signal as well, where it blocks the loop

A coroutine is stepped by hand (`Steps`): a task of asyncio can only be cancelled, and the exception
of the limit would come where the task can no longer catch it. And only between two of its steps is it
known that the signal would hit the event loop itself.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import threading
import time
from collections.abc import Awaitable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from dbqueue.errors import SoftTimeLimitExceeded

SIGNAL: Final = getattr(signal, "SIGUSR1", None)
"""Celery's choice too."""

_running: dict[str, int | asyncio.Task[object] | Steps] = {}
"""The thread, the task of the event loop, or the coroutine that runs each job of this process."""
_due: set[str] = set()
"""Jobs whose soft limit has passed."""
_signalled: str | None = None
"""Whose limit the signal has raised last, on the main thread."""
_aimed_at: set[str] = set()
"""Jobs whose thread is looked for, and hit, just now. (No lock: what is raised on a thread may come between its taking
and the block that lets it go, and another thread's does not come to a copy of the process.)"""

if hasattr(os, "register_at_fork"):  # in a copy nobody goes on with it
    os.register_at_fork(after_in_child=_aimed_at.clear)


class Interruptible:
    """The job may be interrupted in this block; CancelledError for that reason becomes SoftTimeLimitExceeded."""

    # Around every job: a generator as context manager takes three times as long.

    __slots__ = ("_job_id", "_task")

    def __init__(self, job_id: str, task: asyncio.Task[object] | None = None) -> None:
        self._job_id, self._task = job_id, task

    def __enter__(self) -> None:
        _running[self._job_id] = self._task or threading.get_ident()
        if self._job_id in _due:  # its time was over before it began: this process had to wait for the processor
            self._leave()
            raise SoftTimeLimitExceeded

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        due = self._leave()
        if due and self._task is not None and kind is not None and issubclass(kind, asyncio.CancelledError):
            self._task.uncancel()
            raise SoftTimeLimitExceeded from None

    def _leave(self) -> bool:
        """Whether its time is over."""
        try:
            _leave(self._job_id)
        finally:
            due = self._job_id in _due
            _due.discard(self._job_id)
        return due


@contextmanager
def on_this_thread(job_id: str) -> Iterator[None]:
    """The job's function runs here, on a thread of its event loop's: it is interrupted here, and the loop waits for it.

    Cancelled, the job would have ended while its function runs on, in a slot that is taken for free.
    """
    around = _running[job_id]
    _running[job_id] = threading.get_ident()
    try:
        if job_id in _due:
            raise SoftTimeLimitExceeded
        yield
    finally:
        _leave(job_id, around)


def _leave(job_id: str, around: int | asyncio.Task[object] | Steps | None = None) -> None:
    """Nothing is aimed at this thread any more, and what was is spent here: it goes on to what is `around` the job.

    Hit later, it would be at its pool's own work, or at another job.
    """
    hit = False
    while True:
        try:
            if around is None:
                _running.pop(job_id, None)
            elif _running.get(job_id) == threading.get_ident():  # else it was answered for already
                _running[job_id] = around
            while job_id in _aimed_at:
                time.sleep(0)
            _spent()
            break
        except SoftTimeLimitExceeded:
            hit = True
    if hit and _was_for_another(job_id):
        raise SoftTimeLimitExceeded


def _was_for_another(job_id: str) -> bool:
    """Whether what has just hit this thread was for the job around an eager call: it is raised there, or is the call's
    end, as anywhere else in the call."""
    thread = threading.get_ident()
    if thread == threading.main_thread().ident and _signalled != job_id and _signalled in _running:
        return True
    return any(_running.get(due) == thread for due in list(_due))


def _spent() -> None:
    """The interpreter raises what is due on a thread where it begins a function."""


class Steps:
    """An awaitable of a job, to be awaited inside `Interruptible`."""

    def __init__(self, job_id: str, awaitable: Awaitable[Any]) -> None:
        self._job_id = job_id
        self._coroutine = awaitable if isinstance(awaitable, Coroutine) else _awaiting(awaitable)
        self._task: asyncio.Task[object] | None = None
        self.on_main_thread = False
        self.stepping = False
        """Whether the job's own code runs just now, rather than the event loop."""

    def __await__(self) -> Generator[Any, None, Any]:
        self._task = asyncio.current_task()
        self.on_main_thread = threading.current_thread() is threading.main_thread()
        around = _running[self._job_id]
        _running[self._job_id] = self
        error: BaseException | None = None
        try:
            while True:
                try:
                    self.stepping = True
                    waited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
                except StopIteration as end:
                    return end.value
                finally:
                    self.stepping = False
                try:
                    yield waited
                    error = None
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001 - whatever it is, it is the job's
                    error = self._meaning(thrown)
        finally:
            _running[self._job_id] = around
            self._coroutine.close()

    def _meaning(self, thrown: BaseException) -> BaseException:
        """A cancellation that only stands for the limit is the limit's exception."""
        if isinstance(thrown, asyncio.CancelledError) and self._job_id in _due and self._task is not None:
            _due.discard(self._job_id)
            self._task.uncancel()
            return SoftTimeLimitExceeded()
        return thrown

    def interrupt(self) -> None:
        """Have the job's `await` raise; on any thread."""
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        if _running.get(self._job_id) is self and self._job_id in _due and self._task is not None:
            self._task.cancel()


async def _awaiting(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def interrupt(job_id: str) -> None:
    """Raise SoftTimeLimitExceeded in the job, which is running or about to. Called on the reader's thread.

    For one that has ended, `forget` must follow.
    """
    _due.add(job_id)  # first: a slot that begins the job now looks here after it has said so
    slot = _running.get(job_id)
    if slot is None:
        return
    main = threading.main_thread().ident
    on_main = slot.on_main_thread if isinstance(slot, Steps) else slot == main
    if on_main and main is not None and SIGNAL is not None and signal.getsignal(SIGNAL) is _on_signal:
        signal.pthread_kill(main, SIGNAL)
    elif isinstance(slot, Steps):
        slot.interrupt()
    elif isinstance(slot, asyncio.Task):
        slot.get_loop().call_soon_threadsafe(slot.cancel)
    else:
        _aimed_at.add(job_id)  # before the look: a thread that leaves its job looks here when it has left
        try:
            if _running.get(job_id) == slot:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(slot), ctypes.py_object(SoftTimeLimitExceeded)
                )
        finally:
            _aimed_at.discard(job_id)


def forget(job_id: str) -> None:
    """The job has ended: what comes for it now is too late, and not for its next run.

    One that was hit as it began or left is still said to run here, where another job does by now.
    """
    _running.pop(job_id, None)
    _due.discard(job_id)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _signalled  # noqa: PLW0603 - of the process
    ident = threading.main_thread().ident
    hit: str | None = None
    for job_id in list(_due):
        slot = _running.get(job_id)
        if isinstance(slot, Steps):
            if slot.on_main_thread and slot.stepping:
                hit = job_id
            else:
                slot.interrupt()
        elif slot == ident:
            hit = job_id
    if hit is not None:
        _due.discard(hit)
        _signalled = hit
        raise SoftTimeLimitExceeded


def listen() -> None:
    """Let the signal interrupt this thread, if it is the process's main thread."""
    if SIGNAL is not None and threading.current_thread() is threading.main_thread():
        signal.signal(SIGNAL, _on_signal)
