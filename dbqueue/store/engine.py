"""Making the SQLAlchemy engine: driver, pool and what each new connection is told.

Connections of the pool are in autocommit: an enqueue is one statement, and a single statement
needs no BEGIN and COMMIT around it. Where several statements belong together, the store opens a
transaction by name.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from dbqueue import urls
from dbqueue.errors import ImproperlyConfigured
from dbqueue.store.sqlite.files import OPTIONS, engine_url, file_identity, file_of, why_away
from dbqueue.store.trouble import IDLE_SECONDS, LOCK_SECONDS

if TYPE_CHECKING:
    import sqlite3

    from sqlalchemy.ext.asyncio import AsyncEngine

BUSY_TIMEOUT_SECONDS = 10.0
"""How long SQLite waits for another process's write lock before an operation fails."""

MAX_CONNECT_SECONDS = 3600
"""The longest that a connection may take to be made; 0 in a URL is psycopg's own bound, 130 seconds."""

OWN_SETTINGS = f"""
SELECT set_config(name, value, false)
FROM (VALUES ('lock_timeout', '{LOCK_SECONDS}s', '0'), ('idle_in_transaction_session_timeout', '{IDLE_SECONDS}s', '0'),
    ('DateStyle', 'ISO', current_setting('DateStyle')), ('array_nulls', 'on', 'off')) AS own(name, value, instead_of)
WHERE current_setting(name) = instead_of"""
"""Bounds on what a connection waits for, where its role has none, and the forms in which statements and answers are
written: the driver reads times in this style alone."""
OWN_SETTINGS_HERE = OWN_SETTINGS.replace("false", "true")
"""The same for one transaction, where nothing outlives it."""


@dataclass(frozen=True, slots=True)
class Access:
    """How the database is reached: what further engines of a store are made of."""

    url: str
    pool_size: int
    connect_timeout: float
    pooler: bool = False
    """Whether the URL leads through a pooler in transaction mode, see `store.postgres.pooler`."""
    folder: str = ""
    """Where the path of a SQLite file begins that is no absolute one; by default the working folder."""


@contextlib.contextmanager
def _reading_url() -> Iterator[None]:
    """Around the making of an engine, which reads the URL and its options: what it cannot read is said in one line."""
    try:
        yield
    except (sa.exc.ArgumentError, ValueError) as error:
        raise ImproperlyConfigured(f"the database URL cannot be read: {error}") from None


@_reading_url()
def make_engine(access: Access) -> sa.Engine:
    """An engine for a URL that `urls.normalise_url` has been over already. Connects to nothing."""
    url = sa.make_url(access.url)
    if url.get_backend_name() == "sqlite":
        url, options = _sqlite_options(access)
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", **options)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "connect", _read_any_text)
        _leave_files_that_are_gone(engine, access)
        return engine
    from dbqueue.store.postgres.any_time import any_time_adapters
    from dbqueue.store.postgres.quick_pool import QuickPool

    # What is given back is reset by `_reset` instead.
    options = {**_postgres_options(access, url), "poolclass": QuickPool, "pool_reset_on_return": None}
    options["connect_args"]["context"] = any_time_adapters()
    options["use_native_hstore"] = False  # the store has no such column, and would ask for the type first of all
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", **options)
    sa.event.listen(engine, "do_connect", _connect_through_pooler if access.pooler else _connect)
    _replace_ended(engine, lambda driver: driver.settle())
    sa.event.listen(engine, "reset", _reset)
    if not access.pooler:
        sa.event.listen(engine, "connect", _set_up)
    return engine


@_reading_url()
def make_task_engine(access: Access) -> sa.Engine:
    """An engine for the transactions of tasks, in a pool of its own: a task that is given none of its connections
    waits, for as long as it may run."""
    url = sa.make_url(access.url)
    if url.get_backend_name() == "sqlite":
        url, options = _sqlite_options(access)
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", pool_timeout=None, **options)
        sa.event.listen(engine, "connect", _prepare_sqlite)
        _leave_files_that_are_gone(engine, access)
        return engine
    options = _postgres_options(access, url)
    engine = sa.create_engine(url, isolation_level="READ COMMITTED", pool_timeout=None, **options)
    _replace_ended(engine, _hear_last_words)
    return engine


