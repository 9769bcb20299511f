"""What a PostgreSQL server tells of the table's health, for `dbqueue doctor`. Read only, and cheap."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import sqlalchemy as sa

from dbqueue.store import tables
from dbqueue.store.base import Store
from dbqueue.store.indexes import OF_JOBS
from dbqueue.store.postgres.partitions import catalog, making, periods
from dbqueue.store.reading import reading


@dataclass(frozen=True, slots=True)
class OldSnapshot:
    """What keeps the server from clearing away what was deleted or changed since."""

    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Horizon:
    """The same, held for another server."""

    what: str
    transactions: int
    """How many have begun since."""
    is_slot: bool


@dataclass(frozen=True, slots=True)
class Health:
    """Numbers of rows are the server's own estimates."""

    live_rows: int
    dead_rows: int
    changed_rows: int
    """Since the planner last looked."""
    analysed: bool
    thought_empty: bool
    """Whether the planner takes the table for empty, though it has pages in plenty."""
    snapshots: list[OldSnapshot] = field(default_factory=list)
    """Transactions that have been open longest, of all sessions that this user may see."""
    horizons: list[Horizon] = field(default_factory=list)
    """Replication slots, and standbys that tell what their queries need, with the oldest first."""
    missing_indexes: list[str] = field(default_factory=list)
    missing_storage: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    """Tables of which row-level security may hide rows from this user."""
    heap_bytes: int = 0
    index_bytes: int = 0
    counted: bool = True
    """Whether somebody has counted the rows since the server last forgot, as in a crash, how many there are."""
    settings: dict[str, str] = field(default_factory=dict)
    connections: int = 0
    max_connections: int = 0
    partitions: Partitions | None = None
    """None of a table that has none."""


@dataclass(frozen=True, slots=True)
class Partitions:
    size: str | None
    """Day, week or month."""
    number: int
    until: datetime
    """From then on there are none."""
    needed_until: datetime
    """For so long there should be some by now."""
    strays: int | None
    """Rows of the DEFAULT partition whose ids dbqueue has made, a thousand at most; None: this user may not look."""


# Of a partitioned table it is the partitions that hold rows. One that is dropped meanwhile has no size.
_TABLES = """
SELECT coalesce(pg_relation_size(c.oid), 0) AS heap_bytes, coalesce(pg_indexes_size(c.oid), 0) AS index_bytes,
    coalesce(s.last_vacuum, s.last_autovacuum, s.last_analyze, s.last_autoanalyze) IS NOT NULL
        OR coalesce(pg_relation_size(c.oid), 0) < 1000000 AS counted,
    coalesce(s.n_live_tup, 0) AS live_rows, coalesce(s.n_dead_tup, 0) AS dead_rows,
    coalesce(s.n_mod_since_analyze, 0) AS changed_rows,
    coalesce(s.last_analyze, s.last_autoanalyze) IS NOT NULL OR coalesce(s.n_live_tup, 0) = 0 AS analysed,
    c.reltuples = 0 AND pg_relation_size(c.oid) > 1000000 AS thought_empty, c.reloptions AS storage
FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.relkind = 'r' AND (c.oid = to_regclass(:jobs)
    OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = to_regclass(:jobs)))"""

_STRAYS = """
SELECT count(*) FROM (
    SELECT FROM {default} WHERE id >= %(first)s AND id < %(end)s AND id ~ '^[0-9a-f]{{8}}-[0-9a-f]{{4}}-7'
    LIMIT 1000) s"""

_MAY_READ = "SELECT has_table_privilege(%(table)s, 'SELECT')"

_SNAPSHOTS = """
SELECT 'pid ' || pid || coalesce(' of ' || nullif(application_name, ''), '') || coalesce(' (' || state || ')', ''),
    extract(epoch FROM clock_timestamp() - xact_start)
FROM pg_stat_activity
WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
    AND backend_type = 'client backend'
UNION ALL
SELECT 'the prepared transaction ' || gid, extract(epoch FROM clock_timestamp() - prepared) FROM pg_prepared_xacts
ORDER BY 2 DESC LIMIT 3"""

