"""Which code may use which tables: what makes a rolling upgrade possible.

While a deployment goes on, old and new code work on one database. So tables change in two phases:

1. **Expand.** A revision adds: a table, a nullable column or one with a default, an index. Code of
   the release before runs on, for it names its columns and misses nothing. Most revisions are this
   and no more.
2. **Contract.** A later release, whose predecessor has stopped using what is to go, removes it. Its
   revision begins with `shut_out`, which refuses to run while older workers live, and writes into
   the database from which revision on code may use the tables.

That mark stands in the version table, beside the database's own revision. Code that meets tables
newer than itself reads it: `newer` tables are used, `ahead` ones are not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import sqlalchemy as sa

from dbqueue.errors import SchemaError
from dbqueue.store.tables import PREFIX

if TYPE_CHECKING:
    from alembic.operations import Operations

VERSION_TABLE: Final = f"{PREFIX}alembic_version"

OLDEST_CODE: Final = "oldest_code"
"""The column of the mark. NULL, or no such column: only code that knows the tables' revision may use them."""


# Text, not expressions: the first expression that a worker's supervisor has compiled costs it some megabytes of memory,
# in pages that it shared with its pool's processes until then. This is all that it needs at its start.
_FIND: Final = {"postgresql": "SELECT to_regclass", "sqlite": "SELECT name FROM sqlite_master WHERE name = "}


class Marks(NamedTuple):
    """What the version table holds."""

    revision: str
    oldest_code: str | None


def read_marks(connection: sa.Connection, schema: str | None) -> Marks | None:
    """The version table's row; None where there are no tables."""
    dialect = connection.dialect
    table = VERSION_TABLE if schema is None else f"{dialect.identifier_preparer.quote(schema)}.{VERSION_TABLE}"
    # Looked up first: reading a table that is missing would abort the caller's transaction.
    literal = "'" + table.replace("'", "''") + "'"
    if connection.exec_driver_sql(f"{_FIND[dialect.name]}({literal})").scalar() is None:
        return None
    # All columns, for old tables lack that of the mark.
    row = connection.exec_driver_sql(f"SELECT * FROM {table}").first()
    return None if row is None else Marks(row._mapping["version_num"], row._mapping.get(OLDEST_CODE))


@dataclass(frozen=True, slots=True)
class SchemaState:
    """The state of a database's tables, as `check` found it.

    `status` is `missing` (no tables), `behind` (older than this dbqueue), `current`, `newer` (made by a newer
    dbqueue, and this one may use them) or `ahead` (and this one may not). `revision` is the database's, None where
    missing; `head` is this version's.
    """

    status: Literal["missing", "behind", "current", "newer", "ahead"]
    revision: str | None
    head: str

    @classmethod
    def of(cls, marks: Marks | None, known: Sequence[str]) -> SchemaState:
        """The state for code that knows these revisions, oldest first."""
        head = known[-1]
        if marks is None:
            return cls("missing", None, head)
        if marks.revision == head:
            return cls("current", marks.revision, head)
        if marks.revision in known:
            return cls("behind", marks.revision, head)
        usable = marks.oldest_code is not None and marks.oldest_code in known
        return cls("newer" if usable else "ahead", marks.revision, head)

    @property
    def is_current(self) -> bool:
        return self.status == "current"

    @property
    def is_usable(self) -> bool:
        """Whether this version may work with the tables."""
        return self.status in ("current", "newer")

    def __str__(self) -> str:
        """The state and what to do about it, for people."""
        if self.status == "missing":
            return "the database has no dbqueue tables: run `dbqueue migrate`"
        if self.status == "behind":
            return (
                f"the dbqueue tables are at revision {self.revision}, and this version of dbqueue needs {self.head}: "
                "run `dbqueue migrate`"
            )
        if self.status == "newer":
            return (
                f"the dbqueue tables are at revision {self.revision}, made by a newer version of dbqueue, and this one "
                f"(revision {self.head}) may use them"
            )
        if self.status == "ahead":
            return (
                f"the dbqueue tables are at revision {self.revision}, and this version of dbqueue knows only those up "
                f"to {self.head}: upgrade dbqueue (the distribution `dbqueue-sql`)"
            )
        return f"the dbqueue tables are current (revision {self.revision})"

    def require_usable(self) -> None:
        """Raise SchemaError, whose text says what to do, unless this version may work with the tables."""
        if not self.is_usable:
            raise SchemaError(str(self))


def shut_out(op: Operations, schema: str | None, *, oldest_code: str, release: str) -> None:
    """The beginning of a contracting revision: only code that knows `oldest_code` may use the tables from now on.

    `release` is the first version of dbqueue with that revision. Raises SchemaError while a worker of an older one
    is alive. (Offline, for `migrate --sql`, nobody can be asked.)
    """
    prefix = "" if schema is None else f"{op.get_context().dialect.identifier_preparer.quote(schema)}."
    if not op.get_context().as_sql:
        alive = op.get_bind().execute(sa.text(_alive(op).format(workers=f"{prefix}{PREFIX}workers"))).all()
        old = sorted(f"{name} ({version})" for name, version in alive if _parts(version) < _parts(release))
        if old:
            raise SchemaError(
                f"this migration removes what workers of dbqueue before {release} use, and these still run: "
                f"{', '.join(old)}. Nothing has been changed: stop them, or upgrade them, and run it again"
            )
    op.execute(f"UPDATE {prefix}{VERSION_TABLE} SET {OLDEST_CODE} = '{oldest_code}'")


def _alive(op: Operations) -> str:
    if op.get_context().dialect.name == "sqlite":
        late = "strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || lease_seconds || ' seconds')"
    else:
        late = "now() - make_interval(secs => lease_seconds)"
    return f"SELECT name, version FROM {{workers}} WHERE closed_at IS NULL AND heartbeat_at >= {late}"


def _parts(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
