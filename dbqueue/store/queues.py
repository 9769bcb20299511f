"""Pausing queues: a row for each that is paused, which every worker reads about once a second."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import sqlalchemy as sa

from dbqueue.jobs import storable
from dbqueue.store.base import Store
from dbqueue.store.changing import changed
from dbqueue.store.reading import reading
from dbqueue.store.tables import paused_queues
from dbqueue.store.values import moment, text_or_none


def pause(store: Store, names: Collection[str]) -> None:
    """Let no worker claim from these queues; jobs that run go on, and enqueues are taken. May be done twice."""
    rows = [{"queue": name} for name in sorted(set(names))]
    if rows:
        change = store.insert(paused_queues).on_conflict_do_nothing()
        changed(store, lambda connection, _: connection.execute(change, rows))


def resume(store: Store, names: Collection[str]) -> set[str]:
    """Let workers claim from these queues again, and wake them; the names of those that were paused."""
    change = sa.delete(paused_queues).where(paused_queues.c.queue.in_(storable(names))).returning(paused_queues.c.queue)
    resumed = changed(store, lambda connection, _: set(connection.scalars(change)))
    store.wake()  # in any case: a try that had no answer may have resumed them
    return resumed


def paused(store: Store) -> dict[str, datetime]:
    """The paused queues, and since when."""
    with reading(store) as connection:
        rows = connection.execute(sa.select(paused_queues.c.queue, paused_queues.c.paused_at))
        return {str(text_or_none(row.queue)): moment(row.paused_at) for row in rows}