@_reading_url()
def make_async_task_engine(access: Access) -> AsyncEngine:
    """As `make_task_engine`, for coroutines; raises ImproperlyConfigured where the extra is missing."""
    url = sa.make_url(access.url)
    try:
        from sqlalchemy.ext.asyncio import create_async_engine

        if url.get_backend_name() != "sqlite":
            options = _postgres_options(access, url)
            engine = create_async_engine(url, isolation_level="READ COMMITTED", pool_timeout=None, **options)
            _replace_ended(engine.sync_engine, _hear_last_words)
            return engine
        url, options = _sqlite_options(access)
        url = url.set(drivername="sqlite+aiosqlite")
        engine = create_async_engine(url, isolation_level="AUTOCOMMIT", pool_timeout=None, **options)
    except ModuleNotFoundError as error:
        raise ImproperlyConfigured(
            f"transactional coroutines need the extra `async` (pip install 'dbqueue-sql[async]'): {error}"
        ) from error
    sa.event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    _leave_files_that_are_gone(engine.sync_engine, access)
    return engine


def _leave_files_that_are_gone(engine: sa.Engine, access: Access) -> None:
    """Let the pool give out no connection to a SQLite file that was deleted, or that another has taken the place of.

    The operating system keeps such a file for whoever has opened it: a call would be written there, and nobody else
    would ever see it.
    """
    path = file_of(access.url, access.folder)

    def note(connection: object, record: Any) -> None:
        record.info["file"] = file_identity(path)

    def compare(connection: object, record: Any, proxy: object) -> None:
        if (why := why_away(path, record.info["file"])) is not None:
            raise sa.exc.DisconnectionError(why)

    sa.event.listen(engine, "connect", note)
    sa.event.listen(engine, "checkout", compare)


def _postgres_options(access: Access, url: sa.URL) -> dict[str, Any]:
    _check_query(url, shown=urls.mask_url(access.url))
    seconds = min(round(access.connect_timeout), MAX_CONNECT_SECONDS)
    for_libpq = {
        "connect_timeout": max(2, seconds),  # libpq takes whole seconds, at least 2
        # Found by TCP itself where the server's host has gone without a word.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 20_000,  # milliseconds; keepalives are silent while data waits to be acknowledged
    }
    # SQLAlchemy would prefer these to what the URL says.
    own = {name: value for name, value in for_libpq.items() if name not in url.query}
    return {
        "pool_size": access.pool_size,
        # A short burst of threads may open this many more, closed again afterwards.
        "max_overflow": access.pool_size,
        "connect_args": {**own, "prepare_threshold": None if access.pooler else 3},
    }


def _check_query(url: sa.URL, *, shown: str) -> None:
    """Raise ValueError for an option of the URL that is none of libpq's: psycopg takes others, which are no text.

    `shown` is the URL with its password masked: an option that is not in it may be the rest of a password.
    """
    from psycopg.pq import Conninfo

    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    for name, value in url.query.items():
        if name not in known:
            fit = name in dict(parse_qsl(shown.partition("?")[2]))
            raise ValueError(f"libpq has no option {name!r}" if fit else "libpq has no option of a name that it has")
        if not isinstance(value, str) and name not in ("host", "port"):
            raise ValueError(f"it has the option {name!r} {len(value)} times")
    seconds = url.query.get("connect_timeout", "0")
    if not (isinstance(seconds, str) and re.fullmatch("[0-9]{1,4}", seconds) and int(seconds) <= MAX_CONNECT_SECONDS):
        raise ValueError(f"its connect_timeout is no whole number of seconds from 0 to {MAX_CONNECT_SECONDS}")


def _connect(dialect: sa.Dialect, record: object, arguments: Any, parameters: Any) -> Any:
    from dbqueue.store.postgres.pool_connection import PoolConnection

    return PoolConnection.connect(*arguments, **parameters)


