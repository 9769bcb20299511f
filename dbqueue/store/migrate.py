"""Making, checking and changing the tables: alembic, with everything built in code.

    upgrade(engine)      bring the tables to this version; twice at once, or again, is harmless
    run_on(connection)   the same inside a transaction of the application's
    check(engine)        what state the tables are in, and what to do about it
    ensure(engine)       `check`, and on SQLite `upgrade`: the embedded database needs no set-up
    sql(url)             the statements as text, for a database administrator to run

dbqueue's revisions stand beside the application's own: they have a version table of their own, and
`include_name` keeps the application's `alembic revision --autogenerate` from dropping our tables.

All of an upgrade is one transaction under one lock. The revisions are given their operations as an
argument instead of importing `alembic.op`: that module is one global for the process, so two
threads could not migrate at once, and an application could not call `run_on` from its own revision.
alembic takes a tenth of a second to import, so only what changes tables imports it.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import sqlalchemy as sa

from dbqueue.errors import ImproperlyConfigured, OperationalError, SchemaError
from dbqueue.store.compatibility import VERSION_TABLE, SchemaState, read_marks
from dbqueue.store.engine import OWN_SETTINGS_HERE
from dbqueue.store.tables import PREFIX
from dbqueue.urls import normalise_url

if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

MIGRATION_WAIT_SECONDS: Final = 60
"""How long a migration waits for another one that runs already (a second deploy)."""

DDL_LOCK_SECONDS: Final = 5
"""How long one statement waits for a table. All later users of the table queue behind a statement
that waits, so a migration that cannot have its lock soon must give up and be run again."""

_LOCK_NOT_AVAILABLE: Final = "55P03"
"""PostgreSQL's SQLSTATE for a `lock_timeout` that ran out."""


def upgrade(bind: sa.Engine | sa.Connection, *, schema: str | None = None, revision: str = "head") -> None:
    """Bring the tables up to `revision`; nothing happens where they are there already.

    An Engine is migrated in a transaction that is committed here; for a Connection see `run_on`.
    `schema` is the PostgreSQL schema of the tables, made if it is missing; None is the connection's
    default. Tables that are newer than this dbqueue, and may be used by it, are left as they are.
    Raises SchemaError where they may not, or where the revision is unknown, and OperationalError where
    another session holds a lock for too long: nothing has been changed then.
    """
    if isinstance(bind, sa.Connection):
        run_on(bind, schema=schema, revision=revision)
        return
    with transaction(bind) as connection:
        run_on(connection, schema=schema, revision=revision)


def run_on(connection: sa.Connection, *, schema: str | None = None, revision: str = "head") -> None:
    """Upgrade inside the caller's transaction, which the caller commits or rolls back.

    Made for an application that migrates everything in one go, also from within a revision of its own
    (`run_on(op.get_bind())`). The connection must not be in the driver's autocommit mode. Takes and
    raises what `upgrade` does; after an OperationalError the caller must roll back. What has failed leaves
    nothing behind, on SQLite too, where the rest of the transaction may still be committed.
    """
    with locked(connection, schema):
        state = check(connection, schema=schema)
        if state.status == "ahead":
            raise SchemaError(str(state))
        if state.status == "newer":
            return
        if schema is not None and not sa.inspect(connection).has_schema(schema):
            # Not IF NOT EXISTS alone: that asks for the right to make one even where it is there.
            connection.execute(sa.schema.CreateSchema(schema))
        _run(connection, schema, "upgrade", revision)


def downgrade(bind: sa.Engine | sa.Connection, *, schema: str | None = None, revision: str = "base") -> None:
    """Take the tables back to `revision`; `base` drops them, with all jobs, and the version table.

    A PostgreSQL schema is left in place. Raises what `upgrade` raises.
    """
    if isinstance(bind, sa.Engine):
        with transaction(bind) as connection:
            downgrade(connection, schema=schema, revision=revision)
        return
    with locked(bind, schema):
        state = check(bind, schema=schema)
        if state.status in ("newer", "ahead"):  # what is to be undone is known to newer code alone
            raise SchemaError(f"{state}; only that version can take them back")
        if state.status == "missing":
            return
        _run(bind, schema, "downgrade", revision)
        if current(bind, schema=schema) is None:
            sa.Table(VERSION_TABLE, sa.MetaData(), schema=schema).drop(bind)


def current(bind: sa.Engine | sa.Connection, *, schema: str | None = None) -> str | None:
    """The revision that the database's tables are at, or None where it has none."""
    if isinstance(bind, sa.Engine):
        with bind.connect() as connection:
            return current(connection, schema=schema)
    marks = read_marks(bind, schema)
    return None if marks is None else marks.revision


def head() -> str:
    """The newest revision that this version of dbqueue knows: the one that it needs."""
    return _revisions()[-1]


