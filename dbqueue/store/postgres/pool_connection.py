"""A connection of the pool: one job's INSERT, and the NOTIFY that wakes a worker, in one message.

A NOTIFY inside the enqueue's transaction would make all such commits of the server wait for each
other; as a statement after it, one more round trip would be the caller's to wait for, maybe on its
event loop. So it travels behind the INSERT, as a transaction of its own in libpq's pipeline mode
(PostgreSQL's manual, "Pipeline Mode"), and nobody waits for its answer: that is read when the
connection is next taken from the pool, or with the answer of the next INSERT. A wake-up that the
server refuses is no loss, for workers also poll.

The INSERT goes past the driver's cursors, whose care for every type costs as much time as the
server takes to insert the row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from datetime import datetime
from itertools import count
from typing import Any, Final

import psycopg
from psycopg import errors, pq
from psycopg.waiting import Ready, Wait
from sqlalchemy.pool import PoolProxiedConnection

_FAILED: Final = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE)
_UNKNOWN_NAME: Final = b"26000"
"""invalid_sql_statement_name: there is no such prepared statement."""


class PoolConnection(psycopg.Connection[tuple[Any, ...]]):
    """In autocommit. Between two uses it may be in pipeline mode: then it has one answer to come, see `settle`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._names, self._numbers = dict[str, bytes](), count()

    @property
    def is_owed_an_answer(self) -> bool:
        return bool(self.pgconn.pipeline_status != pq.PipelineStatus.OFF)

    @property
    def is_reusable(self) -> bool:
        """Whether the next use needs no more than `settle`: it is in no transaction, and not broken."""
        return self.is_owed_an_answer or self.pgconn.transaction_status == pq.TransactionStatus.IDLE

    def rollback(self) -> None:
        """Also amid a statement, where an exception has come in between (a soft time limit, or a signal's handler).

        No more can be sent over it then, and to say so would hide that exception. The server undoes what was begun.
        """
        if self.pgconn.transaction_status == pq.TransactionStatus.ACTIVE:
            self.close()
        else:
            super().rollback()

    def insert_and_notify(self, insert: str, values: Sequence[Any], notify: str) -> int:
        """Run `insert` (with `$1` parameters), durably, and wake workers; returns the number of its rows.

        The answer that the last use has left is read with its own: the server is not waited for before it is sent.
        """
        encoding = self.info.encoding
        texts = [None if value is None else _text(value, encoding) for value in values]
        known = insert in self._names
        with self._closed_unless_done():
            is_owed = self.is_owed_an_answer
            if not is_owed:
                self.pgconn.enter_pipeline_mode()
            self._send_prepared(insert, texts, encoding)
            self._send_prepared(notify, [], encoding)
            if is_owed:
                self._take_in()
            rows, failed = self.wait(self._answer())
        if failed is None:
            return rows
        error = errors.error_from_result(failed, encoding=encoding)
        if known and isinstance(error, errors.InvalidSqlStatementName):
            # The driver has dropped all prepared statements, as it does after some rollbacks; or it failed itself, when
            # it was first prepared. A name is kept until then: the statement of one that failed later is still there.
            self._names.clear()
            self.settle()
            return self.insert_and_notify(insert, values, notify)
        raise error

    def notify(self, statement: str) -> None:
        """Wake workers; does not wait."""
        self.settle()
        with self._closed_unless_done():
            self.pgconn.enter_pipeline_mode()
            self._send(statement)
            self.wait(self._flush())

    def settle(self) -> None:
        """Take in the answer that the last use has left; raises OperationalError if the connection is broken."""
        if self.is_owed_an_answer:
            with self._closed_unless_done():
                self.pgconn.consume_input()  # it is here, mostly: then there is nothing to wait for
                self._take_in()
                self.pgconn.exit_pipeline_mode()
        self.look()

    def look(self) -> None:
        """Raises OperationalError if the connection is broken, also where the server has ended it meanwhile.

        Its last words are here already then, and cost no round trip.
        """
        if self.closed:
            raise errors.OperationalError("the connection is closed")
        with self._closed_unless_done():
            self.pgconn.consume_input()  # reads the server's last words, if there are any
            self.pgconn.consume_input()  # and then the end of the stream

    def _take_in(self) -> None:
        """The NOTIFY's answer: whatever it says, it was a wake-up only."""
        _, failed = self.wait(self._answer())
        if failed is not None and failed.error_field(pq.DiagnosticField.SQLSTATE) == _UNKNOWN_NAME:
            self._names.clear()

    @contextlib.contextmanager
    def _closed_unless_done(self) -> Iterator[None]:
        """Amid a message or its answer nobody knows what would be read next."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _send_prepared(self, statement: str, values: Sequence[bytes | None], encoding: str) -> None:
        name = self._names.get(statement)
        if name is None:
            self._names[statement] = name = b"dbqueue_%d" % next(self._numbers)
            self.pgconn.send_prepare(name, statement.encode(encoding))
        self.pgconn.send_query_prepared(name, values)
        self.pgconn.pipeline_sync()

    def _send(self, statement: str) -> None:
        """Not prepared: no statement before it tells that the server has forgotten it."""
        self.pgconn.send_query_params(statement.encode(), None)
        self.pgconn.pipeline_sync()

    def _flush(self) -> Generator[Wait, Ready | int, None]:
        while self.pgconn.flush():
            if (yield Wait.RW) & Ready.R:
                self.pgconn.consume_input()

    def _answer(self) -> Generator[Wait, Ready | int, tuple[int, pq.abc.PGresult | None]]:
        """What one transaction came to, once it has ended: the number of its last statement's rows, or its error."""
        yield from self._flush()
        rows, failed = 0, None
        while True:
            while self.pgconn.is_busy():
                yield Wait.R
                self.pgconn.consume_input()
            result = self.pgconn.get_result()
            if result is None:  # between two results
                if self.pgconn.status != pq.ConnStatus.OK:
                    raise errors.OperationalError("the connection is broken")
                continue
            if result.status == pq.ExecStatus.PIPELINE_SYNC:
                return rows, failed
            if result.status in _FAILED:
                failed = failed or result
            rows = result.command_tuples or 0


def _text(value: Any, encoding: str) -> bytes:
    """A value in PostgreSQL's text form."""
    if isinstance(value, str):
        text = value.encode(encoding)
        if b"\0" in text:  # where libpq's text would end
            raise errors.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return text
    if isinstance(value, bytes):
        return b"\\x" + value.hex().encode()
    return (value.isoformat() if isinstance(value, datetime) else str(value)).encode()


@contextlib.contextmanager
def closed_unless_opened(connection: PoolProxiedConnection) -> Iterator[None]:
    """Close a connection outside the pool that cannot be made ready: nobody else would, and it may be in a cycle."""
    try:
        yield
    except BaseException:
        close_dedicated(connection)
        raise


def close_dedicated(connection: PoolProxiedConnection) -> None:
    """Close a connection outside the pool, broken or not; may be called twice.

    SQLAlchemy's own `close` would roll back first, and log a traceback where the server has gone.
    """
    if connection.dbapi_connection is not None:
        connection.dbapi_connection.close()
        connection.invalidate()
