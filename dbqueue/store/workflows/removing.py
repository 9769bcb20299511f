"""Rows of workflows that have served, or that nothing can reach any more, are deleted with their edges."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Any, Final

from dbqueue.store.base import Store
from dbqueue.store.steps import Steps
from dbqueue.store.workflows.words import statement

# Blocked rows alone: what hangs below one that has ended was seen to when that ended. Their state is asked one
# by one: for a join the planner would find all blocked rows of the table first.
BLOCKED_BELOW: Final = """
WITH RECURSIVE below(id) AS (
    SELECT id{c} FROM {given}
  UNION
    SELECT e.successor FROM below b {each}{edges} {out_of_b}
    WHERE (SELECT s.blocked_reason FROM {jobs} s WHERE s.id = e.successor) = 'predecessors'
)
SELECT id FROM below"""

UNLINK: Final = """
DELETE FROM {edges} WHERE {address} {any_of}(SELECT e.{address} FROM {given} {each}{edges} {into_b}){end}"""

# But for those by which a job that has ended took something, and those of an errback that ended without having run:
# they go with it.
UNLINK_FROM: Final = """
DELETE FROM {edges}
WHERE predecessor {among} AND (place IS NULL AND event <> 'error' OR (
    SELECT 1 FROM {jobs} s WHERE s.id = successor AND s.finished_at IS NOT NULL
      AND (place IS NOT NULL AND s.inputs AND (event = 'success' OR predecessor = s.parent_id)
        OR event = 'error' AND s.worker IS NULL)) IS NULL)"""

DELETE: Final = "DELETE FROM {jobs} WHERE id {among}"

LOCK_READ: Final = (
    "SELECT id FROM {jobs} WHERE id {among} AND successors AND finished_at IS NOT NULL ORDER BY id {lock}"
)

# Not a result that somebody has still to read. PostgreSQL might make a list of all edges for an EXISTS.
FORGET: Final = """
DELETE FROM {jobs}
WHERE id {among} AND finished_at IS NOT NULL AND (NOT successors OR (
    SELECT 1 FROM {edges} e {each}{jobs} {at_end}
    WHERE e.predecessor = {jobs}.id AND e.place IS NOT NULL AND s.finished_at IS NULL
      AND (e.event = 'success' OR e.predecessor = s.parent_id) LIMIT 1) IS NULL)
RETURNING id, workflow_id IS NOT NULL"""

_RIPE: Final = """
(SELECT 1 FROM {jobs} m WHERE m.workflow_id = w.workflow_id AND (m.finished_at IS NULL OR m.finished_at >= {before})
    LIMIT 1) IS NULL"""

# One pass over the rows of workflows; what it finds is deleted in portions, without looking for it again.
RIPE_WORKFLOWS: Final = f"""
SELECT workflow_id, jobs FROM (
    SELECT workflow_id, count(*) AS jobs FROM {{jobs}}
    WHERE workflow_id IS NOT NULL AND finished_at < {{before}} GROUP BY workflow_id) AS w
WHERE {_RIPE}
LIMIT 10000"""

# Asked again for the portion, whose rows are locked by then: an operator may have let one of them run again.
LOCK_WORKFLOWS: Final = "SELECT id FROM {jobs} WHERE workflow_id {among} ORDER BY status <> 'STARTED', id {lock}"

STILL_RIPE: Final = f"SELECT w.id FROM (SELECT id AS workflow_id, id FROM {{given}}) AS w WHERE {_RIPE}"

DELETE_WORKFLOWS: Final = "DELETE FROM {jobs} WHERE workflow_id {among} RETURNING id"


def drop(store: Store, job_ids: Collection[str]) -> Steps[None]:
    """Delete these rows and the edges that lead to them; what waits for them is among them."""
    yield statement(store, UNLINK, ids=list(job_ids))
    yield statement(store, DELETE, ids=list(job_ids))


def unlink(store: Store, job_ids: Collection[str]) -> Steps[None]:
    """Delete the edges of rows that are gone, but for those by which jobs that have ended took something of them.

    Such an edge tells that its successor cannot run again (`operators.NEVER`), and goes with the successor. So does
    that of an errback which was called off: that there is no failure left for it to be told of (`operators.TOLD`).
    """
    if job_ids:
        yield statement(store, UNLINK, ids=job_ids)
        yield statement(store, UNLINK_FROM, ids=job_ids)


def forget(store: Store, job_ids: Collection[str]) -> Steps[set[str]]:
    """Delete finished jobs whose results no other job has still to read; which."""
    yield statement(store, LOCK_READ, ids=job_ids)  # an operator may be about to let their readers run again
    rows = (yield statement(store, FORGET, ids=job_ids)).rows
    yield from unlink(store, [job_id for job_id, is_member in rows if is_member])
    return {row[0] for row in rows}


def prune(
    store: Store,
    ripe: deque[tuple[str, int]],
    *,
    older_than_seconds: float | None,
    surplus_at: Any,
    limit: int,
    now: Any,
) -> Steps[int]:
    """Delete whole workflows that ended longer ago than this or by `surplus_at`, until `limit` rows are gone.

    Returns how many are.

    `ripe` is what an earlier call has found and not deleted yet.
    """
    age = {"seconds": older_than_seconds, "surplus_at": surplus_at, "now": now}
    if not ripe:
        ripe.extend((row[0], row[1]) for row in (yield statement(store, RIPE_WORKFLOWS, **age)).rows)
    chosen: list[str] = []
    while ripe and limit > 0:
        workflow_id, size = ripe.popleft()
        chosen.append(workflow_id)
        limit -= size
    if not chosen:
        return 0
    yield statement(store, LOCK_WORKFLOWS, ids=chosen)
    still = [row[0] for row in (yield statement(store, STILL_RIPE, ids=chosen, **age)).rows]
    gone = [row[0] for row in (yield statement(store, DELETE_WORKFLOWS, ids=still)).rows]
    yield from unlink(store, gone)
    return len(gone)