def knows(revision: str) -> bool:
    """Whether it names a revision of this version: one of its own, `head`, `base`, or so many steps (`-1`)."""
    return revision in ("head", "base", *_revisions()) or re.fullmatch(r"[+-]\d+", revision) is not None


def check(bind: sa.Engine | sa.Connection, *, schema: str | None = None) -> SchemaState:
    """The state of the tables: two small queries, without importing alembic."""
    if isinstance(bind, sa.Engine):
        with bind.connect() as connection:
            return check(connection, schema=schema)
    return SchemaState.of(read_marks(bind, schema), _revisions())


def ensure(engine: sa.Engine, *, schema: str | None = None) -> SchemaState:
    """The tables as they must be, or SchemaError.

    SQLite, the embedded default, migrates by itself. On a server a migration is a deployment's
    decision (`dbqueue migrate`): it takes locks, and may need rights that a worker has not.
    """
    state = check(engine, schema=schema)
    if engine.dialect.name == "sqlite" and state.status in ("missing", "behind"):
        upgrade(engine, schema=schema)
        state = check(engine, schema=schema)
    state.require_usable()
    return state


def sql(url: str, *, schema: str | None = None, revision: str = "head", start: str = "base") -> str:
    """The statements that upgrade from `start` to `revision`, as text; connects to nothing.

    Of `url` only the kind of database counts: `postgresql://` is enough. Raises ImproperlyConfigured for
    a database that dbqueue does not know, and SchemaError for an unknown revision.
    """
    dialect = sa.make_url(normalise_url(url)).get_dialect()()
    _refuse_schema(dialect, schema)
    text = io.StringIO()
    # On SQLite alembic would leave out BEGIN and COMMIT: it does not expect transactional DDL there.
    options = {"as_sql": True, "output_buffer": text, "starting_rev": start, "transactional_ddl": True}
    context = _context(schema, "upgrade", revision, dialect=dialect, options=options)
    with _alembic_errors(), context.begin_transaction():
        if dialect.name == "postgresql":
            context.execute(f"SET LOCAL lock_timeout = '{MIGRATION_WAIT_SECONDS}s'")
            context.execute(f"SELECT pg_advisory_xact_lock({_lock_key(schema)})")
            context.execute(f"SET LOCAL lock_timeout = '{DDL_LOCK_SECONDS}s'")
        if schema is not None:
            context.execute(f"CREATE SCHEMA IF NOT EXISTS {dialect.identifier_preparer.quote(schema)}")
        _run_context(context, schema)
    return text.getvalue()


def include_name(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """False for dbqueue's tables: give it to `context.configure(include_name=...)` in your env.py.

    Then `alembic revision --autogenerate` overlooks them instead of proposing to drop them. To join it
    with a rule of your own: `lambda *name: include_name(*name) and mine(*name)`.
    """
    return not (type_ == "table" and name is not None and name.startswith(PREFIX))


# -- where the revisions are --------------------------------------------------------------------


def folder() -> Path:
    """The folder of the revisions: inside the installed package, or beside it in a checkout.

    The wheel carries `migrations/` as `dbqueue/migrations`; an editable installation imports `dbqueue`
    from the checkout, which has it at the top.
    """
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "migrations", package.parent / "migrations"):
        if (candidate / "versions").is_dir():
            return candidate
    raise SchemaError(
        f"dbqueue's migrations are neither in {package / 'migrations'} nor in {package.parent / 'migrations'}: "
        "the installation is incomplete, install dbqueue-sql again"
    )


@cache
def _revisions() -> tuple[str, ...]:
    # From the files' names (0001_what.py), which sort: reading them by alembic costs its import.
    # A test holds the names against what alembic reads.
    return tuple(sorted(path.name.partition("_")[0] for path in (folder() / "versions").glob("[0-9]*.py")))


# -- running them -------------------------------------------------------------------------------


def _run(connection: sa.Connection, schema: str | None, direction: Literal["upgrade", "downgrade"], to: str) -> None:
    context = _context(schema, direction, to, connection=connection)
    with _alembic_errors(), _lock_errors():
        _run_context(context, schema)


def _context(
    schema: str | None,
    direction: Literal["upgrade", "downgrade"],
    to: str,
    *,
    connection: sa.Connection | None = None,
    dialect: sa.Dialect | None = None,
    options: Mapping[str, Any] | None = None,
) -> MigrationContext:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    scripts: ScriptDirectory = ScriptDirectory(str(folder()))
    steps = scripts._upgrade_revs if direction == "upgrade" else scripts._downgrade_revs

    def revisions(heads: Any, context: MigrationContext) -> Any:
        return steps(to, heads)

    return MigrationContext.configure(
        connection=connection,
        dialect=dialect,
        opts={
            "fn": revisions,
            "script": scripts,
            "version_table": VERSION_TABLE,
            "version_table_schema": schema,
            **(options or {}),
        },
    )


