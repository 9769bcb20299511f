"""Functions beside an event loop, in the threads of its pool."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Final, TypeVar, cast

T = TypeVar("T")

NO_THREAD: Final = "can't start new thread"
"""What the interpreter says where the system gives it none."""
ASK_SECONDS: Final = 1.0
"""How often it is asked again, and how often the loop looks up by itself meanwhile."""


async def in_thread(function: Callable[[], T]) -> T:
    """What the function gives in a thread of the running loop's pool, with the caller's context. It may not raise.

    Where the system gives no thread it waits for one: the pool keeps what it was handed, and whichever thread is free
    first does it. (asyncio's own way raises then, and the function runs all the same.) A function that has closed all
    descriptors is waited for no longer than ASK_SECONDS: the loop, which nothing can wake any more, then fails. So is
    one whose thread has no memory left to wake the loop with. Raises MemoryError where there was none to call it with.
    """
    loop, context = asyncio.get_running_loop(), contextvars.copy_context()
    ended: asyncio.Future[None] = loop.create_future()
    # Not in a list, whose first item needs memory.
    value: T | None = None
    error: BaseException | None = None
    has_ended = False

    def call() -> None:
        nonlocal value, error, has_ended
        if ended.done():  # cancelled, while it waited for a thread
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
        has_thread = _handed_over(loop, call)
        while not ended.done():
            await asyncio.wait({ended}, timeout=ASK_SECONDS)
            tell()
            has_thread = has_thread or _handed_over(loop, _nothing)
        if error is not None:
            raise error
        return cast(T, value)
    finally:
        ended.cancel()
        error = None  # its traceback names this frame, and this frame would name it


def _handed_over(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> bool:
    """Hand it to the pool; whether there is a thread for it."""
    try:
        loop.run_in_executor(None, call)
    except RuntimeError as error:
        if str(error) != NO_THREAD:
            raise
        return False
    return True


def _nothing() -> None:
    """Has the pool ask for a thread, which then does what was there before this."""
