"""The engines on which transactional tasks run, made when the first of them begins.

They have pools of their own. A task keeps its connection until it ends; from the pool that enqueues and
results share, it would keep those waiting, itself included.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from dbqueue.errors import ImproperlyConfigured
from dbqueue.retry import backoff_seconds
from dbqueue.store.engine import make_async_task_engine, make_task_engine
from dbqueue.store.transactions.joining import trust

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from dbqueue.store.base import Store

CONNECT_SECONDS: Final = 10.0
"""How long a job tries to get its connection: a server may be restarting, a standby be promoted, a limit be reached.
The worker's own connections may go on meanwhile, and hand out one job after the other."""
FIRST_PAUSE_SECONDS: Final = 0.1
LAST_PAUSE_SECONDS: Final = 2.0


class TaskEngines:
    """Of one store, and so of one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._engine: sa.Engine | None = None
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncEngine] = weakref.WeakKeyDictionary()

    def plain(self) -> sa.Engine:
        """The engine for functions; a database in memory has one connection, and so one engine."""
        with self._lock:
            if self._engine is None:
                in_memory = self._store.in_memory
                self._engine = self._store.engine if in_memory else make_task_engine(self._store.access)
                trust(self._store, self._engine)
            return self._engine

    def connected(self, *, patient: bool) -> sa.Connection:
        """A connection for a function; where none can be made `patient` tries again for a while."""
        pauses = _pauses(patient)
        while True:
            try:
                return self.plain().connect()
            except sa.exc.OperationalError:
                if (pause := next(pauses)) is None:
                    raise
                time.sleep(pause)

    async def aconnected(self, *, patient: bool) -> AsyncConnection:
        """As `connected`, for a coroutine."""
        pauses = _pauses(patient)
        while True:
            try:
                return await self.asynchronous().connect()
            except (sa.exc.OperationalError, OSError):  # the second, where there is no file descriptor left
                if (pause := next(pauses)) is None:
                    raise
                await asyncio.sleep(pause)

    def asynchronous(self) -> AsyncEngine:
        """The engine for coroutines of the running loop, to which its connections belong."""
        if self._store.in_memory:
            raise ImproperlyConfigured(
                "a transactional task that is a coroutine needs a connection of its own, and a database in memory has "
                "only one: use a file, or a plain function"
            )
        loop = asyncio.get_running_loop()
        with self._lock:
            engine = self._by_loop.get(loop)
            if engine is None:
                engine = self._by_loop[loop] = make_async_task_engine(self._store.access)
                trust(self._store, engine.sync_engine)
            return engine

    async def aclose(self) -> None:
        """Close the connections of the running loop, which is about to end."""
        with self._lock:
            engine = self._by_loop.pop(asyncio.get_running_loop(), None)
        if engine is not None:
            await engine.dispose()

    def close(self) -> None:
        """Close those of functions; those of a loop are closed on it."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None and not self._store.in_memory:
            engine.dispose()


def _pauses(patient: bool) -> Iterator[float | None]:
    """Those between the tries to connect, by the time that it is after each; None when there is to be no further."""
    give_up_at = time.monotonic() + (CONNECT_SECONDS if patient else 0.0)
    return _until(give_up_at)


def _until(give_up_at: float) -> Iterator[float | None]:
    for number in itertools.count(1):
        pause = backoff_seconds(number, factor=FIRST_PAUSE_SECONDS, maximum=LAST_PAUSE_SECONDS, jitter=None)
        pause *= random.uniform(0.5, 1.0)
        yield pause if time.monotonic() + pause < give_up_at else None
