"""Writing a workflow: its jobs and its edges, whole or not at all.

The first job goes before all others, and they are written only if it was: who finds it there
already knows that the workflow was written before, whatever has become of its other jobs since
(an errback that cannot run any more is deleted, and must not come back). Edges are written only
if all jobs were: between jobs that were there before they would be somebody else's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from dbqueue.jobs import NewJob
from dbqueue.store import inserts
from dbqueue.store.inserts import ALL_FIELDS, Inserts, PostgresInserts, Statement
from dbqueue.store.steps import Steps
from dbqueue.workflows import Edge

_EDGE: Final = ("predecessor", "successor", "event", "place")


def insert(
    writer: Inserts,
    tables: dict[str, str],
    jobs: Sequence[NewJob],
    edges: Sequence[Edge],
    *,
    first: NewJob,
    workflow: str,
) -> Steps[int]:
    """Write them as rows of this workflow; how many jobs are new: none, where `first` was there before.

    The edges are written with them if all are new, and else not at all: see `link`.
    """
    write = _insert_postgres if isinstance(writer, PostgresInserts) else _insert_sqlite
    return (yield from write(writer, tables, jobs, edges, first, workflow))


def link(writer: Inserts, tables: dict[str, str], edges: Sequence[Edge]) -> Statement:
    """The statement that writes edges alone."""
    if isinstance(writer, PostgresInserts):
        return Statement(_PG_LINK.format(**tables), _columns(edges))
    return Statement(_LITE_LINK.format(**tables), {"edges": json.dumps(list(edges), ensure_ascii=False)})


def _in_workflow(select: str) -> str:
    """An INSERT of jobs, that writes their workflow too."""
    columns, rest = select.split(")\nSELECT", 1)
    values, source = rest.split("\nFROM {source}", 1)
    return f"{columns}, workflow_id)\nSELECT{values},\n       :workflow_id\nFROM {{source}}{source}"


# PostgreSQL: one statement for all, so that a workflow costs one round trip more than a job, if any.
_PG_JOB: Final = _in_workflow(inserts._PG_SELECT_ALL).replace(":workflow_id", "CAST(:workflow_id AS text)")
_PG_FIRST: Final = _PG_JOB.replace("{source}", "source d WHERE d.id = CAST(:first AS text)")
_PG_REST: Final = _PG_JOB.replace(
    "{source}", "source d WHERE d.id <> CAST(:first AS text) AND EXISTS (SELECT 1 FROM first)"
)
_PG_EDGES: Final = f"unnest({', '.join(f'CAST(:{name} AS text[])' for name in _EDGE)})"
_PG_LINK: Final = f"""
INSERT INTO {{edges}} ({", ".join(_EDGE)})
SELECT * FROM {_PG_EDGES} ON CONFLICT DO NOTHING"""
_PG_NEW: Final = "(SELECT count(*) FROM first) + (SELECT count(*) FROM rest)"
_PG_WORKFLOW: Final = f"""
WITH source AS MATERIALIZED (
SELECT * FROM {inserts._pg_source(ALL_FIELDS)}
), first AS ({_PG_FIRST}
RETURNING 1
), rest AS ({_PG_REST}
RETURNING 1
), linked AS ({_PG_LINK.replace("ON CONFLICT", f"WHERE {_PG_NEW} = CAST(:jobs AS bigint) ON CONFLICT")}
)
SELECT {_PG_NEW}"""


def _columns(edges: Sequence[Edge]) -> dict[str, list[str | None]]:
    return {name: [edge[i] for edge in edges] for i, name in enumerate(_EDGE)}


def _insert_postgres(
    writer: Inserts, tables: dict[str, str], jobs: Sequence[NewJob], edges: Sequence[Edge], first: NewJob, workflow: str
) -> Steps[int]:
    parameters = writer.rows(jobs, ALL_FIELDS)
    parameters |= _columns(edges)
    parameters |= {"first": first.id, "workflow_id": workflow, "jobs": len(jobs)}
    reply = yield Statement(_PG_WORKFLOW.format(**tables), parameters)
    return int(reply.rows[0][0])


# SQLite: statements cost no round trips, and bytes travel in no list.
_LITE_ONE: Final = _in_workflow(inserts._LITE_SELECT_ALL).replace(
    "{source}", "(SELECT " + ", ".join(f":{name} AS {name}" for name in ALL_FIELDS) + ") AS d"
)
_LITE_MANY: Final = _in_workflow(inserts._LITE_SELECT_ALL).replace("{source}", inserts._lite_source(ALL_FIELDS))
_LITE_LINK: Final = f"""
INSERT INTO {{edges}} ({", ".join(_EDGE)})
SELECT {", ".join(f"json_extract(value, '$[{i}]')" for i in range(len(_EDGE)))} FROM json_each(:edges)
WHERE true
ON CONFLICT DO NOTHING"""


def _insert_sqlite(
    writer: Inserts, tables: dict[str, str], jobs: Sequence[NewJob], edges: Sequence[Edge], first: NewJob, workflow: str
) -> Steps[int]:
    one, many = _LITE_ONE.format(**tables), _LITE_MANY.format(**tables)
    named = {"workflow_id": workflow}
    count = (yield Statement(one, writer.row(first, ALL_FIELDS) | named)).changed
    if not count:
        return 0
    rest = [job for job in jobs if job.id != first.id]
    if any(job.content is not None for job in rest):
        for job in rest:
            count += (yield Statement(one, writer.row(job, ALL_FIELDS) | named)).changed
    elif rest:
        count += (yield Statement(many, writer.rows(rest, ALL_FIELDS) | named)).changed
    if count == len(jobs):
        yield link(writer, tables, edges)
    return count
