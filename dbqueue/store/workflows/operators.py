"""What an operator does to a workflow: lets what has failed run again, or calls all of it off."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final, TypeAlias

from dbqueue.codec import describe_exception
from dbqueue.errors import TaskRevokedError
from dbqueue.jobs import NOT_ENQUEUED
from dbqueue.store.base import Store
from dbqueue.store.steps import Steps
from dbqueue.store.workflows.failure import EDGES_INTO, LOCK_TOGETHER
from dbqueue.store.workflows.removing import LOCK_WORKFLOWS
from dbqueue.store.workflows.words import statement

Rows: TypeAlias = Sequence[Sequence[Any]]

# An errback, and what waits for it, is not what failed.
_BESIDE: Final = """
    SELECT e.successor FROM {jobs} b {each}{edges} {into_b}
    WHERE b.workflow_id = :workflow AND e.event = 'error'
  UNION
    SELECT e.successor FROM beside b {each}{edges} {out_of_b}"""

NOT_SUCCEEDED: Final = f"""
WITH RECURSIVE beside(id) AS ({_BESIDE}
)
SELECT id FROM {{jobs}}
WHERE workflow_id = :workflow AND status IN ('FAILURE', 'REVOKED') AND id NOT IN (SELECT id FROM beside)"""

# Up to what must succeed first, and down to what could not run because of it.
TO_REPEAT: Final = """
WITH RECURSIVE above(id) AS (
    SELECT id{c} FROM {given}
  UNION
    SELECT p.id FROM above b {each}{edges} {into_b} {each}{jobs} {at_start}
    WHERE e.event = 'success' AND p.status IN ('FAILURE', 'REVOKED')
), below(id) AS (
    SELECT id FROM above
  UNION
    SELECT s.id FROM below b {each}{edges} {out_of_b} {each}{jobs} {at_end}
    WHERE e.event = 'success' AND s.status IN ('FAILURE', 'REVOKED') AND s.worker IS NULL
)
SELECT id FROM below"""

# What must not run again, of these jobs: in this order
# - what was revoked before it was enqueued: it has nothing to run;
# - what takes a result that was deleted: it would run without it, or with that of a later job of the same id;
# - what comes before a job that runs, or an errback that is yet to be told of its failure: they need it as it is;
# - an errback that was told of a failure which is none any more, or that may come to be deleted at this moment;
# - and what waits for these, but for what has succeeded once: it has left a result of its own.
NEVER: Final = f"""
WITH RECURSIVE never(id) AS (
    SELECT id FROM {{jobs}} WHERE id {{among}} AND task = '{NOT_ENQUEUED}'
  UNION
    SELECT s.id FROM {{given}} {{each}}{{edges}} {{into_b}} {{each}}{{jobs}} {{at_end}}
    {{each_or_none}}{{jobs}} {{at_start_or_none}}
    WHERE e.place IS NOT NULL AND s.inputs AND (e.event = 'success' OR e.predecessor = s.parent_id)
      AND (p.workflow_id = s.workflow_id) IS NOT TRUE
  UNION
    SELECT e.predecessor{{c}} FROM {{given}} {{each}}{{edges}} {{out_of_b}} {{each}}{{jobs}} {{at_end}}
    WHERE s.status = 'STARTED' OR (e.event = 'error' AND e.place IS NOT NULL AND e.predecessor = s.parent_id
      AND s.status IN ('PENDING', 'RETRY') AND coalesce(s.blocked_reason, '') <> 'predecessors')
  UNION
    SELECT s.id FROM {{given}} {{each}}{{edges}} {{into_b}} {{each}}{{jobs}} {{at_end}} {{each}}{{jobs}} {{at_start}}
    WHERE e.event = 'error' AND ((e.predecessor = s.parent_id AND p.status IN ('SUCCESS', 'STARTED'))
      OR (p.status = 'STARTED' AND coalesce((SELECT q.status FROM {{jobs}} q WHERE q.id = s.parent_id), '')
          NOT IN ('FAILURE', 'REVOKED')))
  UNION
    SELECT e.successor FROM never b {{each}}{{edges}} {{out_of_b}}
    WHERE e.event = 'success' AND (SELECT n.status FROM {{jobs}} n WHERE n.id = b.id) <> 'SUCCESS'
)
SELECT id FROM never"""

FAILED_BEFORE: Final = """
SELECT e.predecessor, e.successor FROM {given} {each}{edges} {into_b} {each}{jobs} {at_start}
WHERE e.event = 'success' AND p.status IN ('FAILURE', 'REVOKED')"""

# Errbacks, with what each waits for; and whether that can still fail, or is the failure that it was told of. One that
# has run was told of one, though the row may be gone by now, and with it the edge. A later job of that id is another.
TOLD: Final = """
SELECT s.id, e.predecessor, s.worker IS NOT NULL OR p.workflow_id = s.workflow_id
    AND (p.finished_at IS NULL OR p.id = s.parent_id AND p.status IN ('FAILURE', 'REVOKED'))
FROM {given} {each}{edges} {into_b} {each}{jobs} {at_end} {each_or_none}{jobs} {at_start_or_none}
WHERE e.event = 'error'"""

ALL_SUCCESSORS: Final = "SELECT e.successor FROM {given} {each}{edges} {out_of_b}"

# Those too that were let go, and do not run now.
WAITING_SUCCESSORS: Final = """
SELECT s.id FROM {given} {each}{edges} {out_of_b} {each}{jobs} {at_end}
WHERE s.blocked_reason = 'predecessors' OR (e.event = 'success' AND s.status IN ('PENDING', 'RETRY'))"""

# A predecessor whose row is gone, and which this one takes nothing of, had succeeded. An errback that has been told of
# a failure waits for no other.
RECOUNT: Final = """
UPDATE {jobs}
SET waits_for = c.awaited,
    blocked_reason = CASE WHEN c.awaited > 0 THEN 'predecessors' ELSE blocked_reason END,
    ready_at = CASE WHEN c.awaited > 0 THEN NULL ELSE ready_at END,
    held_at = CASE WHEN c.awaited > 0 THEN NULL ELSE held_at END
