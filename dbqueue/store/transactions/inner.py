"""The transaction of a task that a transactional one runs in place (`apply`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from dbqueue.jobs import Outcome, Replaced, Succeeded
from dbqueue.store.transactions.tasks import TaskTransaction, session_on

if TYPE_CHECKING:
    from sqlalchemy import orm


class InnerTransaction:
    """A savepoint of the outer task's transaction."""

    is_async = False

    def __init__(self, outer: TaskTransaction) -> None:
        self.store, self._outer = outer.store, outer
        self._savepoint: sa.NestedTransaction | None = None
        self._session: orm.Session | None = None

    def open(self) -> None:
        """It begins with its first use."""

    @property
    def connection(self) -> Any:
        connection: sa.Connection = self._outer.connection
        if self._savepoint is None:
            self._savepoint = connection.begin_nested()
        return connection

    @property
    def session(self) -> Any:
        if self._session is None:
            self._session = session_on(self.connection)
        return self._session

    def commit(self, outcome: Succeeded | Replaced) -> Outcome:
        if self._session is not None:
            self._session.commit()
            self._session.close()
        if self._savepoint is not None:
            self._savepoint.commit()
        return outcome

    def rollback(self, error: BaseException | None = None) -> None:
        if self._session is not None:  # first: its own savepoint is the inner one
            self._session.close()
        savepoint, self._savepoint = self._savepoint, None
        if savepoint is not None and savepoint.is_active:
            savepoint.rollback()
