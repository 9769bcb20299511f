"""What waits for a job that has succeeded comes one step nearer to its run.

On PostgreSQL that is a part of the statement that ends the jobs of a round, on SQLite three more under the write lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dbqueue import failpoints
from dbqueue.store.base import Store
from dbqueue.store.postgres import sql as postgres_sql
from dbqueue.store.steps import Steps
from dbqueue.store.workflows.removing import BLOCKED_BELOW, drop
from dbqueue.store.workflows.words import statement

# What a row becomes that waits for no predecessor any more: it may run, or waits for its limit. A countdown
# and an expiry in seconds count from now on.
#
# That it waits is asked for PostgreSQL, which makes a row of what a statement's snapshot shows, and checks it, before
# it finds out that it is another by now: one that has failed, and that an operator lets wait again.
_WAITS: Final = "status IN ('PENDING', 'RETRY')"

TO_RUN: Final = f"""blocked_reason = CASE WHEN limit_key IS NOT NULL AND {_WAITS} THEN 'limit' END, waits_for = 0,
    eta = CASE WHEN {{options}} ->> 'delay_seconds' IS NOT NULL THEN {{due}} ELSE eta END, expires_at = {{lapse}},
    ready_at = CASE WHEN limit_key IS NULL AND {_WAITS} THEN {{due}} END,
    held_at = CASE WHEN limit_key IS NOT NULL AND {_WAITS} THEN {{due}} END"""

# One statement ends the jobs and moves what waits for them, so that the outcome of a round which is sent
# again moves nothing: it ends no row. The counts of a batch are summed first, and `locked` has
# them as they are once the lock is held, whatever the statement's snapshot says.
#
# An errback that no failure can reach any more is deleted, and with it what waits for it: but for what somebody has
# called off meanwhile, and what is to be told of that, which needs its edge.
COMPLETE_POSTGRES: Final = f"""
WITH RECURSIVE done AS ({postgres_sql.FINISH}
), counted AS MATERIALIZED (
    SELECT e.successor, e.event, count(*) AS ended
    FROM done b {{each}}{{edges}} {{out_of_b}}
    GROUP BY e.successor, e.event
), locked AS MATERIALIZED (
    SELECT s.id, s.waits_for - c.ended AS waits_for, c.event <> 'error' AS counts
    FROM (SELECT * FROM counted ORDER BY successor) c
    CROSS JOIN LATERAL (
        SELECT id, waits_for, blocked_reason FROM {{jobs}}
        WHERE id = c.successor AND status <> 'STARTED' OFFSET 0 FOR UPDATE) s
    WHERE s.blocked_reason = 'predecessors'
), dropped(id) AS (
    SELECT id FROM locked WHERE waits_for <= 0 AND NOT counts
  UNION
    SELECT e.successor FROM dropped b {{each}}{{edges}} {{out_of_b}}
    WHERE (SELECT s.blocked_reason FROM {{jobs}} s WHERE s.id = e.successor) = 'predecessors'
), lowered AS (
    UPDATE {{jobs}} s SET waits_for = l.waits_for FROM locked l WHERE s.id = l.id AND l.waits_for > 0
), freed AS (
    UPDATE {{jobs}} s SET {TO_RUN}
    WHERE s.id = ANY(ARRAY(SELECT id FROM locked WHERE waits_for <= 0 AND counts))
    RETURNING s.id
), deleted AS (
    DELETE FROM {{jobs}} WHERE id = ANY(ARRAY(SELECT id FROM dropped)) AND blocked_reason = 'predecessors'
    RETURNING id
), unlinked AS (
    DELETE FROM {{edges}} WHERE ctid = ANY(ARRAY(SELECT e.ctid FROM deleted b {{each}}{{edges}} {{into_b}}))
)
SELECT id, false FROM done UNION ALL SELECT id, true FROM freed"""

# The same in three statements, under the write lock; `:ids` are jobs that have just ended.
LOWER_SQLITE: Final = """
UPDATE {jobs} SET waits_for = waits_for - c.ended
FROM (
    SELECT e.successor, count(*) AS ended FROM {given} {each}{edges} {out_of_b}
    GROUP BY e.successor) AS c
WHERE {jobs}.id = c.successor AND {jobs}.blocked_reason = 'predecessors'
RETURNING id, waits_for, EXISTS (SELECT 1 FROM {edges} e WHERE e.successor = id AND e.event = 'error')"""

FREE: Final = f"UPDATE {{jobs}} SET {TO_RUN} WHERE id {{among}}"


def release_sqlite(store: Store, job_ids: Sequence[str], now: Any) -> Steps[bool]:
    """Move what waits for these jobs, which have succeeded just now; whether any of it may run."""
    rows = (yield statement(store, LOWER_SQLITE, ids=job_ids)).rows
    failpoints.hit("release.between")
    at_zero = [(job_id, errback) for job_id, waits_for, errback in rows if waits_for <= 0]
    free = [job_id for job_id, errback in at_zero if not errback]
    if free:
        yield statement(store, FREE, ids=free, now=now)
    dropped = [job_id for job_id, errback in at_zero if errback]
    if dropped:
        below = (yield statement(store, BLOCKED_BELOW, ids=dropped)).rows
        yield from drop(store, [row[0] for row in below])
    return bool(free)
