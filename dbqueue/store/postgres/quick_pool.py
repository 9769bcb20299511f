"""SQLAlchemy's pool, with one connection that a caller may have without its bookkeeping.

To check a connection out and in again costs SQLAlchemy some 25 µs where another statement lies between: a tenth of a
`delay()`. So the connection that the store used last is not checked in but kept, and used again. It is kept only while
nobody asks the pool for one: who does gets it checked in first. So no thread waits for it, it counts among the
`pool_size` connections that stay open, and a process that uses one at a time has one.

Two orders see to that, without a lock, which a signal's handler that enqueues might find held by its own thread: who
asks says so and then looks at what is kept; who keeps one does, and then looks whether somebody asks.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any, cast

import psycopg
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from dbqueue.store.postgres.pool_connection import PoolConnection


class QuickPool(QueuePool):
    """SQLAlchemy's registry of finalizers holds on to what is kept: see that `dispose` is called."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        # It would be named after this class, as if it were dbqueue's own, and say at level INFO what nobody asked for.
        self.logger = logging.getLogger("sqlalchemy.pool.QuickPool")
        self._kept = deque[PoolProxiedConnection]()
        self._asking = set[int]()
        """The threads that ask the pool for a connection."""
        self._disposed = False

    def take(self, *, settled: bool) -> PoolProxiedConnection:
        """The kept connection, or one of the pool; to be given back by `keep`, or closed.

        `settled`: with no answer to come.
        """
        try:
            kept = self._kept.pop()
        except IndexError:
            return self.connect()
        try:
            driver = cast(PoolConnection, kept.driver_connection)
            driver.settle() if settled else driver.look()
        except psycopg.Error:
            kept.invalidate()
            return self.connect()
        return kept

    def keep(self, connection: PoolProxiedConnection) -> None:
        """Give back what `take` gave, whether it was closed since or not."""
        driver = cast(PoolConnection | None, connection.driver_connection)
        if driver is None or not driver.is_reusable or self._kept or self.checkedin() >= self.size():
            connection.close()
            return
        self._kept.append(connection)
        if self._asking or self._disposed:
            self._check_in()

    def _do_get(self) -> ConnectionPoolEntry:
        try:
            self._asking.add(threading.get_ident())
            self._check_in()
            return super()._do_get()
        finally:
            self._asking.discard(threading.get_ident())

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        if self.checkedin() >= self.size() - 1:
            self._check_in()
        super()._do_return_conn(record)

    def dispose(self) -> None:
        """For good, as engines do it: they have another pool from then on."""
        self._disposed = True
        self._check_in()
        super().dispose()

    def _check_in(self) -> None:
        while self._kept:
            try:
                kept = self._kept.pop()
            except IndexError:  # another thread was quicker
                return
            if self._disposed:
                kept.invalidate()  # closes it
            kept.close()
