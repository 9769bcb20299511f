"""Least privilege on PostgreSQL: roles for those who enqueue, who work, who look on, and who own, as SQL.

    dbqueue_producer    INSERT of the columns that an enqueue writes: delay(), apply_async(), a canvas. Nothing else: it
                        reads nothing, and forges no result
    dbqueue_results     reading jobs with their results: AsyncResult, and the answer to an id that is in use
    dbqueue_unique      unique keys (`unique=`), which an enqueue reads and takes
    dbqueue_worker      reading and writing all rows: workers, beats, operators. No change of tables
    dbqueue_inspector   reading all about jobs but what is in them: no arguments, headers, results or tracebacks
    dbqueue_owner       owns the tables, and migrates them

None of them can log in: grant them to the users of the programs. The statements may be run again, after each
`dbqueue migrate`, so that new tables and columns have their grants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from dbqueue.errors import ImproperlyConfigured
from dbqueue.store.base import Store
from dbqueue.store.compatibility import VERSION_TABLE
from dbqueue.store.inserts import JOB_COLUMNS
from dbqueue.store.tables import edges, events, groups, jobs, limits, metadata, schedules, unique_keys


def _names(table: sa.Table) -> list[str]:
    return [column.name for column in table.columns]


PRODUCER: Final = "dbqueue_producer"
RESULTS: Final = "dbqueue_results"
UNIQUE: Final = "dbqueue_unique"
WORKER: Final = "dbqueue_worker"
INSPECTOR: Final = "dbqueue_inspector"
OWNER: Final = "dbqueue_owner"
ROLES: Final = (PRODUCER, RESULTS, UNIQUE, WORKER, INSPECTOR, OWNER)

ENQUEUED: Final = (*JOB_COLUMNS, "workflow_id")
"""The columns of a job that an enqueue writes."""
_LEASE: Final = frozenset({"lease"})
"""The right to complete a job is no business of those who look on."""
READ_BY_RESULTS: Final = frozenset(_names(jobs)) - _LEASE
DATA: Final = frozenset(
    {"args", "kwargs", "headers", "options", "content", "result", "result_content", "traceback", "meta"}
    | {"limit_key", "permit"}
)
"""The columns of a job that hold what callers and tasks have put there, and keys that are made of arguments."""
_NEVER_INSPECTED: Final = (events, limits, schedules, unique_keys, groups)
"""Tables with arguments, or keys made of them."""


def statements(schema: str | None) -> list[str]:
    """The SQL that makes the roles and gives each what it needs, of the tables in this schema; safe to repeat."""
    quote = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]
    prefix = f"{quote(schema)}." if schema else ""
    tables = [f"{prefix}{quote(name)}" for name in (*metadata.tables, VERSION_TABLE)]
    everything = ", ".join(tables)

    def name(table: sa.Table) -> str:
        return f"{prefix}{quote(table.name)}"

    def columns(names: list[str]) -> str:
        return f"({', '.join(map(quote, names))})"

    def in_order(names: frozenset[str] | tuple[str, ...]) -> str:
        return columns([each for each in _names(jobs) if each in names])

    written = ", ".join(f"{prefix}{quote(each)}" for each in metadata.tables)
    seen = [table for table in metadata.sorted_tables if table not in (jobs, *_NEVER_INSPECTED)]
    seen_columns = READ_BY_RESULTS - DATA
    return [
        *(_role(role) for role in ROLES),
        # Not from the owner: a table's owner has no more rights than others once they are taken away.
        f"REVOKE ALL ON {everything} FROM PUBLIC, {', '.join(role for role in ROLES if role != OWNER)}",
        _on_schema("USAGE", ROLES, schema),
        f"GRANT INSERT {in_order(ENQUEUED)} ON {name(jobs)} TO {PRODUCER}",
        f"GRANT INSERT ON {name(edges)} TO {PRODUCER}",
        f"GRANT SELECT {in_order(READ_BY_RESULTS)} ON {name(jobs)} TO {RESULTS}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name(groups)} TO {RESULTS}",
        f"GRANT SELECT, INSERT, UPDATE ON {name(unique_keys)} TO {UNIQUE}",
        f"GRANT SELECT {columns(['id', 'status', 'finished_at'])} ON {name(jobs)} TO {UNIQUE}",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {written} TO {WORKER}",
        f"GRANT SELECT ON {prefix}{quote(VERSION_TABLE)} TO {WORKER}, {INSPECTOR}",
        f"GRANT SELECT {in_order(seen_columns)} ON {name(jobs)} TO {INSPECTOR}",
        *(f"GRANT SELECT {columns(_shown(table))} ON {name(table)} TO {INSPECTOR}" for table in seen),
        _on_schema("CREATE", (OWNER,), schema),
        _on_partitions(f"{prefix}{quote(jobs.name)}"),
        *(f"ALTER TABLE {table} OWNER TO {OWNER}" for table in tables),
    ]


def script(store: Store) -> str:
    """The statements as text, with BEGIN and COMMIT; connects to nothing. Raises what `apply` raises."""
    _refuse_others(store)
    return "\n".join(f"{each};" for each in ("BEGIN", *statements(store.schema), "COMMIT")) + "\n"


def apply(store: Store) -> None:
    """Run them. Raises ImproperlyConfigured on another database than PostgreSQL, and for a user that may not."""
    _refuse_others(store)
    try:
        with store.engine.execution_options(isolation_level="READ COMMITTED").begin() as connection:
            for statement in statements(store.schema):
                connection.exec_driver_sql(statement)
    except sa.exc.ProgrammingError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise ImproperlyConfigured(
            f"the roles cannot be made ({reason}): migrate first, and use a user that may create roles and owns the "
            "tables, or let an administrator run what `dbqueue migrate --roles` prints"
        ) from error


def _refuse_others(store: Store) -> None:
    if store.dialect != "postgresql":
        raise ImproperlyConfigured(f"roles are PostgreSQL's: on {store.dialect} the rights to the file decide")


def _role(role: str) -> str:
    return (
        f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{role}') "
        f"THEN CREATE ROLE {role} NOLOGIN; END IF; END $$"
    )


def _shown(table: sa.Table) -> list[str]:
    """The table's columns, but for bodies of commands: they may name arguments' values."""
    return [column for column in _names(table) if column not in ("body", "destination")]


def _on_partitions(table: str) -> str:
    """The owner of each partition, if there are any, and the worker's grants: it deletes what has expired there."""
    text = table.replace("'", "''")
    return (
        "DO $$ DECLARE leaf regclass; BEGIN FOR leaf IN SELECT inhrelid::regclass FROM pg_catalog.pg_inherits "
        f"WHERE inhparent = '{text}'::regclass LOOP EXECUTE 'REVOKE ALL ON ' || leaf || ' FROM PUBLIC, "
        f"{', '.join(role for role in ROLES if role != OWNER)}'; EXECUTE 'GRANT SELECT, INSERT, UPDATE, DELETE ON ' "
        f"|| leaf || ' TO {WORKER}'; EXECUTE 'ALTER TABLE ' || leaf || ' OWNER TO {OWNER}'; END LOOP; END $$"
    )


def _on_schema(right: str, roles: Sequence[str], schema: str | None) -> str:
    """A grant on the schema of the tables, whose name only the server knows where none is given."""
    name = "current_schema()" if schema is None else "'" + schema.replace("'", "''") + "'"
    return f"DO $$ BEGIN EXECUTE 'GRANT {right} ON SCHEMA ' || quote_ident({name}) || ' TO {', '.join(roles)}'; END $$"
