"""The table of schedules: what is to be done again and again, and when next. The same for every database.

Any number of beats look at it. A due time fires once, for in one transaction a beat locks the row,
inserts the job and moves `next_due_at`; another beat passes over a locked row, and finds a row
that was moved no longer due. The job's id is made of the entry's name and the due time, so that
even a due time that comes again (a row deleted and made anew) is one job. Where a call is a workflow,
that is the id of its first job, without which nothing of it is written.

A row may be changed with plain SQL at any time. `planned_from` keeps what `next_due_at` was
reckoned from, and a beat that finds it different reckons anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from dbqueue import failpoints
from dbqueue.jobs import NewJob, storable
from dbqueue.store.base import Store
from dbqueue.store.changing import Ask, changed, changing
from dbqueue.store.reading import reading, time_on
from dbqueue.store.steps import run
from dbqueue.store.tables import Json, database_now, schedules
from dbqueue.store.transactions.joining import JoinedConnection
from dbqueue.store.trouble import BRIEF_LOCK_SECONDS
from dbqueue.store.values import moment_or_none, sqlite_time
from dbqueue.store.workflows.writing import write
from dbqueue.workflows import Workflow

SETTINGS: Final = "settings"
"""The `source` of rows that follow the settings of an application; all others are `user`."""
MISFIRES: Final = ("skip", "once", "all")
"""What becomes of due times that were missed: nothing, one job for the latest, or a job for each."""


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """One row. `args`, `kwargs` and `options` are JSON text; times are aware, in UTC."""

    name: str
    task: str
    schedule: str
    timezone: str | None
    args: str
    kwargs: str
    options: str
    enabled: bool
    misfire: str
    source: str
    app: str | None
    next_due_at: datetime | None
    planned_from: str | None
    last_due_at: datetime | None
    total_run_count: int
    problem: str | None


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """An entry of an application's settings, as its row is to be."""

    name: str
    task: str
    schedule: str
    timezone: str
    args: str = "[]"
    kwargs: str = "{}"
    options: str = "{}"
    misfire: str = "once"


@dataclass(frozen=True, slots=True)
class Step:
    """What a beat does with a row, all of it or nothing: enqueue these jobs, and plan the next due time.

    `jobs` has one for each due time: a job, or a workflow.
    """

    next_due_at: datetime | None
    planned_from: str | None
    problem: str | None = None
    jobs: Sequence[NewJob | Workflow] = ()
    last_due_at: datetime | None = None
    """The last due time of `jobs`; None leaves the row's."""


_JSON_FIELDS: Final = frozenset({"args", "kwargs", "options"})
_FOLLOWED: Final = ("task", "schedule", "timezone", "args", "kwargs", "options", "misfire")
"""What a row takes from the settings at each start of a beat. `enabled` is not among them: a pause holds."""


def read(store: Store, *, now: datetime | None = None) -> tuple[datetime, list[ScheduleRow]]:
    """All rows by name, and the database's time (or `now`); takes no lock."""
    with reading(store) as connection:
        rows = connection.execute(_rows().order_by(schedules.c.name)).all()
        return now or time_on(connection), [_row(row) for row in rows]


def find(store: Store, name: str) -> ScheduleRow | None:
    """The row of this name."""
    with reading(store) as connection:
        row = connection.execute(_rows().where(schedules.c.name.in_(storable([name])))).one_or_none()
        return None if row is None else _row(row)


def advance(
    store: Store,
    name: str,
    decide: Callable[[ScheduleRow, datetime], Step | None],
    *,
    lock_seconds: float = BRIEF_LOCK_SECONDS,
    now: datetime | None = None,
) -> Step | None:
    """Lock the row, let `decide` say what to do with it, and do that, in one transaction.

    None if nothing was done: another beat has the row or has done it, or it is gone. `decide` gets
    the row as it is under the lock, and the database's time (or `now`). Raises LockTimeout where
    an enqueue waits longer than `lock_seconds` for what somebody's transaction has locked: a unique key.
    """
    with changing(store) as connection:
        store.wait_briefly(connection, lock_seconds)
        row = connection.execute(
            _rows().where(schedules.c.name == name).with_for_update(skip_locked=True)
        ).one_or_none()
        step = None if row is None else decide(_row(row), now or time_on(connection))
        if step is not None:
            _write(store, JoinedConnection(connection), step.jobs)
            failpoints.hit("beat.between", connection.connection.driver_connection)
            connection.execute(sa.update(schedules).where(schedules.c.name == name).values(_changes(store, step)))
    if step is not None and step.jobs:
        store.wake()
    return step


