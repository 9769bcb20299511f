"""Calling jobs off by their ids: kept in the rows, so that no restart forgets it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from dbqueue.codec import describe_exception
from dbqueue.errors import TaskRevokedError
from dbqueue.jobs import MAX_NAME_LENGTH, NOT_ENQUEUED, REVOKED, STARTED, WAITING, storable
from dbqueue.store.base import Store
from dbqueue.store.changing import Ask, among, changed
from dbqueue.store.reading import reading
from dbqueue.store.steps import run
from dbqueue.store.tables import Json, database_now, jobs
from dbqueue.store.workflows import failure

MAX_LISTED: Final = 1000
"""Most ids that `revoked_ids` names: the newest."""


@dataclass(frozen=True, slots=True)
class Revoked:
    """What a revoke found: jobs that waited, and ended with it (their tasks by id), and jobs that run."""

    ended: dict[str, str]
    running: frozenset[str]


def revoke(store: Store, job_ids: Collection[str]) -> Revoked:
    """End jobs that wait as REVOKED; no other run of these ids begins, not even of one that is not enqueued yet.

    A job that runs is marked: its run goes on, and where another would follow (a retry, a rescue)
    the job ends as REVOKED instead. An id without a row gets one that is REVOKED already: it stands
    in the way of a later enqueue, and is deleted with the results that have expired. What cannot run
    without a job that ends here ends with it; its errbacks run. An id that no row can have is passed over.
    """
    ids = sorted(set(storable(job_ids)))
    found, released = changed(store, lambda connection, ask: _revoke(store, connection, ask, ids))
    if released:
        store.wake()
    return found


def _revoke(store: Store, connection: sa.Connection, ask: Ask, ids: list[str]) -> tuple[Revoked, bool]:
    """What it found, and whether others may run now."""
    ours = among(store, ids)
    end = sa.update(jobs).where(ours, jobs.c.status.in_(WAITING)).values(**_values())
    mark = sa.update(jobs).where(ours, jobs.c.status == STARTED).values(revoked_at=database_now())
    ended: dict[str, str] = {}
    running: set[str] = set()
    released = False
    while True:
        run(failure.lock_with_below(store, ids), ask)
        rows = connection.execute(end.returning(jobs.c.id, jobs.c.task, jobs.c.successors)).all()
        ended |= {row.id: row.task for row in rows}
        causes = [failure.Ended(row.id, REVOKED, _error()) for row in rows if row.successors]
        released |= run(failure.propagate(store, causes), ask)
        running |= set(connection.scalars(mark.returning(jobs.c.id)))
        known = connection.execute(sa.select(jobs.c.id, _is_left()).where(ours)).all()
        # One that is enqueued between two statements is seen in the next turn, whichever of them it is there for. An
        # id that is longer than that of any call is not remembered.
        there = {row.id for row in known}
        new = [job_id for job_id in ids if job_id not in there and len(job_id) <= MAX_NAME_LENGTH]
        if not any(row.is_left for row in known) and all(_remembered(connection, store, job_id) for job_id in new):
            return Revoked(ended, frozenset(running)), released


def _is_left() -> sa.Label[bool]:
    """Whether a job is as if nobody had revoked it."""
    unmarked = sa.and_(jobs.c.status == STARTED, jobs.c.revoked_at.is_(None))
    return sa.or_(jobs.c.status.in_(WAITING), unmarked).label("is_left")


def revoked_ids(store: Store) -> list[str]:
    """Ids that were revoked, the newest first, at most MAX_LISTED; among them jobs that run on."""
    query = sa.select(jobs.c.id).where(jobs.c.revoked_at.is_not(None)).order_by(jobs.c.revoked_at.desc())
    with reading(store) as connection:
        return list(connection.scalars(query.limit(MAX_LISTED)))


def _remembered(connection: sa.Connection, store: Store, job_id: str) -> bool:
    """Write a row for an id that has none; False if somebody enqueued it meanwhile."""
    row = (
        store.insert(jobs)
        .values(id=job_id, task=NOT_ENQUEUED, queue=NOT_ENQUEUED, **_values())
        .on_conflict_do_nothing()
    )
    # Not by `rowcount`, which SQLAlchemy does not tell of an INSERT on PostgreSQL.
    return connection.execute(row.returning(jobs.c.id)).first() is not None


def _error() -> str:
    return describe_exception(TaskRevokedError("revoked"), max_bytes=4096)[0]


def _values() -> dict[str, Any]:
    """The columns of a job that was revoked before it could run."""
    return {
        "status": REVOKED,
        "ready_at": sa.null(),
        "finished_at": database_now(),
        "revoked_at": database_now(),
        "blocked_reason": sa.null(),
        "held_at": sa.null(),
        "result": sa.cast(sa.bindparam(None, _error(), type_=sa.Text), Json),
        "traceback": sa.null(),
    }
