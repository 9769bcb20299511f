"""COPY: many jobs into PostgreSQL at once, for 7 µs of the server's time each, where an INSERT takes 18.

What arrives is written while the caller's process makes the next jobs (`AlikeJobs`): the two share
the work, on two cores. COPY knows neither expressions nor ON CONFLICT. So it is for jobs whose
times are the columns' own defaults, and where an id exists already it writes nothing, and the
INSERT that can tell the same job from another takes its place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any, Final

import psycopg
from psycopg import errors, pq

from dbqueue.bulk import AlikeJobs, Batch
from dbqueue.jobs import NewJob

FEWEST: Final = 50
"""For fewer, the INSERT's one round trip is worth more."""

DIFFERENT: Final = ("id", "args", "kwargs", "options")
"""The columns in which alike jobs differ."""
SAME: Final = ("task", "queue", "priority", "headers", "content_type", "content", "parent_id", "root_id", "group_id")
COLUMNS: Final = DIFFERENT + SAME
_REST: Final = itemgetter(*(n for n, name in enumerate(NewJob._fields) if name not in COLUMNS))
_DEFAULTS: Final = _REST(NewJob(id="", task="", queue=""))
_row: Final = itemgetter(*map(NewJob._fields.index, COLUMNS))
_same: Final = itemgetter(*map(NewJob._fields.index, SAME))
_ESCAPED: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
LINES_AT_ONCE: Final = 256
"""Some 30 kB."""

_REFUSED: Final = (errors.UniqueViolation, errors.FeatureNotSupported)
"""An id that exists; or row-level security, which allows no COPY."""


def statement(jobs_table: str) -> str:
    return f"COPY {jobs_table} ({', '.join(COLUMNS)}) FROM STDIN"


def can_copy(jobs: Batch) -> bool:
    """Whether these are enough, and have nothing that COPY cannot write."""
    if len(jobs) < FEWEST:
        return False
    if isinstance(jobs, AlikeJobs):
        return bool(_REST(next(iter(jobs))) == _DEFAULTS)
    return all(_REST(job) == _DEFAULTS for job in jobs)


def copy(driver: psycopg.Connection[Any], statement: str, jobs: Batch) -> bool:
    """Write all of the jobs; False where that is not possible: then nothing is written, or not all of them.

    In the transaction of the connection if it is in one, which goes on after a refusal too; else in one of its own.
    """
    if driver.pgconn.pipeline_status != pq.PipelineStatus.OFF:
        return False
    if not isinstance(jobs, AlikeJobs):  # whose ids are new, and rise
        # Two batches that share ids wait for each other's rows: in one order, they cannot deadlock.
        jobs = sorted(jobs, key=attrgetter("id"))
    try:
        cursor = driver.cursor()
        with _kept_usable(driver), cursor.copy(statement.encode()) as rows:
            if isinstance(jobs, AlikeJobs):
                lines = _lines(jobs)
                while text := "".join(islice(lines, LINES_AT_ONCE)):
                    rows.write(text)
            else:
                for job in jobs:
                    rows.write_row(_row(job))
    except _REFUSED:
        return False
    return cursor.rowcount == len(jobs)  # else a trigger has left some out: the INSERT says so


def _lines(jobs: AlikeJobs) -> Iterator[str]:
    """Each job in COPY's text format, with what all have in common formatted once: a third of the driver's time.

    JSON text has no raw control characters, so only its backslashes are escaped; ids of alike jobs are dbqueue's own.
    """
    same = "".join("\t" + _text(value) for value in _same(next(iter(jobs)))) + "\n"
    for job in jobs:
        options = "\\N" if job.options is None else job.options.replace("\\", r"\\")
        args, kwargs = job.args.replace("\\", r"\\"), job.kwargs.replace("\\", r"\\")
        yield f"{job.id}\t{args}\t{kwargs}\t{options}{same}"


def _text(value: str | int | None) -> str:
    return "\\N" if value is None else str(value).translate(_ESCAPED)


@contextlib.contextmanager
def _kept_usable(driver: psycopg.Connection[Any]) -> Iterator[None]:
    """A savepoint, unless the statement is a transaction by itself.

    Not `driver.transaction()`: on a connection that has not begun yet, it would commit the caller's transaction.
    """
    if driver.autocommit and driver.info.transaction_status == pq.TransactionStatus.IDLE:
        yield
        return
    driver.execute("SAVEPOINT dbqueue_copy")
    try:
        yield
    except BaseException:
        if not driver.closed:
            driver.execute("ROLLBACK TO SAVEPOINT dbqueue_copy")
            driver.execute("RELEASE SAVEPOINT dbqueue_copy")
        raise
    driver.execute("RELEASE SAVEPOINT dbqueue_copy")
