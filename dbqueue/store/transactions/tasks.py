"""The transaction of a transactional task: opened by its first use, and ended with the job's end in it.

    the task's writes ─┐
    its enqueues ──────┼─► SUCCESS of its own row (fenced by the lease) ─► COMMIT
    `on_success` ──────┘        no row: LeaseLost ─► ROLLBACK

The first statement begins it. On SQLite that is BEGIN IMMEDIATE, which takes the file's one write lock: a
transaction that reads first and writes later fails at once where another has written meanwhile, and a task
should not fail for that. So nothing is locked while the task does what needs no database. Nor should it fail where
other tasks are before it: a job waits for the lock as long as it may run.

What `add_to_chord` adds is written with the job's end, too: it locks the chord's body, which the ends of the other
headers count down, and the task may go on for long after the call.

That of a coroutine is in `async_tasks`.
"""

from __future__ import annotations

import contextlib
import random
import time
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from dbqueue import failpoints
from dbqueue.errors import DBQueueError, LeaseLost, NotCommitted, OperationalError
from dbqueue.jobs import ClaimedJob, Outcome, Replaced, Settled, Succeeded
from dbqueue.retry import backoff_seconds
from dbqueue.store.base import Store
from dbqueue.store.steps import run
from dbqueue.store.transactions.added_headers import AddedHeaders
from dbqueue.store.transactions.completing import Recorded, Standing, complete, lead_astray, recorded_at_last, standing
from dbqueue.store.transactions.joining import WAKES, JoinedConnection
from dbqueue.store.trouble import first_line, may_be_outdated
from dbqueue.workflows import NO_CHORD, Workflow

if TYPE_CHECKING:
    from sqlalchemy import orm

RESOLVE_TRIES: Final = 6
FIRST_PAUSE_SECONDS: Final = 0.1
LAST_PAUSE_SECONDS: Final = 3.0
"""How the fate of a commit is asked for that had no answer: some ten seconds; then the worker's round finds out."""

CANCEL_SECONDS: Final = 3.0
"""How long a server may take to hear that a statement is to end. A hard limit may follow."""

MOST_CAUSES: Final = 10
"""So far back an error is followed."""

JOIN: Final = "create_savepoint"
"""The session works in savepoints of the transaction, so that its own `commit` and `rollback` mean what they say
and end no more than what it did itself."""


