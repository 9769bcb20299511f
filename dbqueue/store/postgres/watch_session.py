"""A worker's second connection to PostgreSQL: heartbeats, and commands as they are announced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.pool import PoolProxiedConnection

from dbqueue import failpoints
from dbqueue.errors import OperationalError
from dbqueue.store.postgres import worker_rows
from dbqueue.store.postgres.driver import Driver, survives, translated
from dbqueue.store.postgres.listening import Listening
from dbqueue.store.postgres.pool_connection import close_dedicated
from dbqueue.store.sessions import Sign, WatchSession
from dbqueue.store.statements import pyformat

if TYPE_CHECKING:
    from dbqueue.store.postgres.store import PostgresStore


class PostgresWatchSession(WatchSession):
    def __init__(self, store: PostgresStore, connection: PoolProxiedConnection) -> None:
        self._connection = connection
        self._driver = cast(Driver, connection.dbapi_connection)
        self._listening = Listening(self._driver, hears=store.supports_listen)
        self._heartbeat, self._text = store.text(worker_rows.HEARTBEAT), store.text

    def wait(self, timeout: float) -> Sign:
        return Sign.COMMANDS if self._listening.wait(timeout) else Sign.NONE

    def run(self, template: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        with translated():
            cursor = self._driver.execute(pyformat(self._text(template)), parameters)
            return cursor.fetchall() if cursor.description else []

    def heartbeat(self, worker_id: str) -> bool:
        with translated():
            failpoints.hit("heartbeat.before", self._driver)
            alive = self._driver.execute(self._heartbeat, {"worker": worker_id}).rowcount > 0
            failpoints.hit("heartbeat.after", self._driver)
            return alive

    def survives(self, error: OperationalError) -> bool:
        return survives(self._driver, error)

    def close(self) -> None:
        close_dedicated(self._connection)