def synchronise(store: Store, app: str, entries: Collection[NewSchedule]) -> list[str]:
    """Make the rows of this application's settings be these entries; rows that they no longer name are deleted.

    What a user made and what another application's settings name is left alone. Returns the names
    of entries whose name such a row has: they are not in the table.
    """
    ours = sa.and_(schedules.c.source == SETTINGS, schedules.c.app == app)

    def change(connection: sa.Connection, ask: Ask) -> list[str]:
        refused = []
        # Two applications that start at once meet in the order of names, so that none waits for the other in turn.
        for entry in sorted(entries, key=lambda each: each.name):
            values = {name: _value(name, getattr(entry, name)) for name in _FOLLOWED}
            connection.execute(
                store.insert(schedules)
                .values(name=entry.name, app=app, source=SETTINGS, **values)
                .on_conflict_do_nothing()
            )
            found = connection.execute(_rows().where(schedules.c.name == entry.name).where(ours)).one_or_none()
            if found is None:
                refused.append(entry.name)
            elif any(getattr(_row(found), name) != getattr(entry, name) for name in _FOLLOWED):
                update = sa.update(schedules).where(schedules.c.name == entry.name, ours)
                connection.execute(update.values(**values, updated_at=database_now()))
        gone = schedules.c.name.not_in([entry.name for entry in entries])
        connection.execute(sa.delete(schedules).where(ours, gone))
        return refused

    return changed(store, change)


def reconsider(store: Store) -> None:
    """Have the rows that could not be planned planned anew: what a beat's machine lacked may be there now."""
    unplanned = sa.update(schedules).where(schedules.c.next_due_at.is_(None), schedules.c.problem.is_not(None))
    changed(store, lambda connection, _: connection.execute(unplanned.values(planned_from=sa.null())))


def put(store: Store, entry: NewSchedule, *, enabled: bool) -> bool:
    """Make or change a user's row; False where a row of this name belongs to an application's settings.

    `last_due_at` and the count of runs stay, and so does the next due time, unless it is reckoned from what changes.
    """
    values = {name: _value(name, getattr(entry, name)) for name in _FOLLOWED} | {"enabled": enabled}
    theirs = sa.and_(schedules.c.name == entry.name, schedules.c.source != SETTINGS)
    insert = store.insert(schedules).values(name=entry.name, **values).on_conflict_do_nothing()
    update = sa.update(schedules).where(theirs).values(**values, **_anew(), updated_at=database_now())

    def change(connection: sa.Connection, ask: Ask) -> bool:
        # Not by `rowcount`, which SQLAlchemy does not tell of an INSERT on PostgreSQL.
        if connection.execute(insert.returning(schedules.c.name)).first() is not None:
            return True
        return connection.execute(update).rowcount > 0

    return changed(store, change)


def remove(store: Store, name: str) -> bool:
    """Delete a user's row; False where there is none of this name."""
    gone = sa.delete(schedules).where(schedules.c.name == name, schedules.c.source != SETTINGS)
    return changed(store, lambda connection, _: connection.execute(gone).rowcount > 0)


def set_enabled(store: Store, names: Collection[str], *, enabled: bool) -> set[str]:
    """Pause or resume these entries; the names of those that exist.

    What became due during the pause is not made up for: the next due time is reckoned from the resumption.
    """
    change = (
        sa.update(schedules)
        .where(schedules.c.name.in_(storable(names)))
        .values(
            enabled=enabled,
            updated_at=database_now(),
            # What is enabled already keeps its due time.
            next_due_at=sa.case((schedules.c.enabled == sa.literal(enabled), schedules.c.next_due_at), else_=sa.null()),
            **_anew(),
        )
        .returning(schedules.c.name)
    )
    return changed(store, lambda connection, _: set(connection.scalars(change)))


def _anew() -> dict[str, Any]:
    """Have a row without a due time planned anew: a problem from before its pause would keep it from that."""
    return {"planned_from": sa.case((schedules.c.next_due_at.is_not(None), schedules.c.planned_from), else_=sa.null())}


def _write(store: Store, joined: JoinedConnection, jobs: Sequence[NewJob | Workflow]) -> None:
    """Write what is due. An id that exists is this due time, fired before: what was written then stays as it is."""
    single = [each for each in jobs if not isinstance(each, Workflow)]
    run(store.inserts.steps(single, check=False), joined.reply)
    for each in jobs:
        if isinstance(each, Workflow):
            run(write(store, each, check=False), joined.reply)


def _changes(store: Store, step: Step) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "next_due_at": _stored(store, step.next_due_at),
        "planned_from": step.planned_from,
        "problem": step.problem,
    }
    if step.jobs:
        changes["total_run_count"] = schedules.c.total_run_count + len(step.jobs)
        changes["last_due_at"] = _stored(store, step.last_due_at)
    return changes


def _value(name: str, value: str) -> Any:
    """A value to write; JSON text byte for byte."""
    return sa.cast(sa.bindparam(None, value, type_=sa.Text), Json) if name in _JSON_FIELDS else value


def _stored(store: Store, moment: datetime | None) -> datetime | str | None:
    """A time in the form in which this database keeps it."""
    return sqlite_time(moment) if store.dialect == "sqlite" else moment


def _rows() -> sa.Select[Any]:
    names = ScheduleRow.__dataclass_fields__
    return sa.select(
        *(sa.cast(schedules.c[name], sa.Text) if name in _JSON_FIELDS else schedules.c[name] for name in names)
    )


def _row(row: Sequence[Any]) -> ScheduleRow:
    values = dict(zip(ScheduleRow.__dataclass_fields__, row, strict=True))
    for name in ("next_due_at", "last_due_at"):
        values[name] = moment_or_none(values[name])
    return ScheduleRow(**values)
