"""The engines on which transactional tasks run, made when the first of them begins.

They have pools of their own. A task keeps its connection until it ends; from the pool that enqueues and
results share, it would keep those waiting, itself included.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dbqueue.errors import ImproperlyConfigured
from dbqueue.store.engine import make_async_task_engine, make_task_engine
from dbqueue.store.transactions.joining import trust

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from dbqueue.store.base import Store


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
