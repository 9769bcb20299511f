"""A worker may start before its database is up: it says so, and tries again."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from dbqueue.errors import OperationalError

if TYPE_CHECKING:
    from dbqueue.database import Database

FIRST_PAUSE_SECONDS: Final = 1.0
LAST_PAUSE_SECONDS: Final = 5.0

_WILL_NOT_CHANGE: Final = (
    "does not exist",  # the database, or the role
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "permission denied",
    "cannot be written",  # SQLite from here on
    "unable to open",
    "not a database",
    "malformed",
)
"""What errors say that waiting does not cure. Before the connection stands there is no SQLSTATE to look at."""

logger: Final = logging.getLogger("dbqueue.worker")


class Stopped(BaseException):
    """TERM or INT came while there was nothing to shut down; its text is the signal's name."""


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """TERM and INT raise Stopped in the block, wherever it waits, until the worker takes the signals over."""

    def stop(number: int, frame: object) -> None:
        raise Stopped(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is stop:  # else the worker has taken it over, to its very end
                signal.signal(number, handler)


def wait_for_database(database: Database) -> None:
    """Return when the database answers and its tables fit.

    Raises OperationalError for what waiting does not cure (a wrong name or password), SchemaError for tables that do
    not fit.
    """
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            database.store.ensure_schema()
            return
        except OperationalError as error:
            if any(text in str(error) for text in _WILL_NOT_CHANGE):
                raise
            reason = str(error).removeprefix("no connection to the database: ")
            logger.warning("Cannot reach %s (%s). Trying again in %.3g s...", database.url, reason, pause)
        time.sleep(pause)
        pause = min(pause * 1.5, LAST_PAUSE_SECONDS)
