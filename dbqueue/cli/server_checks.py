"""What `dbqueue doctor` asks a PostgreSQL server about the table: snapshots, bloat, statistics, indexes, settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from dbqueue.cli.findings import Finding, Level
from dbqueue.cli.output import count, duration

if TYPE_CHECKING:
    from dbqueue.cli.target import Target
    from dbqueue.store.postgres.health import Health

OLD_SNAPSHOT_SECONDS: Final = 600.0
OLD_TRANSACTIONS: Final = 1_000_000
"""As many as begin in those ten minutes on a busy server: of another server's snapshot the time is not told."""
FEW_ROWS: Final = 100_000
"""What so few rows may cost is no matter."""
LARGE_BYTES: Final = 64 * 1024 * 1024
"""What is smaller costs nothing to read."""
HEAP_BYTES_A_ROW: Final = 8192
"""A page: what is longer than a quarter of it is kept elsewhere (TOAST), so a page has room for several rows."""
INDEX_BYTES_A_ROW: Final = 4096
"""Several times what all indexes of a job take, with the longest names that there are."""
STALE_PART: Final = 0.5
"""The part of all rows that may change before the planner looks again; the table's own setting is a twentieth."""
CROWDED_PART: Final = 0.9
SHORT_STATEMENT_MS: Final = 1000
"""A statement that waits for a lock, or for a disk that is busy, takes so long; a round takes some milliseconds."""
MANY_PARTITIONS: Final = 20
"""With thirty, rounds do three quarters of what they do on a plain table."""
MANY_STRAYS: Final = 1000
"""No more are counted."""
RISKY: Final = {
    "autovacuum": "the table and its indexes grow without end: set it to on",
    "fsync": "a crash of the machine may lose all data: set it to on",
    "full_page_writes": "a crash of the machine may damage the table: set it to on",
    "synchronous_commit": "a crash of the server loses the last jobs that were confirmed: set it to on",
}


def examine_server(target: Target) -> Iterator[Finding]:
    from dbqueue.store.postgres import health

    found = health.examine(target.raw_store)
    if not found.missing_indexes:
        yield Finding("index", Level.OK, "no index is missing or broken")
    problems = [*_snapshots(found), *_table(found), *_hidden(found), *_partitions(found), *_settings(found)]
    yield from problems or [
        Finding("server", Level.OK, f"about {count(found.live_rows, 'row')}, {found.dead_rows} dead")
    ]


def _snapshots(found: Health) -> Iterator[Finding]:
    for each in found.snapshots:
        if each.seconds > OLD_SNAPSHOT_SECONDS:
            yield _kept(
                f"a transaction has been open for {duration(each.seconds)}: {each.what}",
                "let it end, and set idle_in_transaction_session_timeout",
            )
    for held in found.horizons:
        if held.transactions > OLD_TRANSACTIONS:
            yield _kept(
                f"{held.what} holds a snapshot that is older than {count(held.transactions, 'transaction')}",
                "drop the slot if no standby needs it any more (pg_drop_replication_slot); else let the standby's "
                "queries end"
                if held.is_slot
                else "let a standby's queries end, or set hot_standby_feedback to off there; or a copy of tables end",
            )


def _kept(by: str, advice: str) -> Finding:
    kept = "nothing that was deleted or changed since can be cleared away, in any table"
    return Finding("snapshots", Level.WARNING, f"{by}; {kept}", advice)


def _table(found: Health) -> Iterator[Finding]:
    for name in found.missing_indexes:
        yield Finding(
            "index",
            Level.ERROR,
            f"the index {name} is missing or broken: statements read the whole table",
            "make it again: `dbqueue migrate --sql` shows its statement",
        )
    if found.dead_rows > max(FEW_ROWS, found.live_rows):
        yield Finding(
            "bloat",
            Level.WARNING,
            f"{found.dead_rows} dead rows beside {found.live_rows} live ones",
            "look for old transactions and at autovacuum's workers; then VACUUM the table, or REINDEX it CONCURRENTLY",
        )
    elif found.dead_rows <= FEW_ROWS and found.counted:
        yield from _size(found)
    if found.thought_empty or (
        found.live_rows > FEW_ROWS and (not found.analysed or found.changed_rows > STALE_PART * found.live_rows)
    ):
        yield Finding(
            "statistics",
            Level.WARNING,
            "the planner's statistics of the table are old: they are of another table than there is now",
            "run ANALYZE on it, and see that autovacuum is on",
        )
    if found.missing_storage:
        yield Finding(
            "storage",
            Level.WARNING,
            f"the table lacks storage parameters that dbqueue sets: {', '.join(found.missing_storage)}",
            "set them again: `dbqueue migrate --sql` shows the statement",
        )


