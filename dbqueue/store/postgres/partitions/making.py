"""The partitions of the time to come, made before anybody needs them.

PostgreSQL makes no partition over rows that the DEFAULT partition has. So where jobs came before their partition
(no worker ran that may make one), it begins behind the last of them, and those stay where they are.

It also reads the whole DEFAULT partition each time, under the lock: 0.1 s for a million rows. A CHECK on the DEFAULT
partition would save that, and refuse jobs where a worker was killed between making and dropping it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from dbqueue.store import tables
from dbqueue.store.postgres.partitions.catalog import Leaf, Run, leaves
from dbqueue.store.postgres.partitions.periods import Period, Size, after, first_id

AHEAD: Final = 2
"""Periods after the present one: for so long all workers may be stopped. Each costs every claim a look at its index."""

STORAGE: Final = ", ".join(f"{name} = {value}" for name, value in tables.JOBS_STORAGE.items())

# Row security and grants are the partitioned table's, and hold for whoever names that. Upkeep looks into partitions,
# with the right to do so of whoever may delete all jobs: none is given for columns alone.
_GRANTS: Final = """
SELECT format('GRANT %%s ON %%s TO %%s%%s', string_agg(a.privilege_type, ', '), %(to)s::text,
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
    CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
FROM pg_class c, aclexplode(c.relacl) a
WHERE c.oid = to_regclass(%(of)s) AND a.grantee <> c.relowner GROUP BY a.grantee, a.is_grantable"""

_OWNER: Final = """
SELECT quote_ident(pg_get_userbyid(c.relowner)), quote_ident(n.nspname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%(jobs)s)"""


class Home(NamedTuple):
    """Of the table of jobs, quoted."""

    owner: str
    schema: str


class Missing(NamedTuple):
    period: Period
    start: datetime
    """Up to it, other partitions have the period's ids."""


def clock(run: Run) -> datetime:
    now: datetime = run("SELECT clock_timestamp()")[0][0]
    return now.astimezone(UTC)


def home(run: Run, jobs: str) -> Home:
    return Home(*run(_OWNER, jobs=jobs)[0])


def missing(found: Sequence[Leaf], size: Size, now: datetime, *, one_at_least: bool = False) -> list[Missing]:
    """The periods from now on that have no partition yet, or not for all of their time.

    With `one_at_least` also a later one, if there is none else: by which a change of size is remembered.
    """
    lacking: list[Missing] = []
    period, number = Period.of(size, now), 0
    while number <= AHEAD or (one_at_least and not lacking):
        start = max([period.start, *_ends_within(found, period)])
        if start < period.end:
            lacking.append(Missing(period, start))
        period, number = period.following, number + 1
    return lacking


def _ends_within(found: Sequence[Leaf], period: Period) -> list[datetime]:
    return [
        leaf.end
        for leaf in found
        if leaf.end is not None and leaf.end > period.start and (leaf.start is None or leaf.start < period.end)
    ]


def make_ahead(run: Run, jobs: str, size: Size, now: datetime, *, one_at_least: bool = False) -> list[str]:
    """Make what is missing, in the caller's transaction; the names of the new partitions.

    Whoever enqueues, claims or reads waits until that has ended: nobody may hold a lock on the table meanwhile.
    """
    run(f"LOCK TABLE ONLY {jobs} IN ACCESS EXCLUSIVE MODE")
    made = []
    for period, free in missing(leaves(run, jobs), size, now, one_at_least=one_at_least):
        start = _behind_rows(run, jobs, free, period.end)
        if start is not None and not _is_taken(run, jobs, period.table):
            made.append(_make(run, jobs, period, start))
    return made


def _is_taken(run: Run, jobs: str, table: str) -> bool:
    """Whether there is such a table: one that was taken out, and is not dropped yet."""
    name = f"{home(run, jobs).schema}.{table}"
    return run("SELECT to_regclass(%(name)s) IS NOT NULL", name=name)[0][0] is True


def _behind_rows(run: Run, jobs: str, start: datetime, end: datetime) -> datetime | None:
    """From when on the DEFAULT partition has none of these ids; None: it has them to the end."""
    query = f"SELECT max(id) FROM {jobs} WHERE id >= %(first)s AND id < %(end)s"
    last = run(query, first=first_id(start), end=first_id(end))[0][0]
    free = start if last is None else after(last)
    return free if free is not None and free < end else None


def _make(run: Run, jobs: str, period: Period, start: datetime) -> str:
    owner, schema = home(run, jobs)
    name = f"{schema}.{period.table}"
    ids = f"FROM ('{first_id(start)}') TO ('{first_id(period.end)}')"
    run(f"CREATE TABLE {name} PARTITION OF {jobs} FOR VALUES {ids} WITH ({STORAGE})")
    give(run, name, of=jobs, owner=owner)
    return period.table


def give(run: Run, name: str, *, of: str, owner: str) -> None:
    """The owner and the grants of another table; those by columns are not among them."""
    for (grant,) in run(_GRANTS, of=of, to=name):
        run(grant)
    run(f"ALTER TABLE {name} OWNER TO {owner}")
