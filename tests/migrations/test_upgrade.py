"""Up, down, twice, at once, by hand: what `dbqueue.store.migrate` promises, on both databases."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import create_async_engine

from dbqueue.errors import ImproperlyConfigured, OperationalError, SchemaError
from dbqueue.store import compatibility, indexes, migrate, tables
from tests.servers import libpq_url
from tests.waiting import wait_until

SCHEMA = "Job Queue"  # needs quotes wherever it is written


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(empty_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def postgres(empty_postgres_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(empty_postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite(empty_sqlite_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(empty_sqlite_url)
    yield engine
    engine.dispose()


def our_tables(engine: sa.Engine, schema: str | None = None) -> set[str]:
    return {name for name in sa.inspect(engine).get_table_names(schema) if name.startswith(tables.PREFIX)}


ALL = {*tables.metadata.tables, compatibility.VERSION_TABLE}


# -- the result ---------------------------------------------------------------------------------


def description(engine: sa.Engine) -> dict[str, Any]:
    """All that the database itself knows of the tables, in its own words."""
    if engine.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE tbl_name != 'dbqueue_alembic_version' AND sql IS NOT NULL"
        with engine.connect() as connection:
            return {name: " ".join(text.split()) for name, text in connection.exec_driver_sql(query)}
    queries = {
        "columns": "SELECT table_name, ordinal_position, column_name, data_type, collation_name, is_nullable,"
        " column_default, character_maximum_length FROM information_schema.columns"
        " WHERE table_schema = 'public' AND table_name != 'dbqueue_alembic_version' ORDER BY 1, 2",
        "comments": "SELECT objoid::regclass::text, objsubid, description FROM pg_description"
        " WHERE classoid = 'pg_class'::regclass AND objoid::regclass::text LIKE 'dbqueue%' ORDER BY 1, 2",
        "constraints": "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE conrelid IN"
        " ('dbqueue_jobs'::regclass, 'dbqueue_edges'::regclass, 'dbqueue_workers'::regclass) ORDER BY 1",
        "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE tablename IN"
        " ('dbqueue_jobs', 'dbqueue_edges', 'dbqueue_workers')"
        " ORDER BY 1",
        "storage": "SELECT relname, reloptions FROM pg_class WHERE relname IN ('dbqueue_jobs', 'dbqueue_workers')"
        " ORDER BY 1",
    }
    with engine.connect() as connection:
        return {
            what: [tuple(row) for row in connection.exec_driver_sql(query.replace("%", "%%"))]
            for what, query in queries.items()
        }


def test_upgraded_database_is_what_the_tables_say(engine: sa.Engine) -> None:
    migrate.upgrade(engine)
    migrated = description(engine)
    with engine.connect() as connection:
        # Defaults are left to `description`: alembic compares them by `=`, which type json has not.
        context = MigrationContext.configure(connection, opts={"version_table": compatibility.VERSION_TABLE})
        assert compare_metadata(context, indexes.metadata) == []
    migrate.downgrade(engine)
    with engine.begin() as connection:
        indexes.metadata.create_all(connection)
    assert migrated == description(engine)
    assert migrated


def test_storage_parameters_are_set(postgres: sa.Engine) -> None:
    migrate.upgrade(postgres)
    with postgres.connect() as connection:
        options = connection.scalar(sa.text("SELECT reloptions FROM pg_class WHERE relname = 'dbqueue_jobs'"))
    assert dict(option.split("=") for option in options) == tables.JOBS_STORAGE


def test_plain_insert_is_a_whole_job(engine: sa.Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO dbqueue_jobs (task, args) VALUES ('a.task', '[1]')"))
        row = connection.execute(sa.text("SELECT id, status, ready_at, queue FROM dbqueue_jobs")).one()
    assert row.id
    assert row.ready_at
    assert (row.status, row.queue) == ("PENDING", "celery")


def test_checks_hold(engine: sa.Engine) -> None:
    migrate.upgrade(engine)
    for wrong in (
        "INSERT INTO dbqueue_jobs (task, status) VALUES ('a', 'DONE')",
        "INSERT INTO dbqueue_jobs (task, status) VALUES ('a', 'STARTED')",
        "INSERT INTO dbqueue_jobs (task, ready_at) VALUES ('a', NULL)",
        "INSERT INTO dbqueue_jobs (task, eta) VALUES ('a', '2999-01-01 00:00:00.000')",
    ):
        with pytest.raises(sa.exc.IntegrityError), engine.begin() as connection:
            connection.exec_driver_sql(wrong)


# -- again, and back ----------------------------------------------------------------------------


def test_upgrade_twice_changes_nothing(engine: sa.Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(tables.jobs.insert().values(task="a.task"))
    before = description(engine)
    migrate.upgrade(engine)
    assert description(engine) == before
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(tables.jobs)) == 1


def test_downgrade_leaves_nothing_and_upgrade_works_again(engine: sa.Engine) -> None:
    migrate.downgrade(engine)  # nothing there: nothing to do
    migrate.upgrade(engine)
    assert our_tables(engine) == ALL
    migrate.downgrade(engine)
    assert our_tables(engine) == set()
    assert migrate.current(engine) is None
    migrate.upgrade(engine)
    assert our_tables(engine) == ALL


def test_each_revision_alone_up_and_down(engine: sa.Engine) -> None:
    for revision in migrate._revisions():
        migrate.upgrade(engine, revision=revision)
        assert migrate.current(engine) == revision
        migrate.downgrade(engine, revision="-1")
        migrate.upgrade(engine, revision=revision)
    assert migrate.current(engine) == migrate.head()


def test_failed_upgrade_leaves_nothing(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE dbqueue_workers (id INT)")  # in the way, after dbqueue_jobs
    with pytest.raises((sa.exc.ProgrammingError, sa.exc.OperationalError)):
        migrate.upgrade(engine)
    assert our_tables(engine) == {"dbqueue_workers"}


# -- two at once --------------------------------------------------------------------------------

UPGRADE = """
import sys
import sqlalchemy as sa
from dbqueue.store import migrate
engine = sa.create_engine(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
migrate.upgrade(engine)
"""


def test_processes_upgrade_at_once(engine: sa.Engine, empty_database_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", UPGRADE, empty_database_url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert our_tables(engine) == ALL
    assert migrate.check(engine).is_current


def test_threads_upgrade_at_once(engine: sa.Engine) -> None:
    barrier = threading.Barrier(4)

    def upgrade() -> None:
        barrier.wait(timeout=30)
        migrate.upgrade(engine)

    with ThreadPoolExecutor(4) as threads:
        for future in [threads.submit(upgrade) for _ in range(4)]:
            future.result(timeout=60)
    assert migrate.check(engine).is_current


def test_second_upgrade_waits_for_the_first(postgres: sa.Engine) -> None:
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with ThreadPoolExecutor(1) as threads, postgres.connect() as watcher:
        with postgres.begin() as first:
            migrate.run_on(first)
            second = threads.submit(migrate.upgrade, postgres)
            wait_until(lambda: watcher.scalar(waiting) == 1, what="the second migration's wait")
            assert not second.done()
        second.result(timeout=60)
    assert migrate.check(postgres).is_current


def test_table_in_use_ends_a_migration_soon(postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "DDL_LOCK_SECONDS", 1)
    migrate.upgrade(postgres)
    with postgres.begin() as user:
        user.execute(sa.text("SELECT count(*) FROM dbqueue_jobs"))
        with pytest.raises(OperationalError, match="nothing has been changed"):
            migrate.downgrade(postgres)
    assert migrate.check(postgres).is_current


def test_another_migration_is_waited_for_longer_than_a_table(postgres: sa.Engine) -> None:
    with migrate.transaction(postgres) as connection, migrate.locked(connection, None):
        lock_timeout = connection.exec_driver_sql("SELECT current_setting('lock_timeout')").scalar_one()
    assert lock_timeout == f"{migrate.DDL_LOCK_SECONDS}s"
    assert migrate.DDL_LOCK_SECONDS < migrate.MIGRATION_WAIT_SECONDS


def test_a_migration_that_stands_still_keeps_its_locks_for_a_minute(postgres: sa.Engine) -> None:
    with migrate.transaction(postgres) as connection:
        shown = connection.exec_driver_sql("SELECT current_setting('idle_in_transaction_session_timeout')")
        assert shown.scalar() == "1min"


def test_sqlite_file_in_use_says_so(sqlite: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "MIGRATION_WAIT_SECONDS", 0)
    with sqlite.connect() as user:
        user.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="run it again"):
            migrate.upgrade(sqlite)
        user.exec_driver_sql("ROLLBACK")
    migrate.upgrade(sqlite)


# -- the engine and the connection are the caller's ---------------------------------------------


@pytest.mark.parametrize("isolation", ["AUTOCOMMIT", "SERIALIZABLE"])
def test_any_isolation_of_the_engine(empty_database_url: str, isolation: Any) -> None:
    engine = sa.create_engine(empty_database_url, isolation_level=isolation, pool_size=1)
    migrate.upgrade(engine)
    assert migrate.check(engine).is_current
    with engine.connect() as connection:  # the same one, given back as it was
        driver = connection.connection.driver_connection
        assert driver is not None
        autocommit = driver.isolation_level is None if engine.dialect.name == "sqlite" else driver.autocommit
        assert autocommit == (isolation == "AUTOCOMMIT")
    engine.dispose()


def test_sqlite_engine_that_begins_by_itself(sqlite: sa.Engine) -> None:
    sa.event.listen(sqlite, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    migrate.upgrade(sqlite)
    assert migrate.check(sqlite).is_current


def test_run_on_joins_the_callers_transaction(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        transaction = connection.begin()
        if engine.dialect.name == "postgresql":  # sqlite3 begins nothing before this, so it would be committed
            connection.exec_driver_sql("CREATE TABLE mine (id INT)")
        migrate.run_on(connection)
        assert migrate.check(connection).is_current
        transaction.rollback()
    assert our_tables(engine) == set()
    assert not sa.inspect(engine).has_table("mine")
    with engine.begin() as connection:
        migrate.run_on(connection)
    assert migrate.check(engine).is_current


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_run_on_in_a_transaction_that_has_written(engine: sa.Engine, end: str) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE mine (id INT)")
    with engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO mine VALUES (1)")
        migrate.run_on(connection)
        getattr(connection, end)()
    assert our_tables(engine) == (ALL if end == "commit" else set())
    with engine.connect() as connection:
        assert len(connection.exec_driver_sql("SELECT * FROM mine").all()) == (end == "commit")


@pytest.mark.parametrize("written", [True, False])
def test_a_caller_that_goes_on_after_an_error_commits_nothing_of_ours(engine: sa.Engine, written: bool) -> None:
    """PostgreSQL aborts the transaction; on SQLite what was made before the error would be committed."""
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE mine (id INT)")
        connection.exec_driver_sql("CREATE TABLE dbqueue_workers (id INT)")  # in the way, after dbqueue_jobs
    with engine.begin() as connection:
        if written:
            connection.exec_driver_sql("INSERT INTO mine VALUES (1)")
        with pytest.raises((sa.exc.ProgrammingError, sa.exc.OperationalError), match="already exists"):
            migrate.run_on(connection)
    assert our_tables(engine) == {"dbqueue_workers"}
    with engine.begin() as connection:
        kept = written and engine.dialect.name == "sqlite"
        assert len(connection.exec_driver_sql("SELECT * FROM mine").all()) == kept
        connection.exec_driver_sql("DROP TABLE dbqueue_workers")
        migrate.run_on(connection)
    assert migrate.check(engine).is_current


def test_a_sqlite_transaction_that_has_read_what_is_old_by_now(sqlite: sa.Engine) -> None:
    """It can never have the lock: that is said at once, and another transaction may."""
    with sqlite.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("CREATE TABLE mine (id INT)")
    with sqlite.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("SELECT * FROM mine")
        with sqlite.begin() as other:
            other.exec_driver_sql("INSERT INTO mine VALUES (1)")
        with pytest.raises(OperationalError, match="run it again"):
            migrate.run_on(connection)
        connection.rollback()
        migrate.run_on(connection)
        connection.commit()
    assert migrate.check(sqlite).is_current


def test_run_on_gives_the_callers_lock_timeout_back(postgres: sa.Engine) -> None:
    with postgres.begin() as connection:
        connection.exec_driver_sql("SET lock_timeout = '1234ms'")
        migrate.run_on(connection)
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "1234ms"


def test_run_on_gives_the_callers_busy_timeout_back(sqlite: sa.Engine) -> None:
    with sqlite.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 1234")
        for _ in range(2):
            migrate.run_on(connection)
            connection.commit()
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 1234


def test_run_on_refuses_autocommit(postgres: sa.Engine) -> None:
    with postgres.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(ImproperlyConfigured, match="autocommit"):
            migrate.run_on(connection)


async def _run_on_async(url: str) -> compatibility.SchemaState:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(migrate.run_on)
    async with engine.connect() as connection:
        state = await connection.run_sync(migrate.check)
    await engine.dispose()
    return state


def test_run_on_an_async_connection(empty_database_url: str) -> None:
    import asyncio

    url = empty_database_url.replace("sqlite://", "sqlite+aiosqlite://")
    assert asyncio.run(_run_on_async(url)).is_current


# -- what state the tables are in ---------------------------------------------------------------


def set_revision(engine: sa.Engine, revision: str, oldest_code: str | None) -> None:
    with engine.begin() as connection:
        change = sa.text("UPDATE dbqueue_alembic_version SET version_num = :to, oldest_code = :oldest")
        connection.execute(change, {"to": revision, "oldest": oldest_code})


def test_head_is_what_alembic_reads() -> None:
    scripts = ScriptDirectory(str(migrate.folder()))
    assert scripts.get_heads() == [migrate.head()]
    assert {script.revision for script in scripts.walk_revisions()} == set(migrate._revisions())


def test_states(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = migrate.check(engine)
    assert (missing.status, missing.revision) == ("missing", None)
    assert "dbqueue migrate" in str(missing)
    with pytest.raises(SchemaError, match="no dbqueue tables"):
        missing.require_usable()

    migrate.upgrade(engine)
    now = migrate.check(engine)
    assert now.is_current
    now.require_usable()

    known = migrate._revisions()
    monkeypatch.setattr(migrate, "_revisions", lambda: (*known, "9998"))
    behind = migrate.check(engine)
    assert behind.status == "behind"
    with pytest.raises(SchemaError, match="needs 9998: run `dbqueue migrate`"):
        behind.require_usable()
    monkeypatch.undo()

    for oldest_code in ("9999", None):
        set_revision(engine, "9999", oldest_code)
        ahead = migrate.check(engine)
        assert (ahead.status, ahead.revision) == ("ahead", "9999")
        with pytest.raises(SchemaError, match="upgrade dbqueue"):
            ahead.require_usable()
        for change in (migrate.upgrade, migrate.downgrade):
            with pytest.raises(SchemaError, match="upgrade dbqueue"):
                change(engine)


def test_newer_tables_that_older_code_may_use(engine: sa.Engine) -> None:
    migrate.upgrade(engine)
    set_revision(engine, "9999", migrate.head())
    newer = migrate.check(engine)
    assert (newer.status, newer.is_usable, newer.is_current) == ("newer", True, False)
    assert migrate.ensure(engine) == newer
    migrate.upgrade(engine)
    assert migrate.current(engine) == "9999"
    with pytest.raises(SchemaError, match="only that version can take them back"):
        migrate.downgrade(engine)


def test_tables_without_a_mark(engine: sa.Engine) -> None:
    """Those of the first revision, met by code that knows no newer one, and by code that does."""
    migrate.upgrade(engine, revision="0001")
    assert migrate.check(engine).status == "behind"
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE dbqueue_alembic_version SET version_num = '9999'")
    assert migrate.check(engine).status == "ahead"


WORKER = """
INSERT INTO dbqueue_workers (id, name, hostname, pid, pool, concurrency, queues, version, lease_seconds)
VALUES ('a#1', 'a', 'host', 1, 'solo', 1, '[]', :version, 30)"""


def test_a_contracting_revision_waits_for_older_workers(engine: sa.Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text(WORKER), {"version": "0.3.2"})

    def contract(release: str) -> None:
        with engine.begin() as connection:
            context = MigrationContext.configure(connection)
            compatibility.shut_out(Operations(context), None, oldest_code="0007", release=release)

    with pytest.raises(SchemaError, match=r"before 0\.10\.0 use.* a \(0\.3\.2\)"):
        contract("0.10.0")
    with engine.connect() as connection:
        assert compatibility.read_marks(connection, None) == (migrate.head(), "0001")
    contract("0.3.2")
    with engine.connect() as connection:
        assert compatibility.read_marks(connection, None) == (migrate.head(), "0007")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE dbqueue_workers SET closed_at = heartbeat_at")
    contract("0.10.0")  # it has stopped
    with engine.begin() as connection:
        dead = "UPDATE dbqueue_workers SET closed_at = NULL, heartbeat_at = '2020-01-01 00:00:00.000'"
        connection.exec_driver_sql(dead)
    contract("0.10.0")


def test_check_in_a_transaction_does_not_abort_it(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        assert migrate.check(connection).status == "missing"
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


def test_ensure_migrates_sqlite_only(engine: sa.Engine) -> None:
    if engine.dialect.name == "sqlite":
        assert migrate.ensure(engine).is_current
    else:
        with pytest.raises(SchemaError, match="dbqueue migrate"):
            migrate.ensure(engine)
        migrate.upgrade(engine)
    assert migrate.ensure(engine).is_current
    set_revision(engine, "9999", None)
    with pytest.raises(SchemaError, match="upgrade dbqueue"):
        migrate.ensure(engine)


def test_unknown_revision_is_refused(engine: sa.Engine) -> None:
    with pytest.raises(SchemaError, match="0001"):
        migrate.upgrade(engine, revision="nonsense")
    assert our_tables(engine) == set()


# -- a schema of its own ------------------------------------------------------------------------


def test_schema(postgres: sa.Engine) -> None:
    migrate.upgrade(postgres, schema=SCHEMA)
    assert our_tables(postgres, SCHEMA) == ALL
    assert our_tables(postgres) == set()
    assert migrate.check(postgres, schema=SCHEMA).is_current
    assert migrate.check(postgres).status == "missing"
    with postgres.connect() as connection:
        options = connection.scalar(sa.text("SELECT reloptions FROM pg_class WHERE relname = 'dbqueue_jobs'"))
    assert "fillfactor=70" in options
    migrate.upgrade(postgres)  # a second queue beside the first, in the default schema
    migrate.downgrade(postgres, schema=SCHEMA)
    assert our_tables(postgres, SCHEMA) == set()
    assert migrate.check(postgres).is_current


@pytest.mark.parametrize("schema", ["it's", 'so"called', "Upper", "two words"])
def test_a_schema_of_any_name(postgres: sa.Engine, schema: str) -> None:
    assert migrate.check(postgres, schema=schema).status == "missing"
    migrate.upgrade(postgres, schema=schema)
    assert migrate.check(postgres, schema=schema).is_current
    assert migrate.check(postgres).status == "missing"


def test_tables_can_be_created_in_a_schema(postgres: sa.Engine) -> None:
    with postgres.begin() as connection:
        connection.execute(sa.schema.CreateSchema(SCHEMA))
        indexes.metadata.create_all(connection.execution_options(schema_translate_map={None: SCHEMA}))
    assert our_tables(postgres, SCHEMA) == set(tables.metadata.tables)


def test_schema_is_made_by_its_owner_and_used_by_others(postgres: sa.Engine) -> None:
    role = "dbqueue_test_" + str(postgres.url.database)[-8:]
    with postgres.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role}")
        connection.exec_driver_sql(f"CREATE SCHEMA theirs AUTHORIZATION {role}")
    try:
        with postgres.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL ROLE {role}")  # may make no schema, and must not need to
            migrate.run_on(connection, schema="theirs")
        assert our_tables(postgres, "theirs") == ALL
    finally:
        with postgres.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role} CASCADE")
            connection.exec_driver_sql(f"DROP ROLE {role}")


def test_schema_on_sqlite_is_refused(sqlite: sa.Engine) -> None:
    with pytest.raises(ImproperlyConfigured, match="PostgreSQL only"):
        migrate.upgrade(sqlite, schema="jobs")
    with pytest.raises(ImproperlyConfigured, match="PostgreSQL only"):
        migrate.sql("sqlite://", schema="jobs")


# -- as text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [None, SCHEMA])
def test_sql_for_postgres_runs(postgres: sa.Engine, empty_postgres_url: str, schema: str | None) -> None:
    text = migrate.sql("postgres://ignored/ignored", schema=schema)
    for _ in range(2 if schema is None else 1):
        with psycopg.connect(libpq_url(empty_postgres_url), autocommit=True) as connection:
            connection.execute(text.encode())
        assert migrate.check(postgres, schema=schema).is_current
        assert our_tables(postgres, schema) == ALL
        migrate.downgrade(postgres, schema=schema)


def test_sql_makes_the_same_tables(postgres: sa.Engine, empty_postgres_url: str) -> None:
    migrate.upgrade(postgres)
    expected = description(postgres)
    migrate.downgrade(postgres)
    with psycopg.connect(libpq_url(empty_postgres_url), autocommit=True) as connection:
        connection.execute(migrate.sql(empty_postgres_url).encode())
    assert description(postgres) == expected


def test_sql_for_sqlite_runs(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "by-hand.db"
    connection = sqlite3.connect(path)
    connection.executescript(migrate.sql("sqlite:///anything.db"))
    connection.close()
    engine = sa.create_engine(f"sqlite:///{path}")
    assert migrate.check(engine).is_current
    engine.dispose()


def test_sql_from_a_revision_on() -> None:
    text = migrate.sql("postgresql://", start=migrate.head())
    assert "CREATE TABLE" not in text
    assert "pg_advisory_xact_lock" in text
    with pytest.raises(SchemaError):
        migrate.sql("postgresql://", revision="nonsense")
    with pytest.raises(ImproperlyConfigured):
        migrate.sql("redis://localhost")


# -- manners ------------------------------------------------------------------------------------


def test_check_does_not_import_alembic(empty_sqlite_url: str) -> None:
    program = (
        "import sys, sqlalchemy as sa\n"
        "from dbqueue.store import migrate\n"
        "migrate.check(sa.create_engine(sys.argv[1]))\n"
        "assert not [name for name in sys.modules if name.startswith('alembic')]"
    )
    subprocess.run([sys.executable, "-c", program, empty_sqlite_url], check=True)


def test_upgrade_prints_nothing_and_leaves_logging_alone(empty_sqlite_url: str) -> None:
    program = (
        "import logging, sys, sqlalchemy as sa\n"
        "from dbqueue.store import migrate\n"
        "migrate.upgrade(sa.create_engine(sys.argv[1]))\n"
        "assert not logging.root.handlers\n"
        "assert logging.getLogger('alembic').level == logging.NOTSET"
    )
    done = subprocess.run([sys.executable, "-c", program, empty_sqlite_url], check=True, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")
