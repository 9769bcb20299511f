"""SQLAlchemy's pool, with one connection that a caller may have without its bookkeeping.

To check a connection out and in again costs SQLAlchemy some 25 µs where another statement lies between: a tenth of a
`delay()`. So the connection that the store used last is not checked in but kept, and used again. It is kept only while
nobody asks the pool for one: who does gets it checked in first. So no thread waits for it, it counts among the pool's
connections, and a process that uses one at a time has one.
"""

from __future__ import annotations

from collections import deque
from typing import Any, cast

import psycopg
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from dbqueue.store.postgres.pool_connection import PoolConnection


class QuickPool(QueuePool):
    """Without a lock, which a signal's handler that enqueues might find held by its own thread."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._kept = deque[PoolProxiedConnection]()
        self._asking = deque[None]()
        """As long as there are threads that ask the pool for a connection."""

    def take(self) -> PoolProxiedConnection:
        """The kept connection, or one of the pool; to be given back by `keep`, or closed."""
        try:
            kept = self._kept.pop()
        except IndexError:
            return self.connect()
        try:
            cast(PoolConnection, kept.driver_connection).settle()
        except psycopg.Error:
            kept.invalidate()
            return self.connect()
        return kept

    def keep(self, connection: PoolProxiedConnection) -> None:
        """Give back what `take` gave."""
        driver = cast(PoolConnection | None, connection.driver_connection)
        if driver is None or not driver.is_reusable or self._kept or self._asking:
            connection.close()
            return
        self._kept.append(connection)
        if self._asking:  # who began to ask before that has not seen it
            self._check_in()

    def _do_get(self) -> ConnectionPoolEntry:
        self._asking.append(None)
        try:
            self._check_in()
            return super()._do_get()
        finally:
            self._asking.pop()

    def dispose(self) -> None:
        self._check_in()
        super().dispose()

    def _check_in(self) -> None:
        try:
            kept = self._kept.pop()
        except IndexError:
            return
        kept.close()