# Whose feedback goes through a slot has no `backend_xmin` of its own. A slot that is lost holds nothing any more.
_HORIZONS = """
SELECT 'the replication slot ' || slot_name || CASE WHEN active THEN '' ELSE ' (nobody reads from it)' END AS what,
    age(xmin) AS transactions, true AS is_slot
FROM pg_replication_slots WHERE xmin IS NOT NULL AND wal_status IS DISTINCT FROM 'lost'
UNION ALL
SELECT 'the replication client ' || coalesce(nullif(application_name, ''), 'of pid ' || pid), age(backend_xmin), false
FROM pg_stat_replication WHERE backend_xmin IS NOT NULL
ORDER BY transactions DESC LIMIT 3"""

_INDEXES = """
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass(:jobs) AND i.indisvalid"""

_SETTINGS = """
SELECT name, setting FROM pg_settings
WHERE name IN ('autovacuum', 'fsync', 'full_page_writes', 'synchronous_commit', 'max_connections',
    'statement_timeout', 'transaction_read_only')"""

_HIDDEN = """
SELECT name FROM unnest(CAST(:names AS text[])) AS t(name) WHERE row_security_active(to_regclass(name)) ORDER BY name"""

_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"


def examine(store: Store) -> Health:
    with reading(store) as connection:
        jobs = {"jobs": store.names["jobs"]}
        rows = connection.execute(sa.text(_TABLES), jobs).mappings().all()
        indexes = {each[0] for each in connection.execute(sa.text(_INDEXES), jobs)}
        snapshots = [OldSnapshot(str(each[0]), float(each[1])) for each in connection.execute(sa.text(_SNAPSHOTS))]
        horizons = [Horizon(**each) for each in connection.execute(sa.text(_HORIZONS)).mappings()]
        hidden = connection.execute(sa.text(_HIDDEN), {"names": _named_tables(store)}).scalars().all()
        settings = {str(each[0]): str(each[1]) for each in connection.execute(sa.text(_SETTINGS))}
        connections = int(connection.execute(sa.text(_CONNECTIONS)).scalar_one())
        partitions = _partitions(catalog.on_connection(connection), store.names["jobs"])
    options = [row["storage"] or () for row in rows]
    given = [{option.partition("=")[0] for option in each} for each in options]
    storage = [name for name in tables.JOBS_STORAGE if not all(name in each for each in given)]
    if any(_switches_off(option) for each in options for option in each):
        settings["autovacuum"] = "off"
    return Health(
        sum(row["live_rows"] for row in rows),
        sum(row["dead_rows"] for row in rows),
        sum(row["changed_rows"] for row in rows),
        all(row["analysed"] for row in rows),
        any(row["thought_empty"] for row in rows),
        snapshots,
        horizons,
        sorted(OF_JOBS - indexes),
        storage,
        list(hidden),
        sum(row["heap_bytes"] for row in rows),
        sum(row["index_bytes"] for row in rows),
        all(row["counted"] for row in rows),
        settings,
        connections,
        int(settings["max_connections"]),
        partitions,
    )


def _named_tables(store: Store) -> list[str]:
    return [store.names[name.removeprefix(tables.PREFIX)] for name in tables.metadata.tables]


def _switches_off(option: str) -> bool:
    """Whether a storage parameter turns autovacuum off, in any of the words that PostgreSQL takes for false."""
    name, _, value = option.partition("=")
    no = value.lower()
    return name == "autovacuum_enabled" and (no == "0" or no.startswith("of") or no[:1] in ("f", "n"))


def _partitions(run: catalog.Run, jobs: str) -> Partitions | None:
    found = catalog.leaves(run, jobs)
    if not found:
        return None
    now, size = making.clock(run), catalog.size_in_use(found)
    needed_until = periods.Period.of(size or "day", now).following.end
    until = max([leaf.end for leaf in found if leaf.end is not None], default=now)
    return Partitions(size, len(found), until, needed_until, _strays(run, found, now))


def _strays(run: catalog.Run, found: list[catalog.Leaf], now: datetime) -> int | None:
    """Of the last 30 days: a row from before them has other reasons to be there still."""
    default = [leaf.name for leaf in found if leaf.is_default]
    if not default or not run(_MAY_READ, table=default[0])[0][0]:
        return None
    ids = {"first": periods.first_id(now - timedelta(days=30)), "end": periods.first_id(now + timedelta(days=1))}
    return int(run(_STRAYS.format(default=default[0]), **ids)[0][0])
