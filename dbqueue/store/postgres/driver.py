"""psycopg as the store uses it: the type of its connections, and its errors turned into dbqueue's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import psycopg
import sqlalchemy as sa
from psycopg import errors as pg_errors
from psycopg.pq import TransactionStatus

from dbqueue import descriptors
from dbqueue.errors import AccessDenied, EncodeError, ImproperlyConfigured, LockTimeout, OperationalError, SchemaError
from dbqueue.store.trouble import Trouble, first_line, trouble_of

Driver = psycopg.Connection[tuple[Any, ...]]
NO_TABLES: Final = (
    pg_errors.UndefinedTable,
    pg_errors.UndefinedColumn,
    pg_errors.InvalidSchemaName,
    pg_errors.InvalidColumnReference,  # ON CONFLICT without its index: a restore makes tables first, then their keys
)
PROGRAM_LIMITS: Final = (
    pg_errors.ProgramLimitExceeded,
    pg_errors.StatementTooComplex,
    pg_errors.TooManyColumns,
    pg_errors.TooManyArguments,
)
"""SQLSTATE class 54, which psycopg counts among the operational errors: a value nested too deeply, or too large."""
UNTOLD: Final = (
    "the connection broke, and the database user has no right to what would tell whether this was done before it did: "
    "`dbqueue migrate --roles` shows what each role may do"
)


class Untold(OperationalError):
    """Whether it was done is not known, as after any lost connection; its caller may be able to tell."""


UNFIT: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.InternalError,  # a server that became read-only, for a standby's promotion or a full disk
    psycopg.NotSupportedError,  # a plan from before a column was altered
)
"""What says something of the connection or the server, and nothing of the data: another connection may do it."""
NOT_MIGRATED: Final = "the database has no dbqueue tables of this version: run `dbqueue migrate`"
NOT_GRANTED: Final = "the database user has no right to this: `dbqueue migrate --roles` shows what each role may do"


class translated:  # noqa: N801 - called as a function: `with translated():`
    """Turns the driver's errors into dbqueue's: what broke, and what to do."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            _translate(error)


@contextlib.contextmanager
def not_said_of_rows() -> Iterator[None]:
    """A lock that is waited for in vain here does not say that a round has done nothing: no LockTimeout comes out."""
    try:
        yield
    except LockTimeout as error:
        raise OperationalError(str(error)) from error.__cause__


def _translate(error: BaseException) -> None:
    """Raise what dbqueue says for it; return where it has no other words."""
    if isinstance(error, (*NO_TABLES, pg_errors.InsufficientPrivilege)):
        raise _refusal(error) from error
    if isinstance(error, PROGRAM_LIMITS):  # about the data, not the database: trying again would never end
        raise EncodeError(f"the database has no room for this: {first_line(error)}") from error
    if isinstance(error, pg_errors.LockNotAvailable):
        raise LockTimeout(f"the database did not do it: {first_line(error)}") from error
    if isinstance(error, UNFIT):
        raise OperationalError(f"the database did not do it: {first_line(error)}") from error
    if descriptors.are_used_up(error):  # to wait for the server's answer takes one
        raise OperationalError(f"no connection to the database: {first_line(error)}") from error
    if isinstance(error, sa.exc.DBAPIError):
        _translate_wrapped(error)
    if isinstance(error, sa.exc.TimeoutError):
        raise OperationalError(f"no free connection in the pool, raise database_pool_size: {error}") from error


def _translate_wrapped(error: sa.exc.DBAPIError) -> NoReturn:
    """The same of an error that came through SQLAlchemy."""
    if isinstance(error.orig, (*NO_TABLES, pg_errors.InsufficientPrivilege)):
        raise _refusal(error.orig) from error
    if isinstance(error.orig, PROGRAM_LIMITS):
        raise EncodeError(f"the database has no room for this: {first_line(error.orig)}") from error
    if isinstance(error.orig, pg_errors.LockNotAvailable):
        raise LockTimeout(f"the database did not do it: {first_line(error.orig)}") from error
    unheard = getattr(error.orig, "sqlstate", None) is None or trouble_of(error) in (Trouble.LOST, Trouble.CROWDED)
    if isinstance(error, sa.exc.OperationalError) and unheard:
        raise OperationalError(f"no connection to the database: {first_line(error.orig)}") from error
    raise OperationalError(f"the database did not do it: {first_line(error.orig)}") from error


def survives(driver: Driver, error: OperationalError) -> bool:
    """Whether what ended in this error (`translated`) may be tried again on the same connection."""
    conflict = trouble_of(error.__cause__) is Trouble.CONFLICT
    return conflict and driver.info.transaction_status == TransactionStatus.IDLE


def _refusal(error: Exception) -> ImproperlyConfigured:
    """What the database has against the statement, whatever it is to do."""
    if isinstance(error, pg_errors.InsufficientPrivilege):
        return AccessDenied(f"{NOT_GRANTED} ({first_line(error)})")
    return SchemaError(f"{NOT_MIGRATED} ({first_line(error)})")
