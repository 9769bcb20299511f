"""Enqueues on a caller's own connection: in its transaction, seen when it commits.

Each kind of connection gets a thin adapter that can do three things: run an enqueue's statement,
ask for one row, and see that workers are woken. How they are woken differs, because only a
SQLAlchemy session tells when it has committed: it gets a NOTIFY afterwards, on a connection of
dbqueue's own. Every other connection carries the NOTIFY inside its transaction, where PostgreSQL
sends it at the commit, at the price of a lock that such commits wait for in turn.
"""

from __future__ import annotations

import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary, WeakSet

import sqlalchemy as sa

from dbqueue.bulk import Batch
from dbqueue.errors import ForeignConnection
from dbqueue.jobs import NewJob
from dbqueue.store.base import Store
from dbqueue.store.postgres.sql import NOTIFY_INSIDE
from dbqueue.store.statements import Statement, pyformat
from dbqueue.store.steps import Reply, Steps, arun, run
from dbqueue.store.transactions.autocommit import awhole, whole
from dbqueue.store.workflows.writing import write
from dbqueue.workflows import Workflow

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy import orm

T = TypeVar("T")

ACCEPTED = (
    "a SQLAlchemy Session, AsyncSession, Connection or AsyncConnection, "
    "a psycopg Connection or AsyncConnection, a sqlite3.Connection, or Django's connection"
)

_checked: WeakKeyDictionary[Any, WeakSet[Store]] = WeakKeyDictionary()
"""Engines and connections, with the stores whose databases they were found to lead to."""
_WAKE = "dbqueue_wake"
WAKES = "dbqueue_wakes"
"""An execution option: the set of stores whose workers whoever commits the connection is going to wake."""


class Joined(ABC):
    """A caller's synchronous connection."""

    dialect: str
    key: Any
    """What need be checked only once: the engine, or the connection itself."""
    driver: Any
    """The driver's connection under it."""

    @abstractmethod
    def reply(self, statement: Statement) -> Reply:
        """Run it, whatever it is."""

    def psycopg(self) -> Any:
        """The psycopg connection that it is or stands for, to be used at once; None where it is another driver's."""
        return None

    def begin(self) -> None:  # noqa: B027 - a driver does by itself
        """See to it that a transaction has begun, where the connection begins one with its first statement."""

    def wake(self, store: Store) -> None:
        """See to it that workers are woken once the transaction has committed."""
        if store.notifies:
            self.reply(Statement(NOTIFY_INSIDE, {}))


class JoinedConnection(Joined):
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self.dialect, self.key = connection.dialect.name, connection.engine
        self.driver = connection.connection.driver_connection

    def wake(self, store: Store) -> None:
        waiting = self._connection.get_execution_options().get(WAKES)
        if waiting is None:
            super().wake(store)
        else:
            waiting.add(store)

    def begin(self) -> None:
        # By a statement of SQLAlchemy's own, with all that is to be at its beginning: `TaskTransaction`'s, or the
        # BEGIN of a program that lets SQLite's driver begin nothing.
        if not self._connection.in_transaction():
            self._connection.exec_driver_sql("SELECT 1")

    def psycopg(self) -> Any:
        if not _is(self.driver, "psycopg", "Connection"):
            return None
        self.begin()  # what the driver does is not seen by SQLAlchemy, whose `commit` would do nothing
        return self.driver

    def reply(self, statement: Statement) -> Reply:
        # text() gives the parameters the form of whatever driver the caller uses.
        result = self._connection.execute(sa.text(statement.sql), statement.parameters)
        return Reply(result.rowcount, result.fetchall() if result.returns_rows else ())


class JoinedSession(JoinedConnection):
    def __init__(self, session: orm.Session) -> None:
        try:
            super().__init__(session.connection())
        except sa.exc.UnboundExecutionError as error:
            raise ForeignConnection(f"the session is not bound to a database: {error}") from None
        self._session = session

    def wake(self, store: Store) -> None:
        if isinstance(self._session.bind, sa.Connection):
            # Its commit may be no commit: the transaction belongs to whoever made the connection.
            super().wake(store)
            return
        waiting = self._session.info.get(_WAKE)
        if waiting is None:
            waiting = self._session.info[_WAKE] = set()
            sa.event.listen(self._session, "after_commit", _wake_after_commit)
            sa.event.listen(self._session, "after_rollback", _forget_wake)
        waiting.add(store)


def _wake_after_commit(session: orm.Session) -> None:
    if session.in_nested_transaction():
        return  # the release of a savepoint: nothing is committed yet
    waiting: set[Store] = session.info[_WAKE]
    while waiting:
        waiting.pop().wake()


def _forget_wake(session: orm.Session) -> None:
    if not session.in_nested_transaction():  # jobs from before the savepoint are still to be committed
        session.info[_WAKE].clear()