def _size(found: Health) -> Iterator[Finding]:
    """What a VACUUM has cleared is used again by rows that come, and given back to nobody."""
    repack = "pg_repack makes it small again; VACUUM FULL does, too, and nobody can use the table meanwhile"
    reindex = "REINDEX TABLE CONCURRENTLY makes them small again"
    for what, size, bytes_a_row, advice in (
        ("the table takes", found.heap_bytes, HEAP_BYTES_A_ROW, repack),
        ("the table's indexes take", found.index_bytes, INDEX_BYTES_A_ROW, reindex),
    ):
        if size > max(LARGE_BYTES, bytes_a_row * found.live_rows):
            message = f"{what} {size // 1024**2} MB for {count(found.live_rows, 'row')}"
            yield Finding("bloat", Level.WARNING, message, advice)


def _hidden(found: Health) -> Iterator[Finding]:
    for name in found.hidden:
        yield Finding(
            "row-level security",
            Level.WARNING,
            f"a policy holds for this user on the table {name}: what it hides from a worker is not run, and not ended",
            "workers and callers are to see all rows: give their roles BYPASSRLS, or a policy that lets them",
        )


def _partitions(found: Health) -> Iterator[Finding]:
    partitions = found.partitions
    if partitions is None:
        return
    if partitions.until < partitions.needed_until:
        yield Finding(
            "partitions",
            Level.WARNING,
            f"there is no partition for jobs from {partitions.until:%Y-%m-%d %H:%M} UTC on: they go to the DEFAULT "
            "one, and are deleted row by row",
            "workers make them whose user owns the table (the role dbqueue_owner); or run "
            f"`dbqueue migrate --partition {partitions.size or 'day'}` each day",
        )
    if partitions.number > MANY_PARTITIONS:
        yield Finding(
            "partitions",
            Level.WARNING,
            f"the table of jobs has {partitions.number} partitions, and each claim looks into all of them: those of "
            "the past stay while a job in them waits, or its result is kept",
            "take a larger size (`dbqueue migrate --partition week`, or month), or a smaller result_expires",
        )
    if partitions.strays:
        yield Finding(
            "partitions",
            Level.WARNING,
            f"the DEFAULT partition has {'at least ' if partitions.strays == MANY_STRAYS else ''}"
            f"{count(partitions.strays, 'job')} with an id of dbqueue's own: when it came, its time had no partition",
            "what is there will be deleted row by row; see that a worker may make partitions, and that the clocks of "
            "those who enqueue are right",
        )


def _settings(found: Health) -> Iterator[Finding]:
    if found.settings.get("transaction_read_only") == "on":
        yield Finding(
            "server",
            Level.ERROR,
            "it takes no writes from this user: no job can be enqueued, and none claimed",
            "connect to the primary (target_session_attrs=read-write), or set default_transaction_read_only to off",
        )
    short = int(found.settings.get("statement_timeout", "0"))
    if 0 < short < SHORT_STATEMENT_MS:
        yield Finding(
            "server",
            Level.WARNING,
            f"statement_timeout is {short} ms for this user: the server breaks off what a worker or a call asks of it",
            "let the roles of workers and callers have none, or one of some seconds",
        )
    for name, why in RISKY.items():
        if found.settings.get(name) == "off":
            yield Finding("server", Level.WARNING, f"{name} is off", why)
    if found.max_connections and found.connections > CROWDED_PART * found.max_connections:
        yield Finding(
            "connections",
            Level.WARNING,
            f"{found.connections} of {found.max_connections} connections are in use",
            "a pooler for the application leaves room: see database_pooler",
        )
