"""How outcomes become rows: the statements of a round that write them, and what has a transaction of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import psycopg

from dbqueue import failpoints
from dbqueue.jobs import Outcome, Replaced
from dbqueue.store.postgres import sql
from dbqueue.store.postgres.arrays import array, times
from dbqueue.store.postgres.driver import Driver, translated
from dbqueue.store.postgres.floors import Floors
from dbqueue.store.rows import Content, Finish, Requeue, contents, replacements, split
from dbqueue.store.statements import pyformat
from dbqueue.store.steps import run
from dbqueue.store.transactions.joining import JoinedPsycopg
from dbqueue.store.workflows import failure, success
from dbqueue.store.workflows.changes import replace

if TYPE_CHECKING:
    from dbqueue.store.postgres.store import PostgresStore

Statement: TypeAlias = tuple[str, dict[str, Any]]
Cursor: TypeAlias = psycopg.Cursor[tuple[Any, ...]]


class Ready(NamedTuple):
    """What a round needs of its outcomes."""

    outcomes: Sequence[Outcome]
    finish: list[Finish]
    requeue: list[Requeue]
    columns: dict[str, Any]
    """Of all in `finish`."""


class OutcomeWriter:
    """Of one session, which calls `look_at_table` first."""

    def __init__(self, store: PostgresStore, driver: Driver, floors: Floors) -> None:
        self._store, self._driver, self._floors = store, driver, floors
        self._prepared: Ready | None = None
        self.owes_word = False
        """Whether jobs may run now of which nobody was told: the round that has let them go was given up after that."""
        self.finish = self._finish_one = self._requeue = self._content = self._complete = ""

    def look_at_table(self) -> None:
        """The store has learned whether the table of jobs is partitioned, and has the words for it."""
        text = self._store.text
        self.finish, self._finish_one, self._requeue = map(text, (sql.FINISH, sql.FINISH_ONE, sql.REQUEUE))
        self._content, self._complete = text(sql.CONTENT), pyformat(text(success.COMPLETE_POSTGRES))

    def prepare(self, outcomes: Sequence[Outcome]) -> None:
        """The next round is about these very outcomes."""
        self._prepared = ready(outcomes)

    def ready(self, outcomes: Sequence[Outcome]) -> Ready:
        prepared, self._prepared = self._prepared, None
        return prepared if prepared is not None and prepared.outcomes is outcomes else ready(outcomes)

    def end_apart(
        self, outcomes: Sequence[Outcome], failed: Sequence[Finish], now: datetime | None
    ) -> tuple[set[str], bool]:
        """Write what has a transaction of its own: failures that others wait for, and replacements.

        The jobs for which that was done, and whether others may run now.
        """
        settled, released = self._fail(failed, now) if failed else (set[str](), False)
        for replaced in replacements(outcomes):
            settled, released = settled | self._replace(replaced), True
        self.owes_word |= released
        return settled, released

    def _fail(self, failed: Sequence[Finish], now: datetime | None) -> tuple[set[str], bool]:
        """End jobs that others wait for, and what can never run after them; whether errbacks may run now."""
        with translated(), self._driver.transaction():
            rows = self._driver.execute(self.finish, columns(Finish, failed, now)).fetchall()
            failpoints.hit("complete.between", self._driver)
            settled = {row[0] for row in rows}
            ended = [failure.Ended(row.id, row.status, row.result, row.traceback) for row in failed]
            causes = [each for each in ended if each.id in settled]
            return settled, run(failure.propagate(self._store, causes, now), JoinedPsycopg(self._driver).reply)

    def _replace(self, outcome: Replaced) -> set[str]:
        with translated(), self._driver.transaction():
            done = run(replace(self._store, outcome), JoinedPsycopg(self._driver).reply)
            return {outcome.job_id} if done else set()

    def statements(
        self, rows: Ready, finish: list[Finish], complete: list[Finish], now: datetime | None
    ) -> dict[str, Statement]:
        """What writes these outcomes, by name; STARTED rows before those that wait for them: see `workflows`."""
        statements: dict[str, Statement] = {}
        if with_content := contents(rows.outcomes):
            statements["contents"] = self._content, columns(Content, with_content, now)
        if len(finish) == 1:
            statements["finish one"] = self._finish_one, finish[0]._asdict() | {"now": now}
        elif finish:
            of_finish = rows.columns if finish is rows.finish else columns(Finish, finish)
            statements["finish"] = self.finish, of_finish | {"now": now}
        if rows.requeue:  # after what ends: a run that was revoked, and then asked for a retry, has ended
            statements["requeue"] = self._requeue, columns(Requeue, rows.requeue, now)
        if complete:
            statements["complete"] = self._complete, columns(Finish, complete, now)
        return statements

    def written(self, cursors: Mapping[str, Cursor]) -> Iterator[str]:
        """The jobs whose outcomes these statements have written; but for "complete", which moves others too."""
        for name in ("finish one", "finish"):
            if name in cursors:
                yield from (row[0] for row in cursors[name].fetchall())
        if "requeue" in cursors:
            for job_id, queue, priority, ready_at in cursors["requeue"].fetchall():
                if ready_at is not None:
                    self._floors.lower((queue, priority), (ready_at, job_id))
                yield job_id


def ready(outcomes: Sequence[Outcome]) -> Ready:
    finish, requeue = split(outcomes)
    return Ready(outcomes, finish, requeue, columns(Finish, finish) if len(finish) > 1 else {})


def columns(
    row: type[Finish | Requeue | Content], rows: Sequence[Finish | Requeue | Content], now: datetime | None = None
) -> dict[str, Any]:
    """Rows as one array for each column, which `unnest` turns into rows again."""
    by_name = {
        name: times(values) if name in _TIMES else array(values)
        for name, values in zip(row._fields, zip(*rows, strict=True), strict=True)
    }
    return by_name | {"now": now}


_TIMES: Final = ("seconds", "delay_seconds")
"""Columns that hold seconds."""