class JoinedPsycopg(Joined):
    dialect = "postgresql"

    def __init__(self, connection: Any) -> None:
        from psycopg.rows import tuple_row

        self.key = self.driver = connection
        self._cursor = connection.cursor(row_factory=tuple_row)

    def psycopg(self) -> Any:
        return self.key

    def reply(self, statement: Statement) -> Reply:
        cursor = self._run(statement)
        return Reply(cursor.rowcount, cursor.fetchall() if cursor.description else ())

    def _run(self, statement: Statement) -> Any:
        cursor = self._cursor.execute(pyformat(statement.sql), statement.parameters)
        if self.driver.pgconn.pipeline_status:
            with self.driver.pipeline():  # one within the caller's waits for the answers: until then there is none
                pass
        return cursor


class JoinedSqlite(Joined):
    dialect = "sqlite"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.key, self.driver = None, connection
        self._cursor = connection.cursor()
        self._cursor.row_factory = None

    def reply(self, statement: Statement) -> Reply:
        rows = self._cursor.execute(statement.sql, statement.parameters).fetchall()
        return Reply(self._cursor.rowcount, rows)  # which is known once the rows have been read


def _is(connection: object, module: str, name: str) -> bool:
    """isinstance, for a class of a module that need not be installed or loaded."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(connection, cls)


def is_async(connection: object) -> bool:
    return (
        _is(connection, "sqlalchemy.ext.asyncio", "AsyncSession")
        or _is(connection, "sqlalchemy.ext.asyncio", "async_scoped_session")
        or _is(connection, "sqlalchemy.ext.asyncio", "AsyncConnection")
        or _is(connection, "psycopg", "AsyncConnection")
    )


def _is_of_django(connection: object) -> bool:
    """Whether it is `django.db.connection`, or one of `django.db.connections`."""
    return _is(connection, "django.utils.connection", "ConnectionProxy") or _is(
        connection, "django.db.backends.base.base", "BaseDatabaseWrapper"
    )


def join(connection: Any) -> Joined:
    """The adapter of a synchronous connection; ForeignConnection for anything else."""
    # Asked by name: whoever has a session has loaded the ORM, and a worker without one is 6 MB smaller.
    if _is(connection, "sqlalchemy.orm", "scoped_session"):
        connection = connection()
    if _is_of_django(connection):
        connection.ensure_connection()
        connection = connection.connection
    if _is(connection, "sqlalchemy.orm", "Session"):
        return JoinedSession(connection)
    if isinstance(connection, sa.Connection):
        return JoinedConnection(connection)
    if _is(connection, "psycopg", "Connection"):
        return JoinedPsycopg(connection)
    if _is(connection, "sqlite3", "Connection"):
        return JoinedSqlite(connection)
    if is_async(connection):
        raise ForeignConnection(
            f"{type(connection).__name__} is asynchronous: use `await task.adelay(...)` or `aapply_async`"
        )
    raise ForeignConnection(
        f"{type(connection).__module__}.{type(connection).__qualname__} cannot carry an enqueue: give {ACCEPTED}"
    )


def enqueue_in(store: Store, connection: Any, jobs: Batch) -> Mapping[str, str]:
    """Write the jobs in the caller's transaction; they exist once it has committed.

    Returns what `Store.enqueue` does: ids in the place of jobs whose unique keys are others'.
    Raises ForeignConnection for a connection of a wrong type or to another database,
    DuplicateTaskId for an id in use by other content (the caller's transaction is still open).
    """
    joined = join(connection)
    _check_database(store, joined)
    taken: Mapping[str, str] = {}
    # Made before they are written: what the making of one may run (an encoder of the caller's) may use this connection.
    jobs = list(jobs)
    if not _copied(store, joined, jobs):
        with contextlib.nullcontext() if _is_one_statement(jobs) else _whole(store, joined):
            taken = run(store.inserts.steps(jobs), joined.reply)
    joined.wake(store)
    return taken


def _is_one_statement(jobs: Sequence[NewJob]) -> bool:
    """Whether nothing can come between, and no job be refused once others are written."""
    return len(jobs) <= 1 and all(job.unique_key is None for job in jobs)


def _whole(store: Store, joined: Joined) -> AbstractContextManager[None]:
    joined.begin()
    return whole(store, joined.driver, joined.reply)


def _copied(store: Store, joined: Joined, jobs: list[NewJob]) -> bool:
    """Whether they could be written by COPY."""
    if store.dialect != "postgresql":
        return False
    from dbqueue.store.postgres import copying

    driver = joined.psycopg() if copying.can_copy(jobs) else None
    return driver is not None and copying.copy(driver, copying.statement(store.names["jobs"]), jobs)


def enqueue_workflow_in(store: Store, connection: Any, workflow: Workflow) -> None:
    """Write the workflow in the caller's transaction; raises what `enqueue_in` raises."""
    if workflow.edges:
        run_in(store, connection, write(store, workflow))
    else:
        enqueue_in(store, connection, workflow.jobs)


async def aenqueue_workflow_in(store: Store, connection: Any, workflow: Workflow) -> None:
    """As `enqueue_workflow_in`, for asynchronous connections too."""
    if workflow.edges:
        await arun_in(store, connection, write(store, workflow))
    else:
        await aenqueue_in(store, connection, workflow.jobs)


def run_in(store: Store, connection: Any, steps: Steps[T]) -> T:
    """Run an operation in the caller's transaction, which wakes workers unless it comes to False: nothing new to run.

    In autocommit it is a transaction of its own. Raises what `enqueue_in` raises.
    """
    joined = join(connection)
    _check_database(store, joined)
    with _whole(store, joined):
        found = run(steps, joined.reply)
    if found is not False:
        joined.wake(store)
    return found


async def arun_in(store: Store, connection: Any, steps: Steps[T]) -> T:
    """As `run_in`, for asynchronous connections too."""
    if _is(connection, "psycopg", "AsyncConnection"):
        return await _run_in_async_psycopg(store, connection, steps)
    if is_async(connection):
        if _is(connection, "sqlalchemy.ext.asyncio", "async_scoped_session"):
            connection = connection()
        found: T = await connection.run_sync(lambda sync_connection: run_in(store, sync_connection, steps))
        return found
    return run_in(store, connection, steps)


async def _run_in_async_psycopg(store: Store, connection: Any, steps: Steps[T]) -> T:
    reply = await _async_psycopg(store, connection)
    found = await awhole(store, connection, reply, lambda: arun(steps, reply))
    if found is not False:
        await reply(Statement(NOTIFY_INSIDE, {}))
    return found


async def _async_psycopg(store: Store, connection: Any) -> Callable[[Statement], Awaitable[Reply]]:
    """What runs a statement on the connection, which leads to the store's database."""
    from psycopg.rows import tuple_row

    cursor = connection.cursor(row_factory=tuple_row)

    async def reply(statement: Statement) -> Reply:
        await cursor.execute(pyformat(statement.sql), statement.parameters)
        if connection.pgconn.pipeline_status:  # as `JoinedPsycopg`
            async with connection.pipeline():
                pass
        return Reply(cursor.rowcount, await cursor.fetchall() if cursor.description else ())

    if store.dialect != "postgresql":
        raise _other_database(store, "postgresql")
    if store not in _checked.get(connection, ()):
        (identity,) = (await reply(Statement(store.identity, {}))).rows
        _accept(store, connection, store.same_database(lambda sql: identity), "postgresql")
    return reply


async def aenqueue_in(store: Store, connection: Any, jobs: Batch) -> Mapping[str, str]:
    """As `enqueue_in`, for asynchronous connections too."""
    if _is(connection, "psycopg", "AsyncConnection"):
        return await _enqueue_in_async_psycopg(store, connection, list(jobs))
    if is_async(connection):
        if _is(connection, "sqlalchemy.ext.asyncio", "async_scoped_session"):
            connection = connection()

        def run(sync_connection: Any) -> Mapping[str, str]:
            return enqueue_in(store, sync_connection, jobs)

        taken: Mapping[str, str] = await connection.run_sync(run)
        return taken
    return enqueue_in(store, connection, jobs)


async def _enqueue_in_async_psycopg(store: Store, connection: Any, jobs: Sequence[NewJob]) -> Mapping[str, str]:
    reply = await _async_psycopg(store, connection)

    def enqueue() -> Awaitable[dict[str, str]]:
        return arun(store.inserts.steps(jobs), reply)

    taken = await (enqueue() if _is_one_statement(jobs) else awhole(store, connection, reply, enqueue))
    await reply(Statement(NOTIFY_INSIDE, {}))
    return taken


def _check_database(store: Store, joined: Joined) -> None:
    """Refuse a connection to another database: no worker would ever see the job there."""
    if joined.dialect != store.dialect:
        raise _other_database(store, joined.dialect)
    if joined.key is not None and store in _checked.get(joined.key, ()):
        return
    same = store.same_database(lambda sql: joined.reply(Statement(sql, {})).rows[0])
    _accept(store, joined.key, same, joined.dialect)


def trust(store: Store, engine: sa.Engine) -> None:
    """Take this engine for one to the store's database, without asking."""
    _checked.setdefault(engine, WeakSet()).add(store)


def _accept(store: Store, key: Any, same: bool, dialect: str) -> None:
    if not same:
        raise _other_database(store, dialect)
    if key is not None:
        _checked.setdefault(key, WeakSet()).add(store)


def _other_database(store: Store, dialect: str) -> ForeignConnection:
    return ForeignConnection(
        f"the connection given leads to another {dialect} database than the queue's, {store.url}: "
        "a job written there would never run"
    )
