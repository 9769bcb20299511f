"""What a PostgreSQL server tells of the table's health, for `dbqueue doctor`. Read only, and cheap."""

from __future__ import annotations

from dataclasses import dataclass, field

import sqlalchemy as sa

from dbqueue.store import tables
from dbqueue.store.base import Store
from dbqueue.store.queries import reading


@dataclass(frozen=True, slots=True)
class OldSnapshot:
    """What keeps the server from clearing away what was deleted or changed since."""

    what: str
    seconds: float


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
    missing_indexes: list[str] = field(default_factory=list)
    missing_storage: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    connections: int = 0
    max_connections: int = 0


_TABLE = """
SELECT coalesce(s.n_live_tup, 0) AS live_rows, coalesce(s.n_dead_tup, 0) AS dead_rows,
    coalesce(s.n_mod_since_analyze, 0) AS changed_rows,
    coalesce(s.last_analyze, s.last_autoanalyze) IS NOT NULL AS analysed,
    c.reltuples = 0 AND pg_relation_size(c.oid) > 1000000 AS thought_empty, c.reloptions AS storage
FROM pg_class c LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid WHERE c.oid = to_regclass(:jobs)"""

_SNAPSHOTS = """
SELECT 'pid ' || pid || coalesce(' of ' || nullif(application_name, ''), '') || coalesce(' (' || state || ')', ''),
    extract(epoch FROM clock_timestamp() - xact_start)
FROM pg_stat_activity
WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
    AND backend_type = 'client backend'
UNION ALL
SELECT 'the prepared transaction ' || gid, extract(epoch FROM clock_timestamp() - prepared) FROM pg_prepared_xacts
ORDER BY 2 DESC LIMIT 3"""

_INDEXES = """
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = to_regclass(:jobs) AND i.indisvalid"""

_SETTINGS = """
SELECT name, setting FROM pg_settings
WHERE name IN ('autovacuum', 'fsync', 'full_page_writes', 'synchronous_commit', 'max_connections')"""

_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"


def examine(store: Store) -> Health:
    with reading(store) as connection:
        jobs = {"jobs": store.names["jobs"]}
        row = connection.execute(sa.text(_TABLE), jobs).mappings().one()
        indexes = {each[0] for each in connection.execute(sa.text(_INDEXES), jobs)}
        snapshots = [OldSnapshot(str(each[0]), float(each[1])) for each in connection.execute(sa.text(_SNAPSHOTS))]
        settings = {str(each[0]): str(each[1]) for each in connection.execute(sa.text(_SETTINGS))}
        connections = int(connection.execute(sa.text(_CONNECTIONS)).scalar_one())
    given = {option.partition("=")[0] for option in row["storage"] or ()}
    storage = [name for name in tables.JOBS_STORAGE if name not in given]
    if "autovacuum_enabled=off" in (row["storage"] or ()) or "autovacuum_enabled=false" in (row["storage"] or ()):
        settings["autovacuum"] = "off"
    return Health(
        row["live_rows"],
        row["dead_rows"],
        row["changed_rows"],
        row["analysed"],
        row["thought_empty"],
        snapshots,
        sorted({str(index.name) for index in tables.jobs.indexes} - indexes),
        storage,
        settings,
        connections,
        int(settings["max_connections"]),
    )
