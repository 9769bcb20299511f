"""From a plain table of jobs to a partitioned one, and back: `dbqueue migrate --partition`.

Each way is one transaction under one lock: who enqueues or reads waits meanwhile, and finds either table whole. Workers
must have been stopped. A statement that finds rows by their addresses would take those of another partition for
them, so each worker asks, once it is registered, which table there is (`PostgresWorkSession`).

There: the former table becomes a partition, all ids before now, without being copied; it is read once, to prove that.
Only what sorts after that goes to the DEFAULT partition row by row: ids of callers. Back: all rows are copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from dbqueue.errors import ImproperlyConfigured, SchemaError
from dbqueue.store import migrate
from dbqueue.store.base import Store
from dbqueue.store.postgres.partitions import catalog
from dbqueue.store.postgres.partitions.catalog import BEFORE, DEFAULT, JOBS, Run
from dbqueue.store.postgres.partitions.making import STORAGE, clock, give, home, make_ahead, missing
from dbqueue.store.postgres.partitions.periods import Size, first_id
from dbqueue.store.postgres.partitions.retiring import LOCK_MILLISECONDS, put_back

# A UUID of version 7 for a row that plain SQL inserts: a random one with the time in its first six bytes. Only the
# partitioned table has it: the DEFAULT partition would have all such rows.
TIMED_ID: Final = """encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid())
    PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
    52, 1), 53, 1), 'hex')::uuid::text"""
PLAIN_ID: Final = "gen_random_uuid()::text"

_LIKE: Final = "INCLUDING ALL EXCLUDING INDEXES EXCLUDING STATISTICS"

_INDEXES: Final = """
SELECT i.relname, pg_get_indexdef(i.oid) FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
WHERE x.indrelid = to_regclass(%(jobs)s) AND NOT x.indisprimary ORDER BY 1"""

_REFERENCES: Final = """
SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint
WHERE confrelid = to_regclass(%(jobs)s) AND contype = 'f' AND conparentid = 0 ORDER BY 1, 2"""

# What hangs on the very table, and would go on to mean the former one; and indexes that a partitioned one cannot have.
_IN_THE_WAY: Final = """
SELECT DISTINCT 'the view ' || r.ev_class::regclass::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = to_regclass(%(jobs)s) AND r.ev_class <> d.refobjid
UNION ALL
SELECT DISTINCT 'the function ' || d.objid::regprocedure::text
FROM pg_depend d JOIN pg_class c ON c.oid = to_regclass(%(jobs)s)
    JOIN pg_type t ON t.oid = c.reltype
WHERE d.classid = 'pg_proc'::regclass AND (d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
    OR d.refclassid = 'pg_type'::regclass AND d.refobjid IN (t.oid, t.typarray))
