"""SQLAlchemy's pool, with one connection that a caller may have without its bookkeeping.

To check a connection out and in again costs SQLAlchemy some 25 µs where another statement lies between: a tenth of a
`delay()`. So the connection that the store used last is not checked in but kept, and used again. It is kept only while
nobody asks the pool for one: who does gets it checked in first. So no thread waits for it, it counts among the pool's
connections, and a process that uses one at a time has one.
"""

from __future__ import annotations

import threading
from typing import Any, cast

import psycopg
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from dbqueue.store.postgres.pool_connection import PoolConnection


class QuickPool(QueuePool):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept: PoolProxiedConnection | None = None
        self._asking = 0
        """How many threads ask the pool for a connection."""
        self._lock = threading.Lock()

    def take(self) -> PoolProxiedConnection:
        """The kept connection, or one of the pool; to be given back by `keep`, or closed."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            try:
                cast(PoolConnection, kept.driver_connection).settle()
            except psycopg.Error:
                kept.invalidate()
            else:
                return kept
        return self.connect()

    def keep(self, connection: PoolProxiedConnection) -> None:
        """Give back what `take` gave."""
        driver = cast(PoolConnection | None, connection.driver_connection)
        if driver is not None and driver.is_reusable:
            with self._lock:
                if self._kept is None and not self._asking:
                    self._kept = connection
                    return
        connection.close()

    def _do_get(self) -> ConnectionPoolEntry:
        with self._lock:
            self._asking += 1
        try:
            self._check_in()
            return super()._do_get()
        finally:
            with self._lock:
                self._asking -= 1

    def dispose(self) -> None:
        self._check_in()
        super().dispose()

    def _check_in(self) -> None:
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is not None:
            kept.close()
