"""Partitions whose jobs have all ended long ago: looked through, taken out of the table, looked through again, dropped.

To drop a partition is to say that all of its jobs have expired, and that is known of what was read, not of what has
come since: a producer whose clock is days behind enqueues into an old partition, and an operator may let an old job
run again. Reading it under a lock would stop all workers for as long (0.1 s for a million rows, if they are in
memory). So it is read twice, some pages at a time, and the lock lies between, as short as changing the catalog is:

1. All of its jobs have expired, and none belongs to a workflow: those go by rows, as wholes. Else it stays.
2. Under the lock: no job waits in it now, by two indexes. It is taken out; from now on nobody writes to it, and jobs
   of its time go to the DEFAULT partition.
3. What has not expired is put back into the table: nothing, nearly always. A run that has begun between 1 and 2 has
   lost its row for that moment, and counts as a lost one.
4. It is dropped, which locks nothing that anybody uses.

A worker that is stopped after 2 leaves it to the next one, which goes on at 3. What cannot be dropped now, for somebody
reads it or has made a view of it, is left alone until the next time, when it is looked through again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import psycopg
from psycopg import errors

from dbqueue.jobs import STARTED
from dbqueue.store.postgres.partitions.catalog import (
    TAKEN_OUT,
    TAKEN_OUT_MARK,
    Leaf,
    Run,
    common_columns,
    leaves,
    on_driver,
    taken_out,
)
from dbqueue.store.trouble import first_line
from dbqueue.version import __version__

PAGES_AT_ONCE: Final = 4096
"""32 MB: some ten milliseconds to look through."""

LOCK_MILLISECONDS: Final = 300
"""All who come later wait behind one that waits for this lock; it is tried again in a minute."""

_PAGES: Final = "SELECT pg_relation_size(to_regclass(%(table)s)) / current_setting('block_size')::int"

_HERE: Final = "ctid >= %(first)s::tid AND ctid < %(end)s::tid"
_KEPT: Final = "(finished_at IS NULL OR finished_at >= %(before)s::timestamptz OR %(before)s::timestamptz IS NULL)"

_ANY_KEPT: Final = f"SELECT EXISTS (SELECT FROM {{table}} WHERE {_HERE} AND {_KEPT})"

_ANY_OF_WORKFLOW: Final = "SELECT EXISTS (SELECT FROM {table} WHERE workflow_id IS NOT NULL)"

_ANY_WAITS: Final = """
SELECT EXISTS (SELECT FROM {table} WHERE ready_at IS NOT NULL) OR EXISTS (SELECT FROM {table} WHERE held_at IS NOT NULL)
    OR EXISTS (SELECT FROM {table} WHERE workflow_id IS NOT NULL)"""

_PUT_BACK: Final = f"""
WITH kept AS (DELETE FROM {{table}} WHERE {{where}} RETURNING *), put AS (
    INSERT INTO {{jobs}} ({{columns}}) SELECT {{values}} FROM kept ON CONFLICT DO NOTHING RETURNING status
)
SELECT EXISTS (SELECT FROM put WHERE status = '{STARTED}')"""
_LOST_WORKER: Final = f"CASE status WHEN '{STARTED}' THEN %(lost)s::text ELSE worker END"

# As the worker of lost runs: dead from the beginning, so that the next rescue takes them back.
_DEAD_WORKER: Final = """
INSERT INTO {workers} (id, name, hostname, pid, pool, concurrency, queues, version, lease_seconds, heartbeat_at)
VALUES (%(lost)s, 'partitions', '', 0, '', 0, '[]', %(version)s, 0, now() - interval '1 day')"""


class Retiring:
    """How far one worker's session has got."""

    def __init__(self, driver: psycopg.Connection[Any], names: Mapping[str, str]) -> None:
        self._driver, self._names, self._run = driver, names, on_driver(driver)
        self._due: deque[Leaf] = deque()
        self._taken_out: deque[str] = deque()
        self._before: datetime | None = None
        self._page = 0
        self._with_workflows: set[str] = set()
        """Partitions that had jobs of workflows, when they were last looked at."""
        self.saw_workflows = False
        self.by_rows: set[str] = set()
        """Partitions in which rows must be deleted one by one."""
        self.dropped: list[str] = []
        self.problem = ""
        """Why the last step has left its table alone."""

    def begin(self, before: datetime | None) -> None:
        """Look at all partitions of a time before this moment; what ended before it has expired. None: nothing does."""
        found = leaves(self._run, self._names["jobs"])
        self._before, self._page, self.saw_workflows, self.dropped = before, 0, False, []
        self._taken_out = deque(taken_out(self._run, self._names["jobs"]))
        ours = [leaf for leaf in found if leaf.is_ours and leaf.end is not None]
        self._due = deque(leaf for leaf in ours if before is not None and leaf.end is not None and leaf.end <= before)
        self.by_rows = {leaf.name for leaf in found} - {leaf.name for leaf in ours}

    @property
    def under_way(self) -> bool:
        return bool(self._due or self._taken_out)

    def step(self) -> None:
        """Some pages of one partition. Trouble with it keeps nobody from the others."""
        self.problem = ""
        try:
            if self._taken_out:
                self._finish(self._taken_out[0])
            elif self._due:
                self._look(self._due[0])
        except (errors.UndefinedTable, errors.LockNotAvailable, errors.DeadlockDetected):
            self._next()  # another worker has dropped it meanwhile, or somebody uses it
        except psycopg.DatabaseError as error:
            if self._driver.closed:
                raise
            self.problem = first_line(error)
            if not self._taken_out:
                self.by_rows.add(self._due[0].name)
            self._next()

    def _look(self, leaf: Leaf) -> None:
        if self._page == 0 and self._ask(_ANY_OF_WORKFLOW, leaf.name):
            # They are deleted before the next look, or will not be soon.
            self.saw_workflows = True
            if leaf.name in self._with_workflows:
                self.by_rows.add(leaf.name)
            self._with_workflows.add(leaf.name)
            self._next()
            return
        self._with_workflows.discard(leaf.name)
        if self._ask(_ANY_KEPT, leaf.name, **self._here, before=self._before):
            self.by_rows.add(leaf.name)
            self._next()
        elif not self._is_last(leaf.name):
            self._page += PAGES_AT_ONCE
        else:
            taken = self._take_out(leaf)
            self._next()
            if taken:
                self._taken_out.append(f"{leaf.name}{TAKEN_OUT}")

    def _take_out(self, leaf: Leaf) -> bool:
        table = self._names["jobs"]
        try:
            with self._briefly():
                self._run(f"LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE")
                self._run(f"LOCK TABLE {leaf.name} IN ACCESS EXCLUSIVE MODE")
                if self._ask(_ANY_WAITS, leaf.name):
                    self.by_rows.add(leaf.name)
                    return False
                self._run(f"ALTER TABLE {table} DETACH PARTITION {leaf.name}")
                self._run(f"COMMENT ON TABLE {leaf.name} IS '{TAKEN_OUT_MARK}'")
                self._run(f"ALTER TABLE {leaf.name} RENAME TO {leaf.table}{TAKEN_OUT}")
        except errors.ForeignKeyViolation:  # a table of the application's refers to a job of it
            self.by_rows.add(leaf.name)
            return False
        return True

    def _finish(self, name: str) -> None:
        # It goes on when that is committed: what was rolled back is still to be put back.
        with self._briefly():
            put_back(self._run, self._names, name, where=f"{_HERE} AND {_KEPT}", **self._here, before=self._before)
        if not self._is_last(name):
            self._page += PAGES_AT_ONCE
            return
        with self._briefly():
            self._run(f"DROP TABLE {name}")
        self._next()
        self.dropped.append(name.rpartition(".")[2].removesuffix(TAKEN_OUT))

    @contextmanager
    def _briefly(self) -> Iterator[None]:
        """A transaction that waits for no lock for long."""
        with self._driver.transaction():
            self._run(f"SET LOCAL lock_timeout = {LOCK_MILLISECONDS}")
            yield

    def _ask(self, statement: str, table: str, **parameters: Any) -> bool:
        return bool(self._run(statement.format(table=table), **parameters)[0][0])

    @property
    def _here(self) -> dict[str, str]:
        return {"first": f"({self._page},0)", "end": f"({self._page + PAGES_AT_ONCE},0)"}

    def _is_last(self, table: str) -> bool:
        """Whether there are no pages after these."""
        return self._page + PAGES_AT_ONCE >= (self._run(_PAGES, table=table)[0][0] or 0)

    def _next(self) -> None:
        (self._taken_out or self._due).popleft()
        self._page = 0


def put_back(run: Run, names: Mapping[str, str], table: str, *, where: str = "true", **parameters: Any) -> None:
    """Put jobs of a table that was taken out back into the table of jobs; a run that has begun counts as lost.

    By the columns that both have: one that was added or dropped since, by a migration, has its default.
    """
    run(f"LOCK TABLE {table} IN ROW EXCLUSIVE MODE")  # another may be about to drop it
    columns = common_columns(run, table, names["jobs"])
    values = columns | {"worker": _LOST_WORKER}
    lost = f"partitions#{uuid4().hex}"
    statement = _PUT_BACK.format(
        table=table,
        jobs=names["jobs"],
        where=where,
        columns=", ".join(columns.values()),
        values=", ".join(values.values()),
    )
    if run(statement, **parameters, lost=lost)[0][0]:
        run(_DEAD_WORKER.format(**names), lost=lost, version=__version__)


def expiry(now: datetime, seconds: float | None) -> datetime | None:
    return None if seconds is None else now - timedelta(seconds=seconds)
