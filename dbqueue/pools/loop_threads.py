"""Functions beside an event loop, in threads of the loop's own."""

from __future__ import annotations

import _thread
import asyncio
import contextlib
import contextvars
import math
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, TypeVar, cast

T = TypeVar("T")

ASK_SECONDS: Final = 1.0
"""How often the system is asked again for a thread that it has not given, and how often the loop looks up by itself."""
END_SECONDS: Final = 10.0
"""How long threads that have nothing to do may take to end."""
MOST_THREADS: Final = 32
"""Of a loop for which nobody has said how many."""


class Threads:
    """At most so many threads, each started when there is something to do and none is idle.

    Not the standard library's: those wait until a thread that they have started says so, and one that has no memory to
    begin with never does. The loop would stand still, with all its jobs. Nobody waits for these at the process's end.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._counting = threading.Condition()
        self._running = 0
        self._starting = 0
        """Those that were started and have not begun: one that never does is given up by `ask_again`."""
        self._started_at = -math.inf
        self._free = 0
        """Threads with nothing to do, less the calls that wait for one."""
        self._over = False

    def do(self, call: Callable[[], object]) -> None:
        """Have a thread call it, as soon as there is one. Where it raises it is called again, after ASK_SECONDS."""
        with self._counting:
            self._free -= 1
            self._calls.put(call)
            if self._free + self._starting < 0:
                self._start()

    def ask_again(self) -> None:
        """For who waits for a call to begin: the system may have given no thread, or one that could not."""
        with self._counting:
            if self._free < 0 and time.monotonic() - self._started_at >= ASK_SECONDS:
                self._starting = 0
                while self._free + self._starting < 0 and self._start():
                    pass

    def end(self) -> None:
        """Wait for the end of the threads, which have nothing to do any more."""
        self.leave()
        with self._counting:
            self._counting.wait_for(lambda: not self._running, timeout=END_SECONDS)

    def leave(self) -> None:
        """Have the threads end, each after what it does."""
        self._over = True  # of those that have not begun
        for _ in range(self._running):
            self._calls.put(None)

    def _start(self) -> bool:
        """Whether there is to be one more: there may be no more, or the system gives none now."""
        if self._running + self._starting >= self._most:
            return False
        self._started_at = time.monotonic()
        try:
            _thread.start_new_thread(self._run, ())
        except (RuntimeError, MemoryError):
            return False
        self._starting += 1
        return True

    def _run(self) -> None:
        with self._counting:
            self._starting = max(0, self._starting - 1)
            self._running += 1  # before the look: `leave` looks at this after it has said so, and holds no lock
            if self._over or self._running > self._most:
                self._running -= 1
                return
            name = f"slot_{self._running}"
        try:
            with contextlib.suppress(MemoryError):
                _be_like_others(name)
            while (call := self._next()) is not None:
                _call(call)
                del call
        finally:
            with self._counting:
                self._running -= 1
                self._counting.notify_all()

    def _next(self) -> Callable[[], object] | None:
        with self._counting:
            self._free += 1
        try:
            return self._calls.get()
        except BaseException:
            with self._counting:
                self._free -= 1
            raise


def _be_like_others(name: str) -> None:
    """As a thread that is started by `threading` has it."""
    threading.current_thread().name = name
    if (trace := threading.gettrace()) is not None:
        sys.settrace(trace)
    if (profile := threading.getprofile()) is not None:
        sys.setprofile(profile)


def _call(call: Callable[[], object]) -> None:
    while True:
        try:
            call()
            return
        except BaseException:  # noqa: BLE001 - no memory even to begin with it, or to say that it has ended
            try:  # noqa: SIM105 - `suppress` needs memory itself
                time.sleep(ASK_SECONDS)
            except BaseException:  # noqa: BLE001, S110
                pass


_threads: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Threads] = weakref.WeakKeyDictionary()


def threads_of(loop: asyncio.AbstractEventLoop, most: int = MOST_THREADS) -> Threads:
    """The loop's threads: so many at most, if it has none so far."""
    found = _threads.get(loop)
    if found is None:
        found = _threads[loop] = Threads(most)
        weakref.finalize(loop, found.leave)
    return found


async def in_thread(function: Callable[[], T]) -> T:
    """What the function gives, or raises, in a thread of the running loop's, with the caller's context.

    Where the system gives no thread it waits for one. A function that has closed all descriptors is waited for no
    longer than ASK_SECONDS: the loop, which nothing can wake any more, then fails. So is one whose thread has no memory
    left to wake the loop with. Raises MemoryError where there was none to call it with.
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    threads = threads_of(loop)
    ended: asyncio.Future[None] = loop.create_future()
    # Not in a list, whose first item needs memory.
    value: T | None = None
    error: BaseException | None = None
    begun, has_ended = threading.Lock(), False

    def call() -> None:
        nonlocal value, error, has_ended
        if ended.done() or not begun.acquire(False):  # cancelled while it waited for a thread, or called again
            return
        try:
            value = context.run(function)
        except BaseException as raised:  # noqa: BLE001 - who waits would wait for ever
            error = raised
        has_ended = True
        loop.call_soon_threadsafe(tell)

    def tell() -> None:
        if has_ended and not ended.done():
            ended.set_result(None)

    try:
        threads.do(call)
        while not ended.done():
            await asyncio.wait({ended}, timeout=ASK_SECONDS)
            tell()
            if not (begun.locked() or ended.done()):
                threads.ask_again()
        if error is not None:
            raise error
        return cast(T, value)
    finally:
        ended.cancel()
        error = None  # its traceback names this frame, and this frame would name it
