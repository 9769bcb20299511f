"""The driver of SQLite as the store uses it: transactions, and its errors turned into dbqueue's."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

import sqlalchemy as sa

from dbqueue.errors import DBQueueError, DecodeError, OperationalError, SchemaError
from dbqueue.store.engine import BUSY_TIMEOUT_SECONDS


@contextlib.contextmanager
def immediate(driver: sqlite3.Connection) -> Iterator[None]:
    """A transaction that holds the write lock from its start."""
    driver.execute("BEGIN IMMEDIATE")
    try:
        yield
        driver.execute("COMMIT")
    except BaseException:
        if driver.in_transaction:
            driver.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into dbqueue's: what broke, and what to do."""
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.DataError):
        raise  # about the data, not the database: trying again would never end
    except (sqlite3.DatabaseError, sa.exc.DBAPIError) as error:
        # The driver's own, or as SQLAlchemy wraps it.
        raise _meaning(str(getattr(error, "orig", error))) from error


def _meaning(text: str) -> DBQueueError:
    if "malformed JSON" in text:  # about the data, not the database: trying again would never end
        return DecodeError(f"a row holds no JSON where it should ({text})")
    if "no such table" in text or "no such column" in text or "no column named" in text:
        return SchemaError(f"the database has no dbqueue tables of this version: run `dbqueue migrate` ({text})")
    if "readonly" in text or "unable to open" in text:
        return OperationalError(
            f"the SQLite file cannot be written ({text}): it and its folder, where SQLite keeps files beside it, must "
            "be there and writable"
        )
    if "locked" in text:
        return OperationalError(f"another program kept the SQLite file locked for {BUSY_TIMEOUT_SECONDS:g} s ({text})")
    if "not a database" in text:
        return OperationalError(f"the file that the URL names is no SQLite database ({text}): check the URL")
    return OperationalError(f"SQLite did not do it: {text}")
