"""How a job becomes a row: the INSERT statements, for every way in which an enqueue can travel.

An enqueue is a value, SQL text with named parameters, so that it runs the same on the pool's own
connection and on any connection of the caller's. The text is written once, with `:name`
parameters as SQLAlchemy and sqlite3 take them; `pyformat` turns it into psycopg's form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, Final, TypeAlias, TypeVar

from dbqueue.codec.plain import json_object
from dbqueue.errors import DuplicateTaskId
from dbqueue.jobs import (
    BLOCKED_BY_LIMIT,
    MAX_NAME_LENGTH,
    NOT_ENQUEUED,
    RETRIES_OPTION,
    UNIQUE_OPTION,
    NewJob,
    storable,
)
from dbqueue.workflows import REPLACED, with_options

_PLAIN = ("id", "task", "queue", "priority", "parent_id", "root_id", "group_id", "content_type", "content")
_JSON = ("args", "kwargs", "headers", "options")
_TIMES = ("eta", "delay_seconds", "expires_at", "expires_seconds")
FIELDS = _PLAIN + _JSON + _TIMES
_BLOCKS = ("blocked_reason", "waits_for", "inputs", "successors", "limit_key")
ALL_FIELDS = FIELDS + _BLOCKS
"""Most jobs are plain (`NewJob.is_plain`), and their statements carry `FIELDS` alone: a parameter costs time."""
_COLUMNS = ", ".join((*_PLAIN, *_JSON, "eta", "expires_at", "ready_at"))
_ALL_COLUMNS = ", ".join((_COLUMNS, *_BLOCKS, "held_at"))
JOB_COLUMNS = tuple(_ALL_COLUMNS.split(", "))
"""All columns that an enqueue of a job writes."""


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL text with `:name` parameters, and their values."""

    sql: str
    parameters: dict[str, Any]
    reads: bool = False
    """Whether its rows are wanted, rather than their number."""


MAX_SECONDS = 1e10
"""The longest time that a call may ask for."""

T = TypeVar("T")
Steps: TypeAlias = Generator[Statement, Any, T]
"""Statements of which some follow from what others found: each is answered with its rows, or with their number."""


def run_steps(
    steps: Steps[T], execute: Callable[[Statement], int], rows: Callable[[Statement], Sequence[Sequence[Any]]]
) -> T:
    """Run all of them on one connection; what they come to."""
    try:
        statement = next(steps)
        while True:
            statement = steps.send(rows(statement) if statement.reads else execute(statement))
    except StopIteration as end:
        value: T = end.value
        return value


_PARAMETER: Final = re.compile(r"(?<!:):([a-z_]+)\b")


@lru_cache(maxsize=256)
def pyformat(sql: str) -> str:
    """The same text with psycopg's `%(name)s` parameters; `::` casts are left alone."""
    return _PARAMETER.sub(r"%(\1)s", sql)


@lru_cache(maxsize=256)
def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """The same text with libpq's `$1` parameters, and their names in that order."""
    names = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
    return _PARAMETER.sub(lambda match: f"${names.index(match[1]) + 1}", sql), names


@lru_cache(maxsize=256)
def named(sql: str) -> str:
    """The way back: `:name` parameters for any driver, where a text is in psycopg's form."""
    cast = re.sub(r"%\((\w+)\)s::(\w+(?:\[\])?)", r"CAST(:\1 AS \2)", sql)
    return re.sub(r"%\((\w+)\)s", r":\1", cast)