class TaskTransaction:
    """One run's; `idle_seconds` is how long it may do nothing once it has begun, on PostgreSQL."""

    is_async = False

    def __init__(self, store: Store, job: ClaimedJob, *, idle_seconds: float | None) -> None:
        self.store, self._job = store, job
        self._begin = store.task_begin(idle_seconds)
        self._connection: sa.Connection | None = None
        self._session: orm.Session | None = None
        self._turn = contextlib.ExitStack()
        self._wakes: set[Store] = set()
        self._headers = AddedHeaders(store, job)
        self._standing: Standing | None = None
        self._ending = False

    # what the task sees

    def open(self) -> Any:
        """Nothing yet: it is opened by its first use."""

    @property
    def connection(self) -> Any:
        if self._connection is None:
            self._turn.enter_context(self.store.turn())
            self._take(self.store.task_engines.connected(patient=bool(self._job.lease)))
        return self._connection

    @property
    def session(self) -> Any:
        connection = self.connection
        self._begin_root()
        if self._session is None:
            self._session = session_on(connection)
        return self._session

    def add_header(self, workflow: Workflow) -> bool:
        """Add jobs to the header of the chord that the job is in; False where it is in none that waits for it."""
        joined = JoinedConnection(self.connection)
        added = run(self._headers.add(workflow), joined.reply)
        if added:
            joined.wake(self.store)
        return added

    # its end

    def commit(self, outcome: Succeeded | Replaced) -> Any:
        """Commit what was written, with the outcome in it; what is left to be said of the job.

        That is the outcome itself where nothing was written, or where the job has no row (eager mode). Raises
        LeaseLost, NotCommitted, or what the database has against the writes; all is undone then.
        """
        try:
            settled, known = self._commit(outcome)
        except Away as error:
            self._undo(error.refusal)
            raise self._whose(error.refusal) from None
        except BaseException as error:
            self._undo(error)
            raise
        if not known:
            self._found(outcome, wait_for(self.store, self._job))
        return self._settled(outcome) if settled else outcome

    def rollback(self, error: BaseException | None = None) -> Any:
        """Undo everything, and give the connection back. May be called twice.

        Not back, where the `error` in which the run has ended may come of a setting that its role had when the
        connection was made (`trouble.may_be_outdated`): it would meet the next task, too.
        """
        self._undo(error)

    # the same for both kinds

    def _take(self, connection: sa.Connection) -> None:
        self._connection = connection.execution_options(**{WAKES: self._wakes})
        sa.event.listen(connection, "before_cursor_execute", self._before_statement)
        sa.event.listen(connection, "commit", self._before_commit)

    def _begin_root(self) -> None:
        """Have a transaction for the session to join: one that it begins itself, it would commit itself.

        Another one, where the task has rolled its connection back.
        """
        assert self._connection is not None
        if not self._connection.in_transaction():
            self._connection.begin()

    def _before_statement(self, connection: sa.Connection, *statement: Any) -> None:
        if self._begin and not self.store.in_transaction(connection.connection.driver_connection):
            # Not on the statement's own cursor, which may be one on the server's side.
            cursor = connection.connection.cursor()
            while not self._has_begun(cursor):
                pass
            cursor.close()

    def _has_begun(self, cursor: Any) -> bool:
        """Begin; False where other tasks have kept a job's from it for as long as SQLite waits: nothing is done yet."""
        try:
            cursor.execute(self._begin)
        except Exception as error:
            if self._job.lease and self.store.is_locked(error):
                return False
            raise
        return True

    def _before_commit(self, connection: sa.Connection) -> None:
        if not self._ending:
            raise RuntimeError(
                "the connection of a transactional task cannot be committed by the task: it is committed when the "
                "task has returned, with its SUCCESS; use begin_nested() for a part that may be undone"
            )

    def _commit(self, outcome: Succeeded | Replaced) -> tuple[bool, bool]:
        """Whether it was committed with the outcome, and whether that is certain."""
        connection = self._connection
        if connection is None:
            return False, True
        self._commit_session()
        driver: Any = connection.connection.driver_connection
        if not self.store.in_transaction(driver):  # asked of the driver, which the task may have used directly
            self._undo()
            return False, True
        self._begin_root()
        settles = bool(self._job.lease)
        if settles:
            with self._missing():
                joined = JoinedConnection(connection)
                if self._job.losses and self.store.dialect == "postgresql":  # else `_whose` need not know
                    self._standing = run(standing(), joined.reply)
                added = run(self._headers.write(), joined.reply)
                if run(complete(self.store, outcome, linked=self._job.successors), joined.reply):
                    self._wakes.add(self.store)
            if not added:
                raise ValueError(NO_CHORD)
        else:  # PostgreSQL commits nothing where a statement has failed, and raises nothing either
            connection.exec_driver_sql("SELECT 1")
        self._ending = True
        known = True
        try:
            failpoints.hit("commit.before", driver)
            connection.commit()
        except (*_BROKEN, OperationalError) as error:  # the second is the failpoint's
            if not settles:
                raise NotCommitted(f"the commit failed: {first_line(error)}") from error
            known = False
        failpoints.hit("commit.after", driver)
        self._leave()
        if known:  # else `_found` does, once others see what was committed
            self._wake()
        return settles, known

    def _commit_session(self) -> None:
        """Write what the session still holds. The task has returned: a connection that breaks is no failure of its."""
        if self._session is None:
            return
        try:
            self._session.commit()
        except sa.exc.DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise NotCommitted(
                f"the transaction of job {self._job.id} broke after its task: {first_line(error)}"
            ) from error

    @contextlib.contextmanager
    def _missing(self) -> Any:
        """While the end of the job is written."""
        try:
            yield
        except sa.exc.DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state == _ABORTED and error.orig is not None:
                raise error.orig from None  # SQLAlchemy's shows the statement, and with it the task's result
            if state in _AWAY and error.orig is not None:
                raise Away(error.orig) from error
            if not (isinstance(error, _BROKEN) or _is_stale(error.orig)):
                raise
            raise self._broke(error) from error

    def _whose(self, refusal: BaseException) -> BaseException:
        """What to raise where dbqueue's tables, or rights on them, were away for the end of the job.

        That is a lost run, for somebody is at work on them. Where an earlier run was lost too, and the tables are there
        for others, though not for who stands where the task stood, it has taken a role or a search path that does not
        lead to them, and will in each of its runs.
        """
        if self._standing is not None and lead_astray(self.store, self._job.id, self._standing):
            return refusal
        return self._broke(refusal)

    def _broke(self, error: BaseException) -> NotCommitted:
        return NotCommitted(
            f"the transaction of job {self._job.id} broke, its end could not be written: {first_line(error)}"
        )

    def _found(self, outcome: Succeeded | Replaced, found: Recorded | None) -> None:
        """What the row says after a commit without an answer, which is over by now, however it ended."""
        self._wake()
        if found is not None and found.tells(outcome):
            return
        if found is not None and found.lease != self._job.lease:
            raise LeaseLost(f"job {self._job.id} is not this run's any more")
        raise NotCommitted(f"the connection broke in the commit of job {self._job.id}, and it was not committed")

    def _settled(self, outcome: Succeeded | Replaced) -> Outcome:
        if isinstance(outcome, Replaced):
            return Settled(outcome.job_id, outcome.lease, outcome.seconds, succeeded=False)
        return Settled(outcome.job_id, outcome.lease, outcome.seconds, succeeded=True, result=outcome.result)

    def _wake(self) -> None:
        while self._wakes:
            self._wakes.pop().wake()

    def _leave(self) -> None:
        """Give the connection back after its commit."""
        connection, self._connection = self._connection, None
        if self._session is not None:
            self._session.close()
        if connection is not None:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                connection.close()
        self._turn.close()

    def _undo(self, error: BaseException | None = None) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._cancel(connection)
            try:
                connection.rollback()
            except Exception:  # noqa: BLE001 - broken, or in the middle of a statement: the server undoes it
                with contextlib.suppress(Exception):
                    connection.invalidate()
            else:
                if _comes_of_outdated(error):
                    connection.invalidate()
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                if self._session is not None:
                    self._session.close()
                connection.close()
        self._turn.close()

    def _cancel(self, connection: sa.Connection) -> None:
        """Have the server end the statement that a time limit has interrupted.

        It would go on with it, and keep its locks from the job's next run, for it notices a connection that is closed
        only when it has an answer to give. No later statement can be hit: the connection is closed.
        """
        with contextlib.suppress(Exception):
            driver = connection.connection.driver_connection
            if self.store.is_busy(driver):
                self._cancel_by(driver)

    def _cancel_by(self, driver: Any) -> None:
        driver.cancel_safe(timeout=CANCEL_SECONDS)


