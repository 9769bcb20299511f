"""The INSERT statements of SQLite: any number of jobs are one list in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    JSON,
    PLAIN,
    Inserts,
    in_workflow,
)
from dbqueue.store.statements import Statement
from dbqueue.store.steps import Steps
from dbqueue.store.values import sqlite_time
from dbqueue.workflows import Edge

NOW = "strftime('%Y-%m-%d %H:%M:%f', 'now')"


def _later(seconds: str) -> str:
    # strftime(..., NULL) is NULL, so no seconds means no time.
    return f"strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds')"


_READY = f"max(coalesce(d.eta, {_later('d.delay_seconds')}, {NOW}), {NOW})"
_VALUES = f"""{", ".join(f"d.{name}" for name in (*PLAIN, *JSON))},
       coalesce(d.eta, {_later("d.delay_seconds")}),
       coalesce(d.expires_at, {_later("d.expires_seconds")})"""
_SELECT = f"""
INSERT INTO {{jobs}} ({COLUMNS})
SELECT {_VALUES}, {_READY}
FROM {{source}}
WHERE true
ON CONFLICT DO NOTHING"""
_SELECT_ALL = f"""
INSERT INTO {{jobs}} ({ALL_COLUMNS})
SELECT {_VALUES}, CASE WHEN d.blocked_reason IS NULL THEN {_READY} END,
       {", ".join(f"d.{name}" for name in BLOCKS)},
       CASE d.blocked_reason WHEN '{BLOCKED_BY_LIMIT}' THEN {_READY} END
FROM {{source}}
WHERE true
ON CONFLICT DO NOTHING"""


def _one(fields: Sequence[str]) -> str:
    return "(SELECT " + ", ".join(f":{name} AS {name}" for name in fields) + ") AS d"


def _source(fields: Sequence[str]) -> str:
    """One JSON array carries all rows: one statement, whatever the number."""
    columns = ", ".join(f"json_extract(value, '$[{i}]') AS {name}" for i, name in enumerate(fields))
    return f"(SELECT {columns} FROM json_each(:rows)) AS d"


_ONE = _SELECT.replace("{source}", _one(FIELDS))
_ALL_ONE = _SELECT_ALL.replace("{source}", _one(ALL_FIELDS))
_MANY = _SELECT.replace("{source}", _source(FIELDS))
_ALL = _SELECT_ALL.replace("{source}", _source(ALL_FIELDS))
_SAME = f"""
SELECT id, task, args, kwargs, content, {CHANGES} FROM {{jobs}} WHERE id IN (SELECT value FROM json_each(:ids))"""


_UNTIL = _later("json_extract(d.value, '$[2]')")
_HOLD = f"""
INSERT INTO {{unique_keys}} AS held (key, job_id, until)
SELECT json_extract(d.value, '$[0]'), json_extract(d.value, '$[1]'), {_UNTIL}
FROM json_each(:rows) AS d
WHERE true
ON CONFLICT (key) DO UPDATE SET job_id = held.job_id
RETURNING key, job_id"""
_TAKE = f"""
UPDATE {{unique_keys}} AS held SET job_id = json_extract(d.value, '$[1]'), until = {_UNTIL}
FROM json_each(:rows) AS d
WHERE held.key = json_extract(d.value, '$[0]') AND held.job_id = json_extract(d.value, '$[3]')
  AND (held.job_id = json_extract(d.value, '$[1]') OR NOT EXISTS (
    SELECT 1 FROM {{jobs}} j WHERE j.id = held.job_id
      AND (j.finished_at IS NULL OR (j.status = 'SUCCESS' AND held.until > {NOW}))))
RETURNING key"""

# Statements cost no round trips, and bytes travel in no list.
_WORKFLOW_ONE: Final = in_workflow(_SELECT_ALL).replace("{source}", _one(ALL_FIELDS))
_WORKFLOW_MANY: Final = in_workflow(_SELECT_ALL).replace("{source}", _source(ALL_FIELDS))
_LINK: Final = f"""
INSERT INTO {{edges}} ({", ".join(EDGE_COLUMNS)})
SELECT {", ".join(f"json_extract(value, '$[{i}]')" for i in range(len(EDGE_COLUMNS)))} FROM json_each(:edges)
WHERE true
ON CONFLICT DO NOTHING"""


class SqliteInserts(Inserts):
    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__(names, one=_ONE, many=_MANY, all_fields=_ALL, same=_SAME)
        self._hold, self._take, self._link = map(self.text, (_HOLD, _TAKE, _LINK))
        self._all_fields_of_one = self.text(_ALL_ONE)
        self._workflow_one, self._workflow_many = map(self.text, (_WORKFLOW_ONE, _WORKFLOW_MANY))

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
        return Statement(self.same, {"ids": json.dumps([job.id for job in jobs])})

    def hold_keys(self, jobs: Sequence[NewJob]) -> Statement:
        rows = [(job.unique_key, job.id, job.unique_seconds) for job in jobs]
        return Statement(self._hold, {"rows": json.dumps(rows)})

    def take_keys(self, jobs: Sequence[NewJob], holders: Sequence[str]) -> Statement:
        keys = zip(jobs, holders, strict=True)
        rows = [(job.unique_key, job.id, job.unique_seconds, holder) for job, holder in keys]
        return Statement(self._take, {"rows": json.dumps(rows)})

    def workflow(self, jobs: Sequence[NewJob], edges: Sequence[Edge], *, first: NewJob, workflow: str) -> Steps[int]:
        named = {"workflow_id": workflow}
        count = (yield Statement(self._workflow_one, self.row(first, ALL_FIELDS) | named)).changed
        if not count:
            return 0
        rest = [job for job in jobs if job.id != first.id]
        if any(job.content is not None for job in rest):
            for job in rest:
                count += (yield Statement(self._workflow_one, self.row(job, ALL_FIELDS) | named)).changed
        elif rest:
            count += (yield Statement(self._workflow_many, self.rows(rest, ALL_FIELDS) | named)).changed
        if count == len(jobs):
            yield self.link(edges)
        return count

    def link(self, edges: Sequence[Edge]) -> Statement:
        return Statement(self._link, {"edges": json.dumps(list(edges), ensure_ascii=False)})
