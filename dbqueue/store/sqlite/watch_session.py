"""A worker's second connection to a SQLite file: heartbeats, and a look for what others have written."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy.pool import PoolProxiedConnection

from dbqueue import failpoints
from dbqueue.store.sessions import Sign, WatchSession
from dbqueue.store.sqlite import sql

if TYPE_CHECKING:
    from dbqueue.store.sqlite.store import SqliteStore

FIRST_POLL_SECONDS: Final = 0.0005
LAST_POLL_SECONDS: Final = 0.02
"""A look at the file's version costs microseconds, so an idle worker looks often: first at this pace, then slower."""


class SqliteWatchSession(WatchSession):
    """Sees other connections' commits by `PRAGMA data_version`: exact, and without touching the file.

    (The WAL file's size and time miss commits: it is written over in place, and a file's time
    moves in steps of some milliseconds.)
    """

    def __init__(self, store: SqliteStore, connection: PoolProxiedConnection) -> None:
        self._store, self._connection = store, connection
        self._driver = cast(sqlite3.Connection, connection.dbapi_connection)
        self._check_file = store.still_there()
        self._seen = self._version()

    def wait(self, timeout: float) -> Sign:
        self._check_file()
        deadline = time.monotonic() + timeout
        pause = FIRST_POLL_SECONDS
        while True:
            seen = self._version()
            if seen != self._seen:
                self._seen = seen
                return Sign.JOBS | Sign.COMMANDS  # the file does not tell which
            left = deadline - time.monotonic()
            if left <= 0:
                return Sign.NONE
            time.sleep(min(pause, left))
            pause = min(pause * 1.5, LAST_POLL_SECONDS)

    def run(self, template: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with self._store.translating():
            return self._driver.execute(self._store.text(template), dict(parameters)).fetchall()

    def _version(self) -> int:
        with self._store.translating():
            if self._store.in_memory:
                return self._driver.total_changes  # one connection makes all changes of such a database
            return int(self._driver.execute("PRAGMA data_version").fetchone()[0])

    def heartbeat(self, worker_id: str) -> bool:
        with self._store.translating():
            failpoints.hit("heartbeat.before")
            alive = self._driver.execute(self._store.text(sql.HEARTBEAT), [worker_id]).rowcount > 0
        failpoints.hit("heartbeat.after")
        return alive

    def close(self) -> None:
        self._connection.close()
