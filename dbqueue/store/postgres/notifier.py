"""Wakes workers after a commit, without waiting for the server's answer.

A NOTIFY inside the enqueue's transaction would make all such commits of the server wait for each
other; as a statement after it, one more round trip would be the caller's to wait for (a fifth of a
`delay()`), maybe on its event loop; from a thread it would go out only when the caller's own code
lets go of the interpreter. So it is written to a connection of its own in libpq's pipeline mode,
and its answer is read when the next one is sent. A wake-up that cannot be sent is no loss: workers
also poll.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Final

import psycopg
from sqlalchemy.pool import PoolProxiedConnection

from dbqueue.errors import DBQueueError

logger: Final = logging.getLogger("dbqueue.store")


class Notifier:
    """`connect` opens a connection outside the pool; it is opened by the first use, in each process anew."""

    def __init__(self, connect: Callable[[], PoolProxiedConnection], statement: str) -> None:
        self._connect, self._statement = connect, statement.encode()
        self._lock = threading.Lock()
        self._connection: PoolProxiedConnection | None = None
        self._inherited: list[PoolProxiedConnection] = []
        """Connections of the process that this one was forked from: kept, never touched."""
        self._pid = 0

    def notify(self) -> None:
        """Wake workers; does not wait, and never fails."""
        with self._lock:
            if self._connection is not None and self._pid != os.getpid():
                self._inherited.append(self._connection)
                self._connection = None
            for _ in range(2):  # the server may have been restarted since the last time
                try:
                    self._send()
                except (DBQueueError, psycopg.Error) as error:
                    logger.debug("No worker was woken (%s); they will find the job when they poll", error)
                    self._drop()
                else:
                    return

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        with self._lock:
            if self._pid == os.getpid():
                self._drop()

    def _send(self) -> None:
        if self._connection is None:
            self._connection, self._pid = self._connect(), os.getpid()
            self._libpq().enter_pipeline_mode()
        libpq = self._libpq()
        libpq.send_query_params(self._statement, None)
        libpq.pipeline_sync()
        libpq.flush()
        self._read_answers(libpq)

    def _libpq(self) -> Any:
        assert self._connection is not None
        return self._connection.dbapi_connection.pgconn  # type: ignore[union-attr]

    @staticmethod
    def _read_answers(libpq: Any) -> None:
        """Take in what the server has answered to earlier ones; raises if the connection is broken."""
        libpq.consume_input()
        empty = 0
        # Each statement's results end with an empty one; two in a row end the answers that are here.
        while empty < 2 and not libpq.is_busy():
            empty = 0 if libpq.get_result() is not None else empty + 1

    def _drop(self) -> None:
        if self._connection is not None:
            close_dedicated(self._connection)
            self._connection = None


def close_dedicated(connection: PoolProxiedConnection) -> None:
    """Close a connection outside the pool, broken or not; may be called twice.

    SQLAlchemy's own `close` would roll back first, and log a traceback where the server has gone.
    """
    if connection.dbapi_connection is not None:
        connection.dbapi_connection.close()
        connection.invalidate()
