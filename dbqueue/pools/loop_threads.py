"""Functions beside an event loop, in the threads of its pool."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

NO_THREAD: Final = "can't start new thread"
"""What the interpreter says where the system gives it none."""


async def in_thread(function: Callable[[], T]) -> T:
    """What the function gives in a thread of the running loop's pool, with the caller's context. It may not raise.

    Where the system gives no further thread, one that is there does it when it has nothing else to do: the pool keeps
    what it was handed before it asks for a thread. (asyncio's own way raises, and the function runs all the same.)
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    ended: asyncio.Future[T] = loop.create_future()

    def call() -> None:
        if not ended.done():  # cancelled, while it waited for a thread
            loop.call_soon_threadsafe(tell, context.run(function))

    def tell(value: T) -> None:
        if not ended.done():
            ended.set_result(value)

    try:
        loop.run_in_executor(None, call)
    except RuntimeError as error:
        if str(error) != NO_THREAD:
            raise
    return await ended
