"""Reading the tables for people: the command line's lists, counts and checks.

Nothing here is hot, and nothing locks: each function is one or two plain statements, the same on
every database. Most read the whole table, for no index serves them (see `tables`): a million rows
take a fraction of a second. Times come back as aware datetimes in UTC.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from dbqueue.codec.plain import json_value
from dbqueue.jobs import STARTED, SUCCESS, WAITING, storable
from dbqueue.store.base import Store
from dbqueue.store.reading import reading
from dbqueue.store.tables import database_now, jobs, unique_keys, workers
from dbqueue.store.unique_keys import key_in
from dbqueue.store.values import moment, moment_or_none, text_or_none, whole_number

MAX_LISTED: Final = 1000
"""Most ids that a report names."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """A job's row in full. JSON columns are text, as they were stored; `worker` is an id of `dbqueue_workers`."""

    id: str
    task: str
    queue: str
    priority: int
    status: str
    state: str | None
    created_at: datetime
    eta: datetime | None
    ready_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    retries: int
    losses: int
    worker: str | None
    blocked_reason: str | None
    limit_key: str | None
    held_at: datetime | None
    args: str
    kwargs: str
    headers: str | None
    options: str | None
    content_type: str | None
    result: str | None
    traceback: str | None
    meta: str | None
    parent_id: str | None
    root_id: str | None
    group_id: str | None


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """The jobs of one queue that have not ended."""

    queue: str
    waiting: int
    """Due, and not claimed."""
    scheduled: int
    """Due later: a countdown, an eta, or the pause before a retry."""
    blocked: int
    running: int
    oldest_ready_at: datetime | None
    """Since when the first of the waiting ones is due."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker that has not stopped in order; it lives if `alive`, else its heartbeat is older than its lease."""

    id: str
    name: str
    hostname: str
    pid: int
    pool: str
    concurrency: int
    queues: tuple[str, ...]
    version: str
    started_at: datetime
    heartbeat_at: datetime
    heartbeat_age_seconds: float
    alive: bool


def find_jobs(
    store: Store,
    *,
    statuses: Collection[str] = (),
    queues: Collection[str] = (),
    tasks: Collection[str] = (),
    limit: int = 20,
) -> list[JobRow]:
    """Jobs that fit all that is given, the newest first."""
    query = _job_rows().order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit)
    for column, chosen in ((jobs.c.status, statuses), (jobs.c.queue, queues), (jobs.c.task, tasks)):
        if chosen:
            query = query.where(column.in_(storable(chosen)))
    with reading(store) as connection:
        return [_job_row(row) for row in connection.execute(query)]


def scheduled_jobs(store: Store, queues: Collection[str]) -> list[JobRow]:
    """Jobs of these queues that are due later, the next first; at most MAX_LISTED."""
    later = sa.and_(jobs.c.queue.in_(queues), jobs.c.ready_at > database_now())
    with reading(store) as connection:
        rows = connection.execute(_job_rows().where(later).order_by(jobs.c.ready_at, jobs.c.id).limit(MAX_LISTED))
        return [_job_row(row) for row in rows]


def scheduled_queues(store: Store) -> list[str]:
    """The names of the queues that hold jobs which are due later."""
    query = sa.select(jobs.c.queue).where(jobs.c.ready_at > database_now()).distinct()
    with reading(store) as connection:
        return [name for name in connection.scalars(query) if isinstance(name, str)]


def find_job(store: Store, job_id: str) -> JobRow | None:
    """The job with this id."""
    with reading(store) as connection:
        row = connection.execute(_job_rows().where(jobs.c.id.in_(storable([job_id])))).one_or_none()
        return None if row is None else _job_row(row)


def statuses(store: Store, job_ids: Collection[str]) -> dict[str, str]:
    """The status of each of these jobs that has a row."""
    query = sa.select(jobs.c.id, jobs.c.status).where(jobs.c.id.in_(storable(job_ids)))
    with reading(store) as connection:
        return {row.id: row.status for row in connection.execute(query)}


def holders(store: Store, job_ids: Collection[str]) -> dict[str, str]:
    """For each of these jobs whose unique key another job stands for, the id of that one."""
    query = sa.select(jobs.c.id, sa.cast(jobs.c.options, sa.Text))
    query = query.where(jobs.c.id.in_(storable(job_ids)), jobs.c.workflow_id.is_(None))
    success = sa.and_(jobs.c.status == SUCCESS, unique_keys.c.until > database_now())
    held = sa.select(unique_keys.c.key, unique_keys.c.job_id).join(jobs, jobs.c.id == unique_keys.c.job_id)
    held = held.where(sa.or_(jobs.c.finished_at.is_(None), success))
    with reading(store) as connection:
        own = {job_id: key[0] for job_id, options in connection.execute(query) if (key := key_in(options))}
        holder = {row.key: row.job_id for row in connection.execute(held.where(unique_keys.c.key.in_(own.values())))}
    return {job_id: holder[key] for job_id, key in own.items() if holder.get(key, job_id) != job_id}