def _run_context(context: MigrationContext, schema: str | None) -> None:
    from alembic.operations import Operations

    context.run_migrations(op=Operations(context), schema=schema)


@contextmanager
def _alembic_errors() -> Iterator[None]:
    from alembic.util import CommandError

    try:
        yield
    except CommandError as error:
        raise SchemaError(f"{error} (this version of dbqueue knows the revisions {', '.join(_revisions())})") from error


# -- one transaction, one migration at a time ---------------------------------------------------


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection in a real transaction, whatever isolation the engine gives its connections."""
    # READ COMMITTED: what the migration that we waited for has committed must be seen after the wait.
    isolation = "READ COMMITTED" if engine.dialect.name == "postgresql" else None
    with engine.connect() as connection:
        if isolation is not None:
            connection.execution_options(isolation_level=isolation)
        with connection.begin():
            if engine.dialect.name == "sqlite" and _driver(connection).in_transaction:
                # The engine's own "begin" listener; ours must be IMMEDIATE, and nothing happened in it.
                connection.exec_driver_sql("ROLLBACK")
            if engine.dialect.name == "postgresql":  # here, for through a pooler no connection keeps it
                connection.exec_driver_sql(OWN_SETTINGS_HERE)
            yield connection


@contextmanager
def locked(connection: sa.Connection, schema: str | None) -> Iterator[None]:
    """Let nobody else migrate these tables until the transaction ends."""
    _refuse_schema(connection.dialect, schema)
    if getattr(_driver(connection), "autocommit", False) is True:
        raise ImproperlyConfigured("a migration needs a transaction, and this connection is in autocommit mode")
    with _lock_errors():
        if connection.dialect.name == "postgresql":
            with _postgres_lock(connection, schema):
                yield
        elif connection.dialect.name == "sqlite":
            with _sqlite_lock(connection):
                yield
        else:
            yield


@contextmanager
def _postgres_lock(connection: sa.Connection, schema: str | None) -> Iterator[None]:
    """Hold the advisory lock to the end of the transaction, and let no statement wait long."""
    before = connection.scalar(sa.text("SELECT current_setting('lock_timeout')"))
    # `lock_timeout` counts for advisory locks too. All settings are of this transaction only, and
    # the lock is no session lock: both work through a pooler.
    set_timeout = sa.text("SELECT set_config('lock_timeout', :value, true)")
    connection.execute(set_timeout, {"value": f"{MIGRATION_WAIT_SECONDS}s"})
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.literal(_lock_key(schema), sa.BigInteger))))
    connection.execute(set_timeout, {"value": f"{DDL_LOCK_SECONDS}s"})
    yield
    connection.execute(set_timeout, {"value": before})  # the rest of a caller's transaction keeps its own


@contextmanager
def _sqlite_lock(connection: sa.Connection) -> Iterator[None]:
    """Hold the write lock before the first read; a caller's own transaction is taken as it is.

    The driver begins a transaction by itself only before data changes, not before DDL, and begins it
    DEFERRED: one that read first cannot wait for the lock any more.
    """
    if not _driver(connection).in_transaction:
        before = connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {MIGRATION_WAIT_SECONDS * 1000}")
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {before}")
    # An error does not abort a transaction here, as it does on PostgreSQL: a caller that goes on after one, and
    # commits, would keep half of the tables.
    connection.exec_driver_sql("SAVEPOINT dbqueue_migration")
    try:
        yield
    except BaseException:
        if _driver(connection).in_transaction:  # a full disk may have ended it
            connection.exec_driver_sql("ROLLBACK TO dbqueue_migration")
            connection.exec_driver_sql("RELEASE dbqueue_migration")
        raise
    connection.exec_driver_sql("RELEASE dbqueue_migration")


@contextmanager
def _lock_errors() -> Iterator[None]:
    try:
        yield
    except sa.exc.OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE and "is locked" not in str(error.orig):
            raise
        raise OperationalError(
            "the migration did not get its lock in time, because another session migrates or uses the tables: "
            "nothing has been changed; run it again, or end that session first"
        ) from error


def _driver(connection: sa.Connection) -> Any:
    """The driver's own connection (sqlite3, aiosqlite, psycopg)."""
    return connection.connection.driver_connection


def _lock_key(schema: str | None) -> int:
    name = VERSION_TABLE if schema is None else f"{schema}.{VERSION_TABLE}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), signed=True)


def _refuse_schema(dialect: sa.Dialect, schema: str | None) -> None:
    if schema is not None and dialect.name != "postgresql":
        raise ImproperlyConfigured(f"a schema ({schema!r}) is for PostgreSQL only, not for {dialect.name}")