FROM (
    SELECT e.successor, min(CASE WHEN e.event = 'error' AND p.status IN ('FAILURE', 'REVOKED')
            AND p.id = (SELECT s.parent_id FROM {jobs} s WHERE s.id = e.successor) THEN 0 ELSE 1 END)
        * sum(CASE WHEN p.id IS NULL OR p.status = 'SUCCESS' THEN 0
            WHEN e.event <> 'success' AND p.finished_at IS NOT NULL THEN 0 ELSE 1 END) AS awaited
    FROM {given} {each}{edges} {into_b} {each_or_none}{jobs} {at_start_or_none}
    GROUP BY e.successor) AS c
WHERE {jobs}.id = c.successor AND {jobs}.status IN ('PENDING', 'RETRY')"""

UNFINISHED: Final = "SELECT id FROM {jobs} WHERE workflow_id = :workflow AND finished_at IS NULL"

REVOKE_WAITING: Final = """
UPDATE {jobs}
SET status = 'REVOKED', result = {json_from}:error{json_to}, traceback = NULL, finished_at = {clock},
    revoked_at = {clock}, ready_at = NULL, held_at = NULL, blocked_reason = NULL
WHERE id {among} AND status IN ('PENDING', 'RETRY')
RETURNING id, task"""

REVOKE_RUNNING: Final = """
UPDATE {jobs} SET revoked_at = {clock} WHERE id {among} AND status = 'STARTED' RETURNING id"""


def to_repeat(store: Store, job_ids: Collection[str]) -> Steps[set[str]]:
    """These jobs, the failed ones that they wait for, and those that ended because they could not run without them.

    But for those that can not, or must not, run again (`NEVER`), and for what waits for another that has failed,
    such as a chord's body.

    They are locked with what they wait for, and what waits for them: whatever ends, begins or is deleted meanwhile is
    seen here, or sees what becomes of them.
    """
    locked: set[str] = set()
    found = yield from _to_repeat(store, job_ids)
    while not found <= locked:
        locked |= found
        yield from _lock_with_neighbours(store, locked)
        found = yield from _to_repeat(store, job_ids)
    return found


def _lock_with_neighbours(store: Store, job_ids: Collection[str]) -> Steps[None]:
    below = {row[0] for row in (yield statement(store, ALL_SUCCESSORS, ids=job_ids)).rows}
    edges = (yield statement(store, EDGES_INTO, ids=below.union(job_ids))).rows
    yield statement(store, LOCK_TOGETHER, ids=below.union(job_ids, (row[0] for row in edges)))


def _to_repeat(store: Store, job_ids: Collection[str]) -> Steps[set[str]]:
    found = {*job_ids, *(row[0] for row in (yield statement(store, TO_REPEAT, ids=job_ids)).rows)}
    # What ended because of these may wait for others too, such as a chord's body for its other headers.
    above = {row[0] for row in (yield statement(store, TO_REPEAT, ids=found)).rows}
    never = {row[0] for row in (yield statement(store, NEVER, ids=found | above)).rows}
    if never:
        wanted = set(job_ids) - never
        found = {*wanted, *(row[0] for row in (yield statement(store, TO_REPEAT, ids=wanted)).rows)} - never
    failed = (yield statement(store, FAILED_BEFORE, ids=found)).rows
    errbacks = (yield statement(store, TOLD, ids=found)).rows
    while left := (_still_blocked(failed, found) | _untold(errbacks, found)) & found:
        found -= left
    return found


def _still_blocked(failed: Rows, found: Collection[str]) -> set[str]:
    """They would wait for ever; they are taken along when the other is repeated."""
    return {successor for predecessor, successor in failed if predecessor not in found}


def _untold(errbacks: Rows, found: Collection[str]) -> set[str]:
    """Errbacks that were called off before any failure, and for which there can be none now: none would be told."""
    may_run = {job_id for job_id, predecessor, told in errbacks if told or predecessor in found}
    return {row[0] for row in errbacks} - may_run


def not_succeeded(store: Store, workflow_id: str) -> Steps[set[str]]:
    """The jobs of the workflow that ended without success, but for errbacks."""
    return {row[0] for row in (yield statement(store, NOT_SUCCEEDED, workflow=workflow_id)).rows}


def recount(store: Store, job_ids: Collection[str]) -> Steps[None]:
    """Let jobs that were put back, and what waits for them, wait for as many as have not succeeded."""
    if job_ids:
        rows = (yield statement(store, WAITING_SUCCESSORS, ids=job_ids)).rows
        yield statement(store, RECOUNT, ids={*job_ids, *(row[0] for row in rows)})


def cancel(store: Store, workflow_id: str) -> Steps[tuple[dict[str, str], frozenset[str]]]:
    """Revoke all jobs of the workflow that have not ended: the tasks of those that waited, and those that run."""
    yield statement(store, LOCK_WORKFLOWS, ids=[workflow_id])  # an operator may be letting more of it run again
    ids = [row[0] for row in (yield statement(store, UNFINISHED, workflow=workflow_id)).rows]
    error, _ = describe_exception(TaskRevokedError("revoked"), max_bytes=4096)
    ended = (yield statement(store, REVOKE_WAITING, ids=ids, error=error)).rows
    running = (yield statement(store, REVOKE_RUNNING, ids=ids)).rows
    return {row[0]: row[1] for row in ended}, frozenset(row[0] for row in running)