UNION ALL
SELECT 'the statistics ' || stxname FROM pg_statistic_ext WHERE stxrelid = to_regclass(%(jobs)s)
UNION ALL
SELECT 'the unique index ' || i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
WHERE x.indrelid = to_regclass(%(jobs)s) AND NOT x.indisprimary AND (x.indisunique OR x.indisexclusion)
UNION ALL
SELECT 'the trigger ' || tgname FROM pg_trigger WHERE tgrelid = to_regclass(%(jobs)s) AND NOT tgisinternal
UNION ALL
SELECT 'the policy ' || polname FROM pg_policy WHERE polrelid = to_regclass(%(jobs)s)
UNION ALL
SELECT 'the publication ' || p.pubname FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
WHERE r.prrelid = to_regclass(%(jobs)s)
UNION ALL
SELECT 'row-level security' FROM pg_class WHERE oid = to_regclass(%(jobs)s) AND relrowsecurity
ORDER BY 1"""

_COLUMN_GRANTS: Final = """
SELECT format('GRANT %%s (%%I) ON %%s TO %%s%%s', a.privilege_type, c.attname, %(to)s::text,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_attribute c, aclexplode(c.attacl) a
WHERE c.attrelid = to_regclass(%(of)s) AND c.attnum > 0 AND NOT c.attisdropped"""


@dataclass(frozen=True, slots=True)
class Switched:
    """What was done; nothing, where the table was as it is to be."""

    size: Size | None
    """None: the table is a plain one."""
    was: Size | None
    made: list[str] = field(default_factory=list)
    """The new partitions."""
    moved: int = 0
    """Rows that were copied from one table to another."""


def switch(store: Store, size: Size | None, *, max_losses: int) -> Switched:
    """Have the table of jobs partitioned by this size, or not at all; safe to repeat, which makes what is missing.

    `max_losses` is the setting, for the jobs of workers that were killed. Raises ImproperlyConfigured on another
    database than PostgreSQL; SchemaError with nothing changed where a worker runs, where the table has what cannot be
    carried over, or where there is no table; OperationalError where the lock is not to be had in time.
    """
    if store.dialect != "postgresql":
        raise ImproperlyConfigured(f"partitions are PostgreSQL's: on {store.dialect} the table of jobs has none")
    store.ensure_schema(migrate=False)
    with _changing(store) as run:
        found = catalog.leaves(run, store.names["jobs"])
        was = catalog.size_in_use(found)
        if size is not None and catalog.is_partitioned(run, store.names):
            now, more = clock(run), size != was
            if not missing(found, size, now, one_at_least=more):
                return Switched(size, was)
            run(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")  # workers run, and would wait behind it
            return Switched(size, was, make_ahead(run, store.names["jobs"], size, now, one_at_least=more))
        if size is None and not catalog.is_partitioned(run, store.names):
            return Switched(None, None)
    # Jobs of workers that were killed are taken back first, which closes their rows, so that they claim no more.
    session = store.work_session("migrate")
    try:
        session.rescue(max_losses=max_losses)
    finally:
        session.close()
    with _changing(store) as run:
        _refuse_workers(run, store)
        jobs = store.names["jobs"]
        run(f"LOCK TABLE {jobs} IN ACCESS EXCLUSIVE MODE")
        if catalog.is_partitioned(run, store.names) != (size is None):
            return Switched(size, size)  # another has done it meanwhile
        _refuse_what_hangs_on(run, [jobs, *(leaf.name for leaf in catalog.leaves(run, jobs))])
        return _merge(run, store.names, was) if size is None else _partition(run, jobs, size)


@contextmanager
def _changing(store: Store) -> Iterator[Run]:
    with (
        store.translating(),
        migrate.transaction(store.engine) as connection,
        migrate.locked(connection, store.schema),
    ):
        run = catalog.on_connection(connection)
        run("SET LOCAL statement_timeout = 0")
        yield run


def _refuse_workers(run: Run, store: Store) -> None:
    # The lock keeps new ones from registering until this is over.
    run(f"LOCK TABLE {store.names['workers']} IN SHARE ROW EXCLUSIVE MODE")
    names = [row[0] for row in run(f"SELECT name FROM {store.names['workers']} WHERE closed_at IS NULL ORDER BY 1")]
    if names:
        raise SchemaError(
            f"nothing has been changed, for these workers still run: {', '.join(names)}. Stop all workers first, and "
            "start them again when it is done"
        )


def _refuse_what_hangs_on(run: Run, names: Sequence[str]) -> None:
    found = [row[0] for name in names for row in run(_IN_THE_WAY, jobs=name)]
    if found:
        raise SchemaError(
            f"nothing has been changed, for the table of jobs has what cannot be carried over: {', '.join(found)}. "
            "Drop that first, and make it again when it is done"
        )


def _partition(run: Run, jobs: str, size: Size) -> Switched:
    owner, schema = home(run, jobs)
    before, default = f"{schema}.{BEFORE}", f"{schema}.{DEFAULT}"
    table = f"{schema}.{JOBS}"
    indexes = run(_INDEXES, jobs=jobs)
    references = _drop_references(run, jobs)
    primary = _primary_key(run, jobs)
    run(f"ALTER TABLE {table} RENAME TO {BEFORE}")
    for name in (primary, *(index[0] for index in indexes)):
        run(f'ALTER INDEX {schema}."{name}" RENAME TO "{BEFORE}_{name.removeprefix(JOBS).lstrip("_")}"')

    now = clock(run)
    cut = first_id(now)
    run(f"CREATE TABLE {table} (LIKE {before} {_LIKE}) PARTITION BY RANGE (id)")
    run(f"CREATE TABLE {default} PARTITION OF {table} DEFAULT WITH ({STORAGE})")
    moved = run(
        f"WITH late AS (DELETE FROM {before} WHERE id >= %(cut)s RETURNING *), "
        f"kept AS (INSERT INTO {default} SELECT * FROM late RETURNING 1) SELECT count(*) FROM kept",
        cut=cut,
    )[0][0]
    _add_indexes(run, table, primary, indexes)
    run(f"ALTER TABLE {table} ATTACH PARTITION {before} FOR VALUES FROM (MINVALUE) TO ('{cut}')")
    run(f"ALTER TABLE {table} ALTER COLUMN id SET DEFAULT {TIMED_ID}")
    _carry_over(run, table, of=before, owner=owner, references=references)
    give(run, default, of=table, owner=owner)
    made = make_ahead(run, table, size, now)
    return Switched(size, None, [BEFORE, *made, DEFAULT], moved)


def _merge(run: Run, names: Mapping[str, str], was: Size | None) -> Switched:
    jobs = names["jobs"]
    for each in catalog.taken_out(run, jobs):  # by a worker that has not looked them through
        put_back(run, names, each)
        run(f"DROP TABLE {each}")
    owner, schema = home(run, jobs)
    table, plain = f"{schema}.{JOBS}", f"{schema}.{JOBS}_plain"
    indexes = run(_INDEXES, jobs=jobs)
    references = _drop_references(run, jobs)
    primary = _primary_key(run, jobs)
    run(f"CREATE TABLE {plain} (LIKE {table} {_LIKE}) WITH ({STORAGE})")
    run(f"ALTER TABLE {plain} ALTER COLUMN id SET DEFAULT {PLAIN_ID}")
    insert = f"INSERT INTO {plain} SELECT * FROM {table} RETURNING 1"
    moved = run(f"WITH kept AS ({insert}) SELECT count(*) FROM kept")[0][0]
    _carry_grants(run, plain, of=table, owner=owner)
    run(f"DROP TABLE {table}")
    run(f"ALTER TABLE {plain} RENAME TO {JOBS}")
    _add_indexes(run, table, primary, [(name, text.replace(" ON ONLY ", " ON ", 1)) for name, text in indexes])
    _add_references(run, references)
    return Switched(None, was, [], moved)


def _primary_key(run: Run, jobs: str) -> str:
    query = "SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(%(jobs)s) AND contype = 'p'"
    return str(run(query, jobs=jobs)[0][0])


def _add_indexes(run: Run, table: str, primary: str, indexes: Sequence[Sequence[str]]) -> None:
    run(f'ALTER TABLE {table} ADD CONSTRAINT "{primary}" PRIMARY KEY (id)')
    for _, definition in indexes:
        run(definition)


def _drop_references(run: Run, jobs: str) -> list[tuple[str, str, str]]:
    found = [(row[0], row[1], row[2]) for row in run(_REFERENCES, jobs=jobs)]
    for table, name, _ in found:
        run(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    return found


def _add_references(run: Run, references: Sequence[tuple[str, str, str]]) -> None:
    for table, name, definition in references:
        run(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}")


def _carry_over(run: Run, table: str, *, of: str, owner: str, references: Sequence[tuple[str, str, str]]) -> None:
    _carry_grants(run, table, of=of, owner=owner)
    _add_references(run, references)


def _carry_grants(run: Run, table: str, *, of: str, owner: str) -> None:
    for (grant,) in run(_COLUMN_GRANTS, of=of, to=table):
        run(grant)
    give(run, table, of=of, owner=owner)
