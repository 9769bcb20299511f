"""The transaction of a transactional task that is a coroutine.

The same object; what has to wait runs where SQLAlchemy lets a coroutine wait for it (`greenlet_spawn`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from dbqueue.errors import NotBegun
from dbqueue.jobs import ClaimedJob, Outcome, Replaced, Succeeded
from dbqueue.store.base import Store
from dbqueue.store.transactions.tasks import CANCEL_SECONDS, JOIN, Away, TaskTransaction, wait_for
from dbqueue.store.trouble import first_line

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession


class AsyncTaskTransaction(TaskTransaction):
    """The same for a coroutine. Its connection is taken before the task begins: a property cannot wait for it."""

    is_async = True

    def __init__(self, store: Store, job: ClaimedJob, *, idle_seconds: float | None) -> None:
        super().__init__(store, job, idle_seconds=idle_seconds)
        self._async_connection: AsyncConnection | None = None
        self._async_session: AsyncSession | None = None

    async def open(self) -> None:
        try:
            opened = await self.store.task_engines.aconnected(patient=bool(self._job.lease))
        except (sa.exc.OperationalError, OSError) as error:  # the second, where the system has no file descriptor left
            if not self._job.lease:
                raise
            # Nothing of the task has run: that is no failure of its.
            raise NotBegun(f"job {self._job.id} got no connection: {first_line(error)}") from error
        assert opened.sync_connection is not None
        self._async_connection = opened
        self._take(opened.sync_connection)

    @property
    def connection(self) -> Any:
        return self._async_connection

    @property
    def session(self) -> Any:
        self._begin_root()
        if self._async_session is None:
            from sqlalchemy.ext.asyncio import AsyncSession

            self._async_session = AsyncSession(self._async_connection, join_transaction_mode=JOIN)
            self._session = self._async_session.sync_session
        return self._async_session

    async def commit(self, outcome: Succeeded | Replaced) -> Outcome:
        try:
            settled, known = await self._in_greenlet(lambda: self._commit(outcome))
        except Away as error:
            await self.rollback(error.refusal)
            raise await asyncio.to_thread(self._whose, error.refusal) from None
        except BaseException as error:
            await self.rollback(error)
            raise
        if not known:
            self._found(outcome, await asyncio.to_thread(wait_for, self.store, self._job))
        return self._settled(outcome) if settled else outcome

    async def rollback(self, error: BaseException | None = None) -> None:
        if self._connection is not None:
            await self._in_greenlet(lambda: self._undo(error))

    def _cancel_by(self, driver: Any) -> None:
        from sqlalchemy.util import await_only

        await_only(driver.cancel_safe(timeout=CANCEL_SECONDS))

    async def _in_greenlet(self, function: Callable[[], Any]) -> Any:
        from sqlalchemy.util import greenlet_spawn

        return await greenlet_spawn(function)
