"""What the server's catalog tells of the partitions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

import psycopg
import sqlalchemy as sa

from dbqueue.store.postgres.partitions.periods import SIZES, Size, size_of, time_of
from dbqueue.store.tables import PREFIX

JOBS: Final = f"{PREFIX}jobs"
BEFORE: Final = f"{JOBS}_before"
DEFAULT: Final = f"{JOBS}_default"
TAKEN_OUT: Final = "_expired"
"""What the name of a partition ends in that was taken out of the table to be dropped. One that somebody else has taken
out, to keep it, keeps its name."""
TAKEN_OUT_MARK: Final = "taken out of the table of jobs by dbqueue, to be dropped"
"""Its comment, without which it is dropped by nobody: a table of the application's may have any name."""

IS_PARTITIONED: Final = "SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass({jobs_text})"

# Qualified, whatever the search path is.
_LEAVES: Final = """
SELECT c.relname, format('%%I.%%I', n.nspname, c.relname), pg_get_expr(c.relpartbound, c.oid)
FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE i.inhparent = to_regclass(%(jobs)s) ORDER BY 1"""

_TAKEN_OUT: Final = """
SELECT format('%%I.%%I', n.nspname, c.relname)
FROM pg_class p JOIN pg_class c ON c.relnamespace = p.relnamespace JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.oid = to_regclass(%(jobs)s) AND c.relkind = 'r' AND NOT c.relispartition AND c.relname ~ %(pattern)s
  AND obj_description(c.oid, 'pg_class') = %(mark)s
ORDER BY 1"""
_TAKEN_OUT_NAME: Final = f"^{JOBS}_(before|({'|'.join(SIZES)})_[0-9]{{8}}){TAKEN_OUT}$"

_COMMON_COLUMNS: Final = """
SELECT a.attname, quote_ident(a.attname) FROM pg_attribute a JOIN pg_attribute b ON b.attname = a.attname
WHERE a.attrelid = to_regclass(%(one)s) AND a.attnum > 0 AND NOT a.attisdropped
  AND b.attrelid = to_regclass(%(other)s) AND b.attnum > 0 AND NOT b.attisdropped AND b.attgenerated = ''
ORDER BY a.attnum"""

_OWNED: Final = """
SELECT pg_has_role(relowner, 'USAGE') AND has_schema_privilege(relnamespace, 'CREATE')
FROM pg_class WHERE oid = to_regclass(%(jobs)s)"""

_RANGE: Final = re.compile(r"FOR VALUES FROM \((?:'(?P<start>[^']*)'|MINVALUE)\) TO \('(?P<end>[^']*)'\)")


class Run(Protocol):
    """Runs a statement, with its parameters as `%(name)s`; its rows, if it gives any."""

    def __call__(self, sql: str, /, **parameters: Any) -> Sequence[Sequence[Any]]: ...


def on_driver(driver: psycopg.Connection[Any]) -> Run:
    def run(sql: str, /, **parameters: Any) -> Sequence[Sequence[Any]]:
        cursor = driver.execute(sql.encode(), parameters or None)
        return cursor.fetchall() if cursor.description else ()

    return run


def on_connection(connection: sa.Connection) -> Run:
    def run(sql: str, /, **parameters: Any) -> Sequence[Sequence[Any]]:
        result = connection.exec_driver_sql(sql, parameters or None)
        return result.all() if result.returns_rows else ()

    return run


@dataclass(frozen=True, slots=True)
class Leaf:
    """A partition."""

    table: str
    """Its bare name."""
    name: str
    """As a statement names it: with its schema, and quoted."""
    start: datetime | None
    """Of its ids; None where it has no bound."""
    end: datetime | None
    """Exclusive; None of the DEFAULT partition, and of one whose bounds are not ours."""
    is_default: bool = False

    @property
    def is_ours(self) -> bool:
        """Whether it is one that dbqueue has made for a time, and may drop."""
        return self.end is not None and (self.table == BEFORE or self.size is not None)

    @property
    def size(self) -> Size | None:
        return size_of(self.table)


def leaves(run: Run, jobs: str) -> list[Leaf]:
    """The partitions by the time of their ids, the DEFAULT partition last; none of a table that is not partitioned."""
    found = [_leaf(*row) for row in run(_LEAVES, jobs=jobs)]
    return sorted(found, key=lambda leaf: (leaf.end is None, leaf.end or 0))


def _leaf(table: str, name: str, bound: str) -> Leaf:
    match = _RANGE.fullmatch(bound)
    if match is None:
        return Leaf(table, name, None, None, is_default=bound == "DEFAULT")
    return Leaf(table, name, time_of(match["start"]) if match["start"] else None, time_of(match["end"]))


def taken_out(run: Run, jobs: str) -> list[str]:
    """The names of partitions that were taken out, and whose end did not come: a worker was stopped meanwhile."""
    return [row[0] for row in run(_TAKEN_OUT, jobs=jobs, pattern=_TAKEN_OUT_NAME, mark=TAKEN_OUT_MARK)]


def common_columns(run: Run, one: str, other: str) -> dict[str, str]:
    """The columns that both tables have, and each as a statement names it."""
    return {row[0]: row[1] for row in run(_COMMON_COLUMNS, one=one, other=other)}


def is_partitioned(run: Run, names: Mapping[str, str]) -> bool:
    rows = run(IS_PARTITIONED.format(**names))
    return bool(rows and rows[0][0])


def may_change(run: Run, jobs: str) -> bool:
    """Whether this user may make partitions and drop them."""
    return bool(run(_OWNED, jobs=jobs)[0][0])


def size_in_use(found: Sequence[Leaf]) -> Size | None:
    """The size of the newest period: those to come are like it."""
    sizes = [leaf.size for leaf in found if leaf.size is not None]
    return sizes[-1] if sizes else None


def row_words(*, partitioned: bool) -> dict[str, str]:
    """What stands in statements where they find a row by its id, or find one again by its address; `x` is an alias.

        {only}         not its partitions, before a plain table
        {by_id_of_d}   the row of the jobs `j` has the id of `d`
        {id_of_x}      a further column, its id
        {same_as_x}    the row of the jobs `j` has the id of `x` too

    Of a plain table the last two are nothing. In a partitioned one an address is unique in one partition only: the
    id says in which one to look, at run time, and the address finds it there. (By `tableoid` all would be looked into.)

    Not by `=`: an equality makes the order of the primary key worth something to the planner, which then reads
    partitions that it takes for small from end to end, and may turn the join round, on whose order that of a claim
    rests.
    """
    aliases = ("due", "f", "h", "i", "j", "l", "p", "ranked", "t")
    if not partitioned:
        nothing = dict.fromkeys([*(f"id_of_{each}" for each in aliases), *(f"same_as_{each}" for each in aliases)], "")
        # ONLY: a session that was taken for dead before the table was partitioned must find no rows in it by address.
        return nothing | {"by_id_of_d": 'j.id = d.id COLLATE "C"', "only": "ONLY "}
    return {
        "only": "",
        "by_id_of_d": 'j.id >= d.id COLLATE "C" AND j.id <= d.id COLLATE "C"',
        **{f"id_of_{each}": f", {each}.id" for each in aliases},
        **{f"same_as_{each}": f" AND j.id >= {each}.id AND j.id <= {each}.id" for each in aliases},
    }
