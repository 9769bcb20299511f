"""Callers' connections in autocommit: what takes several statements gets a transaction of its own there.

Else a worker could see, or a crash leave behind, the half of a workflow: jobs that wait for what was not written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from dbqueue.store.base import Store
from dbqueue.store.statements import Statement
from dbqueue.store.steps import Reply

T = TypeVar("T")

_COMMIT, _ROLLBACK = Statement("COMMIT", {}), Statement("ROLLBACK", {})


def commits_each(store: Store, driver: Any) -> bool:
    """Whether each statement is a transaction by itself on this connection of psycopg, sqlite3 or aiosqlite.

    Other drivers, which SQLAlchemy may bring, are not asked: False.
    """
    if hasattr(driver, "info"):
        autocommit = bool(driver.autocommit)
    elif hasattr(driver, "in_transaction"):
        autocommit = driver.isolation_level is None or getattr(driver, "autocommit", None) is True
    else:
        return False
    return autocommit and not store.in_transaction(driver)


@contextlib.contextmanager
def whole(store: Store, driver: Any, reply: Callable[[Statement], Reply]) -> Iterator[None]:
    """One transaction around the statements, unless they are in one already, or the driver begins one."""
    if not commits_each(store, driver):
        yield
        return
    reply(_begin(store))
    try:
        yield
        reply(_COMMIT)
    except BaseException:
        with contextlib.suppress(Exception):  # the server has done so, where the connection is broken
            reply(_ROLLBACK)
        raise


async def awhole(
    store: Store, driver: Any, reply: Callable[[Statement], Awaitable[Reply]], work: Callable[[], Awaitable[T]]
) -> T:
    """As `whole`, over an asynchronous connection, around `work`."""
    if not commits_each(store, driver):
        return await work()
    await reply(_begin(store))
    try:
        found = await work()
        await reply(_COMMIT)
    except BaseException:
        with contextlib.suppress(Exception):
            await reply(_ROLLBACK)
        raise
    return found


def _begin(store: Store) -> Statement:
    # SQLite's plain BEGIN takes no lock, and a write that comes later may be refused at once.
    return Statement("BEGIN IMMEDIATE" if store.dialect == "sqlite" else "BEGIN", {})
