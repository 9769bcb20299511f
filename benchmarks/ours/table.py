"""The jobs table as the measurement sees it, through connections of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from benchmarks.measuring import LIMIT_SECONDS, wait_for
from benchmarks.ours.app import add, app

BATCH = 10_000
SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now')"
SQLITE_EPOCH = "(julianday(finished_at) - 2440587.5) * 86400"
POLL_SECONDS = 0.2
"""Seldom, for a count of a large table is slow, and slows the worker as well."""


def connection() -> sa.Connection:
    """In autocommit."""
    return app.database.store.engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def scalar(query: str) -> Any:
    with connection() as opened:
        return opened.exec_driver_sql(query).scalar_one()


def column(query: str) -> list[Any]:
    with connection() as opened:
        return list(opened.exec_driver_sql(query).scalars())


def run(*statements: str) -> None:
    with connection() as opened:
        for statement in statements:
            opened.exec_driver_sql(statement)


def close() -> None:
    """This program's idle connections."""
    app.database.store.engine.dispose()


def server() -> int:
    """The process of PostgreSQL, whose children are the connections' ones."""
    try:
        folder = Path(scalar("SHOW data_directory"))
        return int((folder / "postmaster.pid").read_text().split()[0])
    except (OSError, sa.exc.DBAPIError) as error:
        raise RuntimeError(f"needs a PostgreSQL on this machine whose processes it may look at: {error}") from error


def clear() -> None:
    if _is_postgresql():
        run("TRUNCATE dbqueue_jobs CASCADE")
        settle()
    else:
        run("DELETE FROM dbqueue_jobs", "PRAGMA wal_checkpoint(TRUNCATE)")


def settle() -> None:
    """Statistics as they should be, and the writes of whoever was measured before on disk."""
    run("VACUUM ANALYZE dbqueue_jobs", "CHECKPOINT")


def fill(jobs: int) -> None:
    for start in range(0, jobs, BATCH):
        add.enqueue_many([(1, 1)] * min(BATCH, jobs - start))


def fill_at_once(jobs: int) -> None:
    """In one transaction, on any database."""
    add.enqueue_many([(1, 1)] * jobs)


def insert_pending(rows: int, *, queues: int = 0) -> None:
    """In one transaction, so that all are there at once; a microsecond between one's time and the next one's.

    In the default queue, or in turn in so many, q0, q1 and so on.
    """
    queue = f"'q' || mod(n, {queues})" if queues else "'celery'"
    run(
        "INSERT INTO dbqueue_jobs (id, task, args, queue, ready_at)"
        f" SELECT {_new_id()}::text, 'add', '[1, 1]', {queue}, now() - interval '1 hour' + n * interval '1 microsecond'"
        f" FROM generate_series(1, {rows}) AS n"
    )


def insert_due(rows: int, seconds: float) -> str:
    """All at one moment, so many seconds from now; that moment."""
    moment = str(scalar(f"SELECT (clock_timestamp() + interval '{seconds} s')::text"))
    run(
        "INSERT INTO dbqueue_jobs (id, task, args, ready_at, eta)"
        f" SELECT {_new_id()}::text, 'add', '[1, 1]', '{moment}', '{moment}' FROM generate_series(1, {rows})"
    )
    return moment


def late(moment: str) -> tuple[float, float]:
    """How many seconds after the moment the first job began, and the last one ended."""
    since = f"extract(epoch FROM {{}} - '{moment}'::timestamptz)::float8"
    with connection() as opened:
        query = f"SELECT {since.format('min(started_at)')}, {since.format('max(finished_at)')} FROM dbqueue_jobs"
        first, last = opened.exec_driver_sql(query).one()
    return float(first), float(last)


def insert_finished(rows: int) -> None:
    run(
        "INSERT INTO dbqueue_jobs (id, task, args, ready_at, status, started_at, finished_at, result, worker, lease)"
        f" SELECT {_new_id()}::text, 'add', '[1, 1]', NULL, 'SUCCESS', now(), now() - interval '1 minute', '2',"
        f" 'celery@bench', gen_random_uuid() FROM generate_series(1, {rows}) AS n"
    )


def _new_id() -> str:
    """Ordered by time, as the ids are that dbqueue makes; PostgreSQL can do so from 18 on."""
    return "uuidv7()" if int(scalar("SHOW server_version_num")) >= 180_000 else "gen_random_uuid()"


def finished() -> int:
    return int(scalar("SELECT count(*) FROM dbqueue_jobs WHERE finished_at IS NOT NULL"))


def finished_since(mark: str) -> int:
    return int(scalar(f"SELECT count(*) FROM dbqueue_jobs WHERE finished_at > '{mark}'"))


def waiting() -> bool:
    """By the claim index, whose rows are those that wait."""
    return bool(scalar("SELECT EXISTS (SELECT 1 FROM dbqueue_jobs WHERE queue = 'celery' AND ready_at IS NOT NULL)"))


def running() -> bool:
    return bool(scalar("SELECT EXISTS (SELECT 1 FROM dbqueue_jobs WHERE status = 'STARTED')"))


def clock() -> str:
    return str(scalar("SELECT clock_timestamp()::text" if _is_postgresql() else f"SELECT {SQLITE_NOW}"))


def _is_postgresql() -> bool:
    return app.database.store.dialect == "postgresql"


def waiting_at(place: int) -> str:
    """The id of the job that is claimed as the first, second, ... of those that wait."""
    query = (
        "SELECT id FROM dbqueue_jobs WHERE queue = 'celery' AND priority = 0 AND ready_at IS NOT NULL"
        f" ORDER BY ready_at, id OFFSET {place - 1} LIMIT 1"
    )
    return str(scalar(query))


def has_finished(job: str) -> bool:
    """A look in the primary key: one at the head of the claim index would walk past all dead entries, each time."""
    return bool(scalar(f"SELECT finished_at IS NOT NULL FROM dbqueue_jobs WHERE id = '{job}'"))


def rate_since(mark: str, jobs: int) -> float:
    """Jobs a second by the rows' own times: between the first round that completed some and the one with the last.

    One look when all is over: nothing was counted while the worker ran, and no table is too large for it.
    """
    with connection() as opened:
        epoch = "extract(epoch FROM finished_at)::float8"
        query = (
            f"SELECT {epoch if _is_postgresql() else SQLITE_EPOCH}, count(*) FROM dbqueue_jobs"
            f" WHERE finished_at > '{mark}' GROUP BY 1 ORDER BY 1"
        )
        rounds = opened.exec_driver_sql(query).all()
    done = first = rounds[0][1]
    for at, count in rounds[1:]:
        done += count
        if done >= jobs:
            return float((done - first) / (at - rounds[0][0]))
    raise RuntimeError(f"only {done} of {jobs} jobs have finished")


def wake() -> None:
    """Tell the workers that there are jobs."""
    app.database.store.wake()


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the worker does not get on")
        time.sleep(POLL_SECONDS)


def wait_until_idle() -> None:
    """No job waits or runs."""
    wait(lambda: not waiting() and not running())


def wait_for_workers(count: int) -> None:
    query = "SELECT count(*) FROM dbqueue_workers WHERE closed_at IS NULL"
    wait_for(lambda: int(scalar(query)) >= count, time.monotonic() + 180)