class Inserts:
    """The enqueue statements of one dialect, for one jobs table."""

    def __init__(
        self, jobs: str, unique_keys: str, *, one: str, many: str, all_fields: str, same: str, hold: str, take: str
    ) -> None:
        """`one` and `many` write plain jobs, `all_fields` any number of any kind; `hold` and `take` are for keys."""
        self.one, self.many, self.all_fields, self.same, self.hold, self.take = (
            text.format(jobs=jobs, unique_keys=unique_keys) for text in (one, many, all_fields, same, hold, take)
        )

    def statements(self, jobs: Sequence[NewJob]) -> list[Statement]:
        """One INSERT for all of these jobs; ids that exist already are left as they are."""
        if not jobs:
            return []
        if not all(job.is_plain for job in jobs):
            return [Statement(self.all_fields, self.rows(jobs, ALL_FIELDS))]
        if len(jobs) == 1:
            return [Statement(self.one, self.row(jobs[0]))]
        return [Statement(self.many, self.rows(jobs))]

    def row(self, job: NewJob, fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        raise NotImplementedError

    def rows(self, jobs: Sequence[NewJob], fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        raise NotImplementedError

    def duplicates(self, jobs: Sequence[NewJob]) -> Statement:
        """Reads what `refuse_other_content` compares, of the rows that stood in the way of an INSERT."""
        raise NotImplementedError

    def hold_keys(self, jobs: Sequence[NewJob]) -> Statement:
        """Takes the unique keys of these jobs that nobody has, locks the others; reads each key and its holder."""
        raise NotImplementedError

    def take_keys(self, jobs: Sequence[NewJob], holders: Sequence[str]) -> Statement:
        """Takes those of these jobs' keys whose holders stand for nothing any more; reads the keys."""
        raise NotImplementedError

    def steps(self, jobs: Sequence[NewJob], *, check: bool = True) -> Steps[dict[str, str]]:
        """Enqueue the jobs; returns, for those not written for their unique keys, the ids that stand for them.

        Raises DuplicateTaskId for an id in use by other content, unless `check` is off.
        """
        taken: dict[str, str] = {}
        if any(job.unique_key is not None for job in jobs):
            taken = yield from unique_steps(self, jobs)
            jobs = [_with_its_key(job) for job in jobs if job.id not in taken]
        inserted = 0
        for statement in self.statements(jobs):
            inserted += yield statement
        if inserted < len(jobs) and check:
            refuse_other_content(jobs, (yield self.duplicates(jobs)))
        return taken


def _with_its_key(job: NewJob) -> NewJob:
    """The job as its row is to be: its key may have another job by the time when an operator retries this one."""
    if job.unique_key is None:
        return job
    return job._replace(options=with_options(job.options, **{UNIQUE_OPTION: [job.unique_key, job.unique_seconds]}))


def key_in(options: str | None) -> tuple[str, float | None] | None:
    """The unique key that a row remembers, and for how long a success stands; None where it has none that can be."""
    if options is None or f'"{UNIQUE_OPTION}"' not in options:
        return None
    match json_object(options).get(UNIQUE_OPTION):
        case [str(key), None] if _can_be_key(key):
            return key, None
        case [str(key), int() | float() as seconds] if _can_be_key(key) and 0 < seconds <= MAX_SECONDS:
            return None if isinstance(seconds, bool) else (key, float(seconds))
    return None


def _can_be_key(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME_LENGTH and bool(storable([text]))


def unique_steps(inserts: Inserts, jobs: Sequence[NewJob], *, again: bool = False) -> Steps[dict[str, str]]:
    """Take the unique keys of these jobs; for each job whose key is another's, the id of that one.

    `again`: the jobs have ended and are to run again. One that still has its key begins a new window of it.

    Two statements, because of what the first may wait for: a rival's transaction that has the key and
    is not committed yet. The snapshot of a statement is older than its wait, so the rival's job could
    not be seen by it, and the key would look like one that nobody uses.
    """
    first: dict[str, NewJob] = {}
    double: dict[str, NewJob] = {}
    for job in jobs:
        if job.unique_key is not None and first.setdefault(job.unique_key, job).id != job.id:
            double[job.id] = first[job.unique_key]
    # In the order of keys, in which all batches lock them.
    wanted = [first[key] for key in sorted(first)]
    holders: dict[str | None, str] = {row[0]: row[1] for row in (yield inserts.hold_keys(wanted))}
    others = [job for job in wanted if holders[job.unique_key] != job.id]
    contested = wanted if again else others
    taken: dict[str, str] = {}
    if contested:
        found = yield inserts.take_keys(contested, [holders[job.unique_key] for job in contested])
        won = {row[0] for row in found}
        taken = {job.id: holders[job.unique_key] for job in others if job.unique_key not in won}
    return taken | {job_id: taken.get(other.id, other.id) for job_id, other in double.items()}


def refuse_other_content(jobs: Sequence[NewJob], rows: Iterable[Sequence[Any]]) -> None:
    """Raise DuplicateTaskId where a row of the same id is another call; the same call is no error.

    Nor is a job that was revoked before it was enqueued: its row keeps it from running. What a job may have changed
    since it was enqueued is not compared: its arguments once it was retried, and all of it once it was replaced.
    """
    wanted = {job.id: job for job in jobs}
    for job_id, task, args, kwargs, content, retried, replaced in rows:
        job = wanted[job_id]
        same = (args, kwargs, None if content is None else bytes(content)) == (job.args, job.kwargs, job.content)
        if not (task == NOT_ENQUEUED or replaced or (task == job.task and (same or retried))):
            raise DuplicateTaskId(
                f"task id {job_id!r} is in use by a job of {task} with other content: "
                "leave task_id out, or choose one that is unique for each call"
            )


# An operator's `jobs retry` sets the number of retries to zero, and leaves the arguments of the last one.
_CHANGES: Final = f"""retries > 0 OR options ->> '{RETRIES_OPTION}' IS NOT NULL, options ->> '{REPLACED}' IS NOT NULL"""


# PostgreSQL ------------------------------------------------------------------------------------

_PG_ETA = "coalesce(d.eta, now() + make_interval(secs => d.delay_seconds))"
_PG_READY = f"greatest({_PG_ETA}, now())"
_PG_VALUES = f"""{", ".join(f"d.{name}" for name in _PLAIN)},
       d.args::json, d.kwargs::json, d.headers::json, d.options::json, {_PG_ETA},
       coalesce(d.expires_at, now() + make_interval(secs => d.expires_seconds))"""
_PG_SELECT = f"""
INSERT INTO {{jobs}} ({_COLUMNS})
SELECT {_PG_VALUES}, {_PG_READY}
FROM {{source}}
ON CONFLICT DO NOTHING"""
_PG_SELECT_ALL = f"""
INSERT INTO {{jobs}} ({_ALL_COLUMNS})
SELECT {_PG_VALUES}, CASE WHEN d.blocked_reason IS NULL THEN {_PG_READY} END,
       {", ".join(f"d.{name}" for name in _BLOCKS)},
       CASE d.blocked_reason WHEN '{BLOCKED_BY_LIMIT}' THEN {_PG_READY} END
FROM {{source}}
ON CONFLICT DO NOTHING"""

_PG_TYPES = {
    "priority": "smallint",
    "content": "bytea",
    "eta": "timestamptz",
    "expires_at": "timestamptz",
    "delay_seconds": "float8",
    "expires_seconds": "float8",
    "waits_for": "int",
    "inputs": "boolean",
    "successors": "boolean",
}


def _pg_type(name: str) -> str:
    return _PG_TYPES.get(name, "text")


_PG_ONE = _PG_SELECT.replace(
    "{source}",
    "(SELECT " + ", ".join(f"CAST(:{name} AS {_pg_type(name)}) AS {name}" for name in FIELDS) + ") AS d",
)


def _pg_source(fields: Sequence[str]) -> str:
    arrays = ", ".join(f"CAST(:{name} AS {_pg_type(name)}[])" for name in fields)
    return f"unnest({arrays}) AS d({', '.join(fields)})"


_PG_MANY = _PG_SELECT.replace("{source}", _pg_source(FIELDS))
_PG_ALL = _PG_SELECT_ALL.replace("{source}", _pg_source(ALL_FIELDS))
_PG_SAME = (
    f"SELECT id, task, CAST(args AS text), CAST(kwargs AS text), content, {_CHANGES} FROM {{jobs}}"
    ' WHERE id = ANY(CAST(:ids AS text[]) COLLATE "C")'
)


_PG_UNTIL = "now() + make_interval(secs => d.seconds)"
_PG_HOLD = f"""
INSERT INTO {{unique_keys}} AS held (key, job_id, until)
SELECT d.key, d.id, {_PG_UNTIL}
FROM unnest(CAST(:keys AS text[]), CAST(:ids AS text[]), CAST(:seconds AS float8[])) AS d(key, id, seconds)
ON CONFLICT (key) DO UPDATE SET job_id = held.job_id
RETURNING key, job_id"""
_PG_TAKE = f"""
UPDATE {{unique_keys}} AS held SET job_id = d.id, until = {_PG_UNTIL}
FROM unnest(CAST(:keys AS text[]), CAST(:ids AS text[]), CAST(:seconds AS float8[]), CAST(:holders AS text[]))
    AS d(key, id, seconds, holder)
WHERE held.key = d.key COLLATE "C" AND held.job_id = d.holder COLLATE "C"
  AND (held.job_id = d.id COLLATE "C" OR NOT EXISTS (
    SELECT FROM {{jobs}} j WHERE j.id = held.job_id
      AND (j.finished_at IS NULL OR (j.status = 'SUCCESS' AND held.until > now()))))
RETURNING held.key"""


class PostgresInserts(Inserts):
    def __init__(self, jobs: str, unique_keys: str) -> None:
        super().__init__(
            jobs, unique_keys, one=_PG_ONE, many=_PG_MANY, all_fields=_PG_ALL, same=_PG_SAME,
            hold=_PG_HOLD, take=_PG_TAKE,
        )  # fmt: skip

    def row(self, job: NewJob, fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        return {name: getattr(job, name) for name in fields}

    def rows(self, jobs: Sequence[NewJob], fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        # Two batches that share ids wait for each other's rows: in one order, they cannot deadlock.
        jobs = sorted(jobs, key=attrgetter("id"))
        return {name: [getattr(job, name) for job in jobs] for name in fields}

    def duplicates(self, jobs: Sequence[NewJob]) -> Statement:
        return Statement(self.same, {"ids": [job.id for job in jobs]}, reads=True)

    def hold_keys(self, jobs: Sequence[NewJob]) -> Statement:
        return Statement(self.hold, self._keys(jobs), reads=True)

    def take_keys(self, jobs: Sequence[NewJob], holders: Sequence[str]) -> Statement:
        return Statement(self.take, self._keys(jobs) | {"holders": list(holders)}, reads=True)

    def _keys(self, jobs: Sequence[NewJob]) -> dict[str, Any]:
        return {
            "keys": [job.unique_key for job in jobs],
            "ids": [job.id for job in jobs],
            "seconds": [job.unique_seconds for job in jobs],
        }


# SQLite ----------------------------------------------------------------------------------------

SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now')"


def sqlite_time(value: datetime | None) -> str | None:
    """An aware datetime in the form of SQLite's tables, rounded up to the millisecond (never earlier)."""
    if value is None:
        return None
    utc = value.astimezone(UTC).replace(tzinfo=None)
    utc += timedelta(microseconds=-utc.microsecond % 1000)
    return utc.isoformat(" ", "milliseconds")


def _later(seconds: str) -> str:
    # strftime(..., NULL) is NULL, so no seconds means no time.
    return f"strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds')"


_LITE_READY = f"max(coalesce(d.eta, {_later('d.delay_seconds')}, {SQLITE_NOW}), {SQLITE_NOW})"
_LITE_VALUES = f"""{", ".join(f"d.{name}" for name in (*_PLAIN, *_JSON))},
       coalesce(d.eta, {_later("d.delay_seconds")}),
       coalesce(d.expires_at, {_later("d.expires_seconds")})"""
_LITE_SELECT = f"""
INSERT INTO {{jobs}} ({_COLUMNS})
SELECT {_LITE_VALUES}, {_LITE_READY}
FROM {{source}}
WHERE true
ON CONFLICT DO NOTHING"""
_LITE_SELECT_ALL = f"""
INSERT INTO {{jobs}} ({_ALL_COLUMNS})
SELECT {_LITE_VALUES}, CASE WHEN d.blocked_reason IS NULL THEN {_LITE_READY} END,
       {", ".join(f"d.{name}" for name in _BLOCKS)},
       CASE d.blocked_reason WHEN '{BLOCKED_BY_LIMIT}' THEN {_LITE_READY} END
FROM {{source}}
WHERE true
ON CONFLICT DO NOTHING"""


def _lite_source(fields: Sequence[str]) -> str:
    """One JSON array carries all rows: one statement, whatever the number."""
    columns = ", ".join(f"json_extract(value, '$[{i}]') AS {name}" for i, name in enumerate(fields))
    return f"(SELECT {columns} FROM json_each(:rows)) AS d"


_LITE_ONE = _LITE_SELECT.replace("{source}", "(SELECT " + ", ".join(f":{name} AS {name}" for name in FIELDS) + ") AS d")
_LITE_ALL_ONE = _LITE_SELECT_ALL.replace(
    "{source}", "(SELECT " + ", ".join(f":{name} AS {name}" for name in ALL_FIELDS) + ") AS d"
)
_LITE_MANY = _LITE_SELECT.replace("{source}", _lite_source(FIELDS))
_LITE_ALL = _LITE_SELECT_ALL.replace("{source}", _lite_source(ALL_FIELDS))
_LITE_SAME = f"""
SELECT id, task, args, kwargs, content, {_CHANGES} FROM {{jobs}} WHERE id IN (SELECT value FROM json_each(:ids))"""


_LITE_UNTIL = _later("json_extract(d.value, '$[2]')")
_LITE_HOLD = f"""
INSERT INTO {{unique_keys}} AS held (key, job_id, until)
SELECT json_extract(d.value, '$[0]'), json_extract(d.value, '$[1]'), {_LITE_UNTIL}
FROM json_each(:rows) AS d
WHERE true
ON CONFLICT (key) DO UPDATE SET job_id = held.job_id
RETURNING key, job_id"""
_LITE_TAKE = f"""
UPDATE {{unique_keys}} AS held SET job_id = json_extract(d.value, '$[1]'), until = {_LITE_UNTIL}
FROM json_each(:rows) AS d
WHERE held.key = json_extract(d.value, '$[0]') AND held.job_id = json_extract(d.value, '$[3]')
  AND (held.job_id = json_extract(d.value, '$[1]') OR NOT EXISTS (
    SELECT 1 FROM {{jobs}} j WHERE j.id = held.job_id
      AND (j.finished_at IS NULL OR (j.status = 'SUCCESS' AND held.until > {SQLITE_NOW}))))
RETURNING key"""


class SqliteInserts(Inserts):
    def __init__(self, jobs: str, unique_keys: str) -> None:
        super().__init__(
            jobs, unique_keys, one=_LITE_ONE, many=_LITE_MANY, all_fields=_LITE_ALL, same=_LITE_SAME,
            hold=_LITE_HOLD, take=_LITE_TAKE,
        )  # fmt: skip
        self._all_fields_of_one = _LITE_ALL_ONE.format(jobs=jobs)

    def row(self, job: NewJob, fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        values = {name: getattr(job, name) for name in fields}
        values["eta"], values["expires_at"] = sqlite_time(job.eta), sqlite_time(job.expires_at)
        return values

    def statements(self, jobs: Sequence[NewJob]) -> list[Statement]:
        # JSON cannot carry bytes: jobs in another serializer go row by row.
        if any(job.content is not None for job in jobs):
            return [Statement(self._all_fields_of_one, self.row(job, ALL_FIELDS)) for job in jobs]
        return super().statements(jobs)

    def rows(self, jobs: Sequence[NewJob], fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        rows = [list(self.row(job, fields).values()) for job in jobs]
        return {"rows": json.dumps(rows, ensure_ascii=False)}

    def duplicates(self, jobs: Sequence[NewJob]) -> Statement:
        return Statement(self.same, {"ids": json.dumps([job.id for job in jobs])}, reads=True)

    def hold_keys(self, jobs: Sequence[NewJob]) -> Statement:
        rows = [(job.unique_key, job.id, job.unique_seconds) for job in jobs]
        return Statement(self.hold, {"rows": json.dumps(rows)}, reads=True)

    def take_keys(self, jobs: Sequence[NewJob], holders: Sequence[str]) -> Statement:
        keys = zip(jobs, holders, strict=True)
        rows = [(job.unique_key, job.id, job.unique_seconds, holder) for job, holder in keys]
        return Statement(self.take, {"rows": json.dumps(rows)}, reads=True)