def queue_counts(store: Store) -> list[QueueCounts]:
    """All queues that hold jobs which have not ended, by name."""
    waiting, now = jobs.c.status.in_(WAITING), database_now()
    due = sa.and_(waiting, jobs.c.ready_at <= now)
    query = (
        sa.select(
            jobs.c.queue,
            sa.func.count().filter(due),
            sa.func.count().filter(waiting, jobs.c.ready_at > now),
            sa.func.count().filter(waiting, jobs.c.ready_at.is_(None)),
            sa.func.count().filter(jobs.c.status == STARTED),
            sa.func.min(jobs.c.ready_at).filter(due),
        )
        .where(jobs.c.finished_at.is_(None))
        .group_by(jobs.c.queue)
        .order_by(jobs.c.queue)
    )
    with reading(store) as connection:
        return [
            QueueCounts(str(text_or_none(row[0])), row[1], row[2], row[3], row[4], moment_or_none(row[5]))
            for row in connection.execute(query)
        ]


def open_workers(store: Store) -> list[WorkerRow]:
    """Workers that live, and those that died and were not noticed yet, by name."""
    columns = (
        workers.c.id,
        workers.c.name,
        workers.c.hostname,
        workers.c.pid,
        workers.c.pool,
        workers.c.concurrency,
        sa.cast(workers.c.queues, sa.Text),
        workers.c.version,
        workers.c.started_at,
        workers.c.heartbeat_at,
        workers.c.lease_seconds,
        sa.type_coerce(database_now(), workers.c.heartbeat_at.type),
    )
    query = sa.select(*columns).where(workers.c.closed_at.is_(None)).order_by(workers.c.name, workers.c.id)
    with reading(store) as connection:
        found = [_worker_row(row) for row in connection.execute(query)]
    return [replace(row, alive=False) if row.alive and store.worker_is_gone(row.id) else row for row in found]


def orphans(store: Store) -> list[str]:
    """Ids of jobs that are STARTED under a worker which has stopped, or has no row. At most MAX_LISTED."""
    query = sa.select(jobs.c.id).where(is_orphan()).order_by(jobs.c.id).limit(MAX_LISTED)
    with reading(store) as connection:
        return [str(text_or_none(job_id)) for job_id in connection.scalars(query)]


def is_orphan() -> sa.ColumnElement[bool]:
    """Whether a row is STARTED, and its worker is none that lives or may be found dead."""
    open_ids = sa.select(workers.c.id).where(workers.c.closed_at.is_(None))
    return sa.and_(jobs.c.status == STARTED, jobs.c.worker.not_in(open_ids))


def missing_indexes(store: Store) -> list[str]:
    """The indexes of the table of jobs that are not there, by name."""
    from dbqueue.store.indexes import OF_JOBS

    with reading(store) as connection:
        indexes = sa.inspect(connection).get_indexes(jobs.name, schema=store.schema)
    return sorted(OF_JOBS - {index["name"] for index in indexes})


def server_version(store: Store) -> tuple[int, ...]:
    """The database's version, such as (18, 6) or (3, 51, 3)."""
    with reading(store) as connection:
        return tuple(int(part) for part in connection.dialect.server_version_info or ())


# -- rows to values --------------------------------------------------------------------------------

_NUMBERS: Final = frozenset({"priority", "retries", "losses"})
_JSON_FIELDS: Final = frozenset({"args", "kwargs", "headers", "options", "result", "meta"})


def _job_rows() -> sa.Select[Any]:
    # As text: what was stored, whatever the driver makes of JSON.
    names = JobRow.__dataclass_fields__
    return sa.select(*(sa.cast(jobs.c[name], sa.Text) if name in _JSON_FIELDS else jobs.c[name] for name in names))


def _job_row(row: Sequence[Any]) -> JobRow:
    values = dict(zip(JobRow.__dataclass_fields__, row, strict=True))
    for name, value in values.items():
        if name.endswith("_at") or name == "eta":
            values[name] = moment_or_none(value)
        else:
            values[name] = whole_number(value) if name in _NUMBERS else text_or_none(value)
    return JobRow(**values)


def _worker_row(row: Sequence[Any]) -> WorkerRow:
    started_at, heartbeat_at, now = moment(row[8]), moment(row[9]), moment(row[11])
    age = max(0.0, (now - heartbeat_at).total_seconds())
    worker_id, name, hostname, pool, version = (str(text_or_none(row[column])) for column in (0, 1, 2, 4, 7))
    return WorkerRow(
        id=worker_id,
        name=name,
        hostname=hostname,
        pid=whole_number(row[3]),
        pool=pool,
        concurrency=whole_number(row[5]),
        queues=_names(row[6]),
        version=version,
        started_at=started_at,
        heartbeat_at=heartbeat_at,
        heartbeat_age_seconds=age,
        alive=isinstance(row[10], int | float) and age <= row[10],
    )


def _names(text: Any) -> tuple[str, ...]:
    """The names of a JSON list; none where it is no list."""
    return tuple(name for name in json_value(text, list) if isinstance(name, str))
