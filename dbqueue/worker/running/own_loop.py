"""The event loop of a thread that runs jobs: one for all its jobs, so that clients bound to it stay usable."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor, wait
from selectors import DefaultSelector
from socket import socketpair
from typing import Any


class OwnLoop:
    """Each thread that uses it has its own."""

    def __init__(self, leave: Callable[[], Coroutine[Any, Any, None]] | None) -> None:
        """`leave` runs on each loop before it ends."""
        self._leave = leave
        self._of_thread = threading.local()

    def have(self) -> None:
        """Make it, if need be. Raises OSError where the process has no file descriptors left for it."""
        if not _is_amid_another():
            self._runner()

    def run(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context | None = None) -> Any:
        """What the coroutine gives.

        A function that is called amid a coroutine, as calls are in eager mode, cannot run another one on its thread:
        a thread beside it does, and the function waits for that.
        """
        if not _is_amid_another():
            return self._runner().run(coroutine, context=context)
        beside: ThreadPoolExecutor | None = getattr(self._of_thread, "beside", None)
        if beside is None:
            beside = ThreadPoolExecutor(1, thread_name_prefix="loop")
            # Who is interrupted while the pool starts a thread leaves one that the pool does not know.
            beside.submit(int).result()
            self._of_thread.beside = beside
        run = _Run(coroutine)
        ended = beside.submit(self.run, run.until_left(), context)
        try:
            return ended.result()
        except BaseException:  # a time limit of the caller's, or Ctrl-C
            run.leave()
            wait((ended,))
            raise

    def close(self) -> None:
        """End this thread's, if it has one."""
        beside: ThreadPoolExecutor | None = getattr(self._of_thread, "beside", None)
        if beside is not None:
            del self._of_thread.beside
            try:
                beside.submit(self.close).result()
            finally:
                beside.shutdown()
        runner: asyncio.Runner | None = getattr(self._of_thread, "runner", None)
        if runner is not None:
            del self._of_thread.runner
            if runner.get_loop().is_closed():
                return
            if self._leave is not None:
                runner.run(self._leave())
            runner.close()

    def _runner(self) -> asyncio.Runner:
        runner: asyncio.Runner | None = getattr(self._of_thread, "runner", None)
        # A function may have closed it: `asyncio.get_event_loop().close()` is in many a program.
        if runner is None or runner.get_loop().is_closed():
            with DefaultSelector():  # what a loop takes: half a loop could not be closed, and would say so
                for end in socketpair():
                    end.close()
            runner = asyncio.Runner()
            runner.get_loop()  # which makes it
            self._of_thread.runner = runner
        return runner


class _Run:
    """A coroutine on another thread, which the one that waits for it may leave."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._on: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None
        self._left = False

    async def until_left(self) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self._on = asyncio.get_running_loop(), task
        if self._left:
            self._coroutine.close()
            return None
        return await self._coroutine

    def leave(self) -> None:
        self._left = True
        if self._on is not None:
            loop, task = self._on
            with contextlib.suppress(RuntimeError):  # it has ended, and its loop is closed
                loop.call_soon_threadsafe(task.cancel)


def _is_amid_another() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