def session_on(connection: sa.Connection) -> orm.Session:
    from sqlalchemy import orm  # a worker whose tasks have none should not have to hold it

    return orm.Session(connection, join_transaction_mode=JOIN)


_BROKEN: Final = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.InternalError)
_ABORTED: Final = "25P02"
"""in_failed_sql_transaction: the task has caught what a statement raised, and would do so in each of its runs."""

_AWAY: Final = ("42P01", "42501")
"""undefined_table, insufficient_privilege: of dbqueue's own tables. What the task itself has written is written."""


def _comes_of_outdated(error: BaseException | None) -> bool:
    """Whether such settings are behind it, in whatever the task has raised of it."""
    for _ in range(MOST_CAUSES):
        if error is None:
            break
        if may_be_outdated(error):
            return True
        error = error.__cause__ or error.__context__
    return False


class Away(Exception):
    """The end of the job met one of these."""

    def __init__(self, refusal: BaseException) -> None:
        self.refusal = refusal


def _is_stale(error: BaseException | None) -> bool:
    """Whether a prepared plan is from before a column was altered; a plan that is made anew works.

    Its SQLSTATE, feature_not_supported, says many things, and its words are in the server's language.
    """
    diagnosis = getattr(error, "diag", None)
    return getattr(diagnosis, "source_function", None) == "RevalidateCachedQuery"


def wait_for(store: Store, job: ClaimedJob) -> Recorded | None:
    """What the job's row says, once no transaction has it; None where the database does not answer."""
    for number in range(RESOLVE_TRIES):
        if number:
            pause = backoff_seconds(number, factor=FIRST_PAUSE_SECONDS, maximum=LAST_PAUSE_SECONDS, jitter=None)
            time.sleep(pause * random.uniform(0.5, 1.0))
        with contextlib.suppress(DBQueueError):
            return recorded_at_last(store, job.id)
    return None