def _connect_through_pooler(dialect: sa.Dialect, record: object, arguments: Any, parameters: Any) -> Any:
    from dbqueue.store.postgres.pooler import PoolerConnection

    return PoolerConnection.connect(*arguments, **parameters)


def _reset(connection: Any, record: object, state: object) -> None:
    """Let a connection go back to the pool: with no transaction, but maybe with an answer to come."""
    if not (connection.closed or connection.is_owed_an_answer):
        connection.rollback()


def _replace_ended(engine: sa.Engine, hear: Callable[[Any], None]) -> None:
    """Let the pool open another connection in place of one that the server has ended, which `hear` finds out.

    Of one that it has only just opened that is an error of the driver's, which whoever asked knows what to do about:
    SQLAlchemy would open a second one, and say of that, in words for a mistake in the program, that it is closed.
    """

    def note(connection: object, record: Any) -> None:
        record.info["is new"] = True

    def look(connection: object, record: Any, proxy: object) -> None:
        import psycopg

        is_new = record.info.pop("is new", False)
        try:
            hear(record.driver_connection)
        except psycopg.Error as error:
            if is_new:
                raise psycopg.errors.ConnectionFailure(str(error)) from error
            raise sa.exc.DisconnectionError(str(error)) from error

    sa.event.listen(engine, "connect", note)
    sa.event.listen(engine, "checkout", look)


def _hear_last_words(driver: Any) -> None:
    """As `PoolConnection.settle`: what the server has said is here already, and costs no round trip.

    A task that was given a connection which the server has ended would fail.
    """
    for _ in ("the last words", "the end of the stream"):
        driver.pgconn.consume_input()


def _set_up(connection: Any, record: object) -> None:
    """Let no enqueue wait for ever for a lock, nor others for one of its own; what the role or the database says comes
    first. Not so in the form of values, which is between dbqueue and the server."""
    before = connection.autocommit
    connection.autocommit = True
    connection.execute(OWN_SETTINGS, prepare=False)
    connection.autocommit = before


def _sqlite_options(access: Access) -> tuple[sa.URL, dict[str, Any]]:
    # An absolute path: the process may change its working folder later (a daemon does).
    file = file_of(access.url, access.folder)
    url = engine_url(access.url, file)
    unknown = sorted(set(url.query) - OPTIONS - {"uri"})
    if unknown and not urls.is_sqlite_uri(access.url):
        raise ValueError(f"{unknown[0]!r} is no option of a SQLite file; SQLite's own need file:NAME?uri=true")
    options: dict[str, Any]
    if file is None:
        # A database in memory lives and dies with its connection: the process shares one. What one thread gives
        # back must not be rolled back, for another may be in a transaction on it.
        options = {"poolclass": StaticPool, "pool_reset_on_return": None}
    elif file.parent.is_dir():
        options = {"pool_size": access.pool_size, "max_overflow": access.pool_size}
    else:
        raise ImproperlyConfigured(
            f"the SQLite database {urls.sqlite_name(access.url)!r} cannot be made: no folder {str(file.parent)!r}"
        )
    options["connect_args"] = {"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
    return url, options


def _read_any_text(connection: sqlite3.Connection, record: object) -> None:
    connection.text_factory = readable


def readable(text: bytes) -> str:
    """SQLite keeps any bytes as text: what is no UTF-8 becomes a mark, for one row must not hide the others."""
    return text.decode(errors="replace")


def _prepare_sqlite(connection: Any, record: object) -> None:
    """`connection` is sqlite3's, or the one that stands for it where a coroutine waits."""
    import sqlite3

    # The driver must not open transactions by itself: it would begin them DEFERRED, and a read
    # that turns into a write fails at once with BUSY_SNAPSHOT, whatever the time-out.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_SECONDS * 1000)}")
    # On a read-only file or a network disk this fails; reads still work, and a write says why not.
    with contextlib.suppress(sqlite3.OperationalError):
        cursor.execute("PRAGMA journal_mode = WAL")
    # FULL, not NORMAL: in WAL mode NORMAL may lose the last commits when the power fails.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()
