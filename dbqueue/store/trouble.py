"""What a database may say at any time, and what is done about it: in one place.

    conflict    deadlock, serialization failure, lock timeout: run it again, on the same connection
    lost        the connection or its server is no use: another connection, to another host if the URL has one
    crowded     no connection slot is free, or the server is starting: connect again in a moment

A worker runs everything again until the database answers (`worker/claiming`): it has nothing else to do,
and its lease sees to what it held. A caller gets a few tries within `PATIENCE_SECONDS`, and then the error. All
that is run again may be: ids and leases are made here, so what had been committed unheard is found to be so.
"""

from __future__ import annotations

import enum
import random
import time
from typing import Final

import psycopg
import sqlalchemy as sa

from dbqueue.retry import backoff_seconds

PATIENCE_SECONDS: Final = 15.0
"""How long a caller's operation is tried; a lock of an application's may use it up at once (`LOCK_SECONDS`)."""
LOCK_SECONDS: Final = 10
"""How long one statement waits for a lock that somebody else holds."""
ROUND_LOCK_SECONDS: Final = 1
"""The same for a worker's rounds, which others wait behind: then they go on without what is locked."""
BRIEF_LOCK_SECONDS: Final = 0.5
"""The same for an entry that a beat fires: others are due behind it."""
BRIEFEST_LOCK_SECONDS: Final = 0.05
"""The same while somebody is known to have locked what an entry needs: it may be what many of them need."""
IDLE_SECONDS: Final = 60
"""How long a transaction of dbqueue's own may do nothing. Its steps follow each other at once, unless the process was
stopped, or cut off: the entry that a beat is firing, or a unique key, would then be locked for as long as the server
knows nothing of that, which may be hours."""
FIRST_PAUSE_SECONDS: Final = 0.02
LAST_PAUSE_SECONDS: Final = 0.5
CONFLICT_TRIES: Final = 8
CROWDED_TRIES: Final = 5


class Trouble(enum.Enum):
    CONFLICT = "conflict"
    LOST = "lost"
    CROWDED = "crowded"


_BY_SQLSTATE: Final = {
    "40001": Trouble.CONFLICT,  # serialization_failure
    "40P01": Trouble.CONFLICT,  # deadlock_detected
    "55P03": Trouble.CONFLICT,  # lock_not_available
    "25006": Trouble.LOST,  # read_only_sql_transaction: a primary that has become a standby
    "57P01": Trouble.LOST,  # admin_shutdown, and pg_terminate_backend
    "57P02": Trouble.LOST,  # crash_shutdown
    "57P05": Trouble.LOST,  # idle_session_timeout
    "25P03": Trouble.LOST,  # idle_in_transaction_session_timeout
    "25P04": Trouble.LOST,  # transaction_timeout
    "0A000": Trouble.LOST,  # "cached plan must not change result type": a column was altered, and plans are made anew
    "57P03": Trouble.CROWDED,  # cannot_connect_now
    "53300": Trouble.CROWDED,  # too_many_connections
}
"""PostgreSQL's manual, "PostgreSQL Error Codes"."""

_OUTDATED: Final = (
    "42P01",  # undefined_table: of a search path, as the next five
    "42703",  # undefined_column
    "3F000",  # invalid_schema_name
    "42P10",  # invalid_column_reference
    "42883",  # undefined_function
    "42704",  # undefined_object
    "42501",  # insufficient_privilege: of a role, or of row_security
    "57014",  # query_canceled: of a statement_timeout
)

_CROWDED: Final = (
    "too many c",  # clients already, connections for role, connections for database
    "connection slots are reserved",
    "no more connections allowed",  # a pooler
    "is starting up",
    "is not yet accepting connections",
    "is in recovery mode",
)
"""Before a connection stands, libpq tells no SQLSTATE."""


def trouble_of(error: BaseException | None) -> Trouble | None:
    """What kind of expected trouble the driver's error is; None: none that another try would mend."""
    if isinstance(error, sa.exc.DBAPIError):
        if error.connection_invalidated:
            return Trouble.LOST
        error = error.orig
    if not isinstance(error, psycopg.Error):
        return None
    if error.sqlstate is not None:
        return _BY_SQLSTATE.get(error.sqlstate, Trouble.LOST if error.sqlstate.startswith("08") else None)
    if any(text in str(error) for text in _CROWDED):
        return Trouble.CROWDED
    return None


def may_be_outdated(error: BaseException | None) -> bool:
    """Whether it may come of what the connection keeps of its role's settings, as they were when it was made.

    It may say so for ever, though the role has other settings by now; a new one may do what it cannot.
    """
    return getattr(getattr(error, "orig", error), "sqlstate", None) in _OUTDATED


def first_line(error: BaseException | None) -> str:
    """What it says, in one line; of an error that SQLAlchemy has wrapped, the driver's own words."""
    return (str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__])[0]


class Tries:
    """The tries of one operation of a caller's: how many are left, and the pause before the next."""

    def __init__(self, connections: int) -> None:
        """`connections`: how many connections of the pool may turn out to be broken, one after the other."""
        self._left = {Trouble.LOST: connections, Trouble.CONFLICT: CONFLICT_TRIES, Trouble.CROWDED: CROWDED_TRIES}
        self._give_up_at = time.monotonic() + PATIENCE_SECONDS
        self._pauses = 0
        self.unheard = False
        """Whether one of them may have been done, for its connection broke."""

    def again(self, trouble: Trouble | None) -> bool:
        """Whether to try once more; returns when it is time to."""
        if trouble is None or self._left[trouble] == 0 or time.monotonic() >= self._give_up_at:
            return False
        self._left[trouble] -= 1
        if trouble is not Trouble.LOST:  # a broken connection tells nothing of the next one
            time.sleep(
                backoff_seconds(
                    self._pauses, factor=FIRST_PAUSE_SECONDS, maximum=LAST_PAUSE_SECONDS, jitter=random.random
                )
            )
            self._pauses += 1
        return True
