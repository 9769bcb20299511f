"""The INSERT statements of PostgreSQL: any number of jobs are one array for each column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Final

from dbqueue.jobs import BLOCKED_BY_LIMIT, NewJob
from dbqueue.store.inserts import (
    ALL_COLUMNS,
    ALL_FIELDS,
    BLOCKS,
    CHANGES,
    COLUMNS,
    EDGE_COLUMNS,
    FIELDS,
    PLAIN,
    Inserts,
    in_workflow,
)
from dbqueue.store.statements import Statement
from dbqueue.store.steps import Steps
from dbqueue.workflows import Edge

_ETA = "coalesce(d.eta, now() + make_interval(secs => d.delay_seconds))"
_READY = f"greatest({_ETA}, now())"
_VALUES = f"""{", ".join(f"d.{name}" for name in PLAIN)},
       d.args::json, d.kwargs::json, d.headers::json, d.options::json, {_ETA},
       coalesce(d.expires_at, now() + make_interval(secs => d.expires_seconds))"""
_SELECT = f"""
INSERT INTO {{jobs}} ({COLUMNS})
SELECT {_VALUES}, {_READY}
FROM {{source}}
ON CONFLICT DO NOTHING"""
_SELECT_ALL = f"""
INSERT INTO {{jobs}} ({ALL_COLUMNS})
SELECT {_VALUES}, CASE WHEN d.blocked_reason IS NULL THEN {_READY} END,
       {", ".join(f"d.{name}" for name in BLOCKS)},
       CASE d.blocked_reason WHEN '{BLOCKED_BY_LIMIT}' THEN {_READY} END
FROM {{source}}
ON CONFLICT DO NOTHING"""

_TYPES = {
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


def _type(name: str) -> str:
    return _TYPES.get(name, "text")


_ONE = _SELECT.replace(
    "{source}",
    "(SELECT " + ", ".join(f"CAST(:{name} AS {_type(name)}) AS {name}" for name in FIELDS) + ") AS d",
)


def _source(fields: Sequence[str]) -> str:
    arrays = ", ".join(f"CAST(:{name} AS {_type(name)}[])" for name in fields)
    return f"unnest({arrays}) AS d({', '.join(fields)})"


_MANY = _SELECT.replace("{source}", _source(FIELDS))
_ALL = _SELECT_ALL.replace("{source}", _source(ALL_FIELDS))
_SAME = (
    f"SELECT id, task, CAST(args AS text), CAST(kwargs AS text), content, {CHANGES} FROM {{jobs}}"
    ' WHERE id = ANY(CAST(:ids AS text[]) COLLATE "C")'
)


_UNTIL = "now() + make_interval(secs => d.seconds)"
_HOLD = f"""
INSERT INTO {{unique_keys}} AS held (key, job_id, until)
SELECT d.key, d.id, {_UNTIL}
FROM unnest(CAST(:keys AS text[]), CAST(:ids AS text[]), CAST(:seconds AS float8[])) AS d(key, id, seconds)
ON CONFLICT (key) DO UPDATE SET job_id = held.job_id
RETURNING key, job_id"""
_TAKE = f"""
UPDATE {{unique_keys}} AS held SET job_id = d.id, until = {_UNTIL}
FROM unnest(CAST(:keys AS text[]), CAST(:ids AS text[]), CAST(:seconds AS float8[]), CAST(:holders AS text[]))
    AS d(key, id, seconds, holder)
WHERE held.key = d.key COLLATE "C" AND held.job_id = d.holder COLLATE "C"
  AND (held.job_id = d.id COLLATE "C" OR NOT EXISTS (
    SELECT FROM {{jobs}} j WHERE j.id = held.job_id
      AND (j.finished_at IS NULL OR (j.status = 'SUCCESS' AND held.until > now()))))
RETURNING held.key"""

# One statement for all, so that a workflow costs one round trip more than a job, if any.
_JOB: Final = in_workflow(_SELECT_ALL).replace(":workflow_id", "CAST(:workflow_id AS text)")
_FIRST: Final = _JOB.replace("{source}", "source d WHERE d.id = CAST(:first AS text)")
_REST: Final = _JOB.replace("{source}", "source d WHERE d.id <> CAST(:first AS text) AND EXISTS (SELECT 1 FROM first)")
_EDGES: Final = f"unnest({', '.join(f'CAST(:{name} AS text[])' for name in EDGE_COLUMNS)})"
_LINK: Final = f"""
INSERT INTO {{edges}} ({", ".join(EDGE_COLUMNS)})
SELECT * FROM {_EDGES} ON CONFLICT DO NOTHING"""
_NEW: Final = "(SELECT count(*) FROM first) + (SELECT count(*) FROM rest)"
_WORKFLOW: Final = f"""
WITH source AS MATERIALIZED (
SELECT * FROM {_source(ALL_FIELDS)}
), first AS ({_FIRST}
RETURNING 1
), rest AS ({_REST}
RETURNING 1
), linked AS ({_LINK.replace("ON CONFLICT", f"WHERE {_NEW} = CAST(:jobs AS bigint) ON CONFLICT")}
)
SELECT {_NEW}"""


class PostgresInserts(Inserts):
    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__(names, one=_ONE, many=_MANY, all_fields=_ALL, same=_SAME)
        self._hold, self._take, self._workflow, self._link = map(self.text, (_HOLD, _TAKE, _WORKFLOW, _LINK))

    def row(self, job: NewJob, fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        return {name: getattr(job, name) for name in fields}

    def rows(self, jobs: Sequence[NewJob], fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        # Two batches that share ids wait for each other's rows: in one order, they cannot deadlock.
        jobs = sorted(jobs, key=attrgetter("id"))
        return {name: [getattr(job, name) for job in jobs] for name in fields}

    def duplicates(self, jobs: Sequence[NewJob]) -> Statement:
        return Statement(self.same, {"ids": [job.id for job in jobs]})

    def hold_keys(self, jobs: Sequence[NewJob]) -> Statement:
        return Statement(self._hold, self._keys(jobs))

    def take_keys(self, jobs: Sequence[NewJob], holders: Sequence[str]) -> Statement:
        return Statement(self._take, self._keys(jobs) | {"holders": list(holders)})

    def _keys(self, jobs: Sequence[NewJob]) -> dict[str, Any]:
        return {
            "keys": [job.unique_key for job in jobs],
            "ids": [job.id for job in jobs],
            "seconds": [job.unique_seconds for job in jobs],
        }

    def workflow(self, jobs: Sequence[NewJob], edges: Sequence[Edge], *, first: NewJob, workflow: str) -> Steps[int]:
        parameters = self.rows(jobs, ALL_FIELDS) | _columns(edges)
        parameters |= {"first": first.id, "workflow_id": workflow, "jobs": len(jobs)}
        return int((yield Statement(self._workflow, parameters)).rows[0][0])

    def link(self, edges: Sequence[Edge]) -> Statement:
        return Statement(self._link, _columns(edges))


def _columns(edges: Sequence[Edge]) -> dict[str, list[str | None]]:
    return {name: [edge[i] for edge in edges] for i, name in enumerate(EDGE_COLUMNS)}
