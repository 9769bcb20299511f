"""The table of limits: what code declares, what an operator sets over it, and what is used of each.

A row's `source` says whose it is:

    settings   a fixed key of a task's `Limit`: written when a worker starts that knows the task
    call       a key made of a call's arguments: written when the first job of that key asks for a permit
    user       set by an operator: code does not change it until it is cleared
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from dbqueue.jobs import shortened, storable
from dbqueue.limits import Limit, Policies, check_key
from dbqueue.store.base import Store
from dbqueue.store.changing import changed
from dbqueue.store.reading import reading
from dbqueue.store.tables import database_now, jobs, limits
from dbqueue.store.values import text_or_none

SETTINGS: Final = "settings"
CALL: Final = "call"
USER: Final = "user"


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A key, its numbers, and what is used: `running` has permits, `held` waits for them."""

    key: str
    max_running: int | None
    rate: str | None
    source: str | None
    """None for a key that jobs are held under and no row limits: a worker's own rate, or no limit any more."""
    task: str | None
    running: int
    held: int


def rows(store: Store) -> list[LimitRow]:
    """All limits, and all keys under which jobs are held, by key."""
    permits = sa.select(jobs.c.permit, sa.func.count()).where(jobs.c.permit.is_not(None)).group_by(jobs.c.permit)
    waits = sa.select(jobs.c.limit_key, sa.func.count()).where(jobs.c.held_at.is_not(None)).group_by(jobs.c.limit_key)
    with reading(store) as connection:
        known = {str(text_or_none(row.key)): row for row in connection.execute(sa.select(limits))}
        running, held = (_counts(connection, each) for each in (permits, waits))
    found = []
    for key in sorted({*known, *running, *held}):
        row = known.get(key)
        own = {name: getattr(row, name, None) for name in ("max_running", "rate", "source", "task")}
        found.append(LimitRow(key, **own, running=running.get(key, 0), held=held.get(key, 0)))
    return found


def _counts(connection: sa.Connection, query: sa.Select[Any]) -> dict[str, int]:
    return {str(text_or_none(row[0])): row[1] for row in connection.execute(query)}


def set_limit(store: Store, key: str, limit: Limit) -> None:
    """Let the key have these numbers whatever code says, at once and in every worker.

    Jobs that run go on, also where they are more than may. Raises ValueError for a key that cannot be.
    """
    values = {**_numbers(limit), "source": USER, "full_at": sa.null(), "updated_at": database_now()}
    insert = store.insert(limits).values(key=check_key(key), **values)
    change = insert.on_conflict_do_update(index_elements=["key"], set_=values)
    changed(store, lambda connection, _: connection.execute(change))
    store.wake()


def clear_limit(store: Store, key: str) -> bool:
    """Forget what was set for the key: it is what code says again, or no limit; False where it has no row."""
    change = sa.delete(limits).where(limits.c.key.in_(map(shortened, storable([key]))))
    cleared = changed(store, lambda connection, _: connection.execute(change).rowcount > 0)
    store.wake()
    return cleared


def declare(store: Store, policies: Policies) -> None:
    """Let the limits that code has made be as this code says, in every worker at once; an operator's are left alone."""
    changes: list[Any] = []
    for key, (limit, task) in policies.fixed.items():
        values = {**_numbers(limit), "task": task, "source": SETTINGS, "updated_at": database_now()}
        differs = sa.and_(limits.c.source != USER, sa.or_(limits.c.source != SETTINGS, _differs(limit)))
        insert = store.insert(limits).values(key=key, **values)
        values["full_at"] = sa.null()
        changes.append(insert.on_conflict_do_update(index_elements=["key"], set_=values, where=differs))
    for task, limit in policies.by_task.items():
        ours = sa.and_(limits.c.task == task, limits.c.source == CALL, _differs(limit))
        changes.append(sa.update(limits).where(ours).values(**_numbers(limit), full_at=sa.null()))
    differed = False
    for change in changes:
        # Each alone: a worker that admits jobs has locked one row, and may wait for the insert of another.
        differed |= _changes_something(store, change.returning(limits.c.key))
    if differed:  # a worker may sleep until the next token of a rate that was slower
        store.wake()


def _changes_something(store: Store, change: Any) -> bool:
    return changed(store, lambda connection, _: connection.execute(change).first() is not None)


def _numbers(limit: Limit) -> dict[str, Any]:
    return {"max_running": limit.running, "rate": limit.rate_text}


def _differs(limit: Limit) -> sa.ColumnElement[bool]:
    numbers = _numbers(limit)
    return sa.or_(*(limits.c[name].is_distinct_from(value) for name, value in numbers.items()))
