"""The statements on SQLite. Lists travel as one JSON text, so that each statement has one form.

`INDEXED BY` names the claim index: SQLite then uses it or refuses, whatever its statistics say.
"""

from __future__ import annotations

from typing import Final

from dbqueue.jobs import BLOCKED_BY_LIMIT
from dbqueue.limits import TASK_KEYS

NOW: Final = "coalesce(:now, strftime('%Y-%m-%d %H:%M:%f', 'now'))"
_CLOCK: Final = "strftime('%Y-%m-%d %H:%M:%f', 'now')"


def _shifted(seconds: str) -> str:
    return f"strftime('%Y-%m-%d %H:%M:%f', {NOW}, ({seconds}) || ' seconds')"


# With the row's number: where the priority is no number, it is what names the row.
_PRIORITY: Final = """
SELECT priority, rowid FROM {{jobs}} INDEXED BY dbqueue_jobs_claim
WHERE queue = ? AND ready_at IS NOT NULL{below} ORDER BY priority DESC LIMIT 1"""
HIGHEST_PRIORITY: Final = _PRIORITY.format(below="")
PRIORITY: Final = _PRIORITY.format(below=" AND priority < ?")

# See `claimed_rows`.
IS_NAMED: Final = "SELECT 1 FROM {jobs} WHERE rowid = ? AND id = ?"
IS_LEVEL: Final = "SELECT 1 FROM {jobs} WHERE rowid = ? AND limit_key = ? AND queue = ?"
REFUSE: Final = f"""
UPDATE {{jobs}}
SET status = 'FAILURE', result = :error, finished_at = {NOW}, ready_at = NULL, held_at = NULL, blocked_reason = NULL
WHERE rowid = :row AND status IN ('PENDING', 'RETRY')"""

_CLAIMED: Final = f"""rowid, id, task, queue, priority, args, kwargs, headers, options, content_type, content,
    parent_id, root_id, group_id, eta || '+00:00', expires_at || '+00:00', coalesce(ready_at, held_at), retries, losses,
    coalesce(expires_at <= {NOW}, 0), revoked_at IS NOT NULL, successors, permit, inputs"""

DUE: Final = f"""
SELECT {_CLAIMED}
FROM {{jobs}} INDEXED BY dbqueue_jobs_claim
WHERE queue = :queue AND priority = :priority AND ready_at <= {NOW}
ORDER BY ready_at, id LIMIT :limit"""

TAKE: Final = f"""
UPDATE {{jobs}}
SET status = 'STARTED', ready_at = NULL, worker = :worker, lease = :lease, started_at = {NOW},
    redeliver = task NOT IN (SELECT value FROM json_each(:once))
WHERE rowid IN (SELECT value FROM json_each(:rows))"""

FINISH: Final = f"""
UPDATE {{jobs}}
SET status = :status, result = :result, traceback = :traceback, state = NULL, meta = NULL, permit = NULL,
    finished_at = {NOW}, started_at = {_shifted("-:seconds")}
WHERE id = :id AND lease = :lease AND status = 'STARTED'"""

CONTENT: Final = """
UPDATE {jobs} SET result_content = :content WHERE id = :id AND lease = :lease AND status = 'STARTED'"""

REPORT: Final = """
UPDATE {jobs} SET state = :state, meta = :meta WHERE id = :job_id AND lease = :lease AND status = 'STARTED'"""


def _back(due: str, key: str = "limit_key") -> str:
    """Put a row back: to those that may be claimed, or if it has a limit to those that wait for a permit."""
    return f"""ready_at = CASE WHEN {key} IS NULL THEN {due} END,
    held_at = CASE WHEN {key} IS NOT NULL THEN {due} END,
    blocked_reason = CASE WHEN {key} IS NOT NULL THEN '{BLOCKED_BY_LIMIT}' END,
    limit_key = {key}, permit = NULL"""


_REQUEUED_AT: Final = f"max(coalesce(eta, ''), coalesce(:ready_at, :eta, {_shifted(':delay_seconds')}))"

REQUEUE: Final = f"""
UPDATE {{jobs}}
SET status = :status, lease = NULL, worker = NULL, started_at = NULL, state = NULL, meta = NULL,
    {_back(_REQUEUED_AT, "coalesce(limit_key, :hold)")},
    retries = retries + :retried, losses = losses + :lost,
    result = coalesce(:error, result), traceback = coalesce(:traceback, traceback),
    args = coalesce(:args, args), kwargs = coalesce(:kwargs, kwargs), options = coalesce(:options, options),
    queue = coalesce(:queue, queue), priority = coalesce(:priority, priority),
    expires_at = coalesce(:expires_at, expires_at), content = coalesce(:content, content),
    headers = coalesce(:headers, headers),
    inputs = inputs AND :args IS NULL AND :content IS NULL -- new arguments are all of them
WHERE id = :id AND lease = :lease AND status = 'STARTED'"""

PARK: Final = f"""
UPDATE {{jobs}}
SET held_at = ready_at, ready_at = NULL, blocked_reason = '{BLOCKED_BY_LIMIT}',
    limit_key = coalesce(limit_key, '{TASK_KEYS}' || task)
WHERE rowid IN (SELECT value FROM json_each(:rows))"""

ANYTHING_HELD: Final = "SELECT EXISTS (SELECT 1 FROM {jobs} INDEXED BY dbqueue_jobs_held WHERE held_at IS NOT NULL)"

NEXT_READY: Final = f"""
SELECT (julianday(min(ready_at)) - julianday({NOW})) * 86400.0, ({ANYTHING_HELD})
FROM (
    SELECT min(j.ready_at) AS ready_at
    FROM {{jobs}} j INDEXED BY dbqueue_jobs_claim
    WHERE j.queue IN (SELECT value FROM json_each(:queues)) AND j.ready_at IS NOT NULL
    GROUP BY j.queue, j.priority)"""

# One probe of the claim index for each queue, however many jobs wait in it.
WAITING_QUEUES: Final = """
WITH RECURSIVE present(queue) AS (
    SELECT (
        SELECT j.queue FROM {jobs} j INDEXED BY dbqueue_jobs_claim
        WHERE j.ready_at IS NOT NULL ORDER BY j.queue LIMIT 1)
  UNION ALL
    SELECT (
        SELECT j.queue FROM {jobs} j INDEXED BY dbqueue_jobs_claim
        WHERE j.queue > p.queue AND j.ready_at IS NOT NULL ORDER BY j.queue LIMIT 1)
    FROM present p WHERE p.queue IS NOT NULL
)
SELECT queue FROM present WHERE queue IS NOT NULL"""

PAUSED: Final = "SELECT queue FROM {paused_queues}"

_ROW: Final = """
INSERT INTO {workers} AS w (id, name, hostname, pid, pool, concurrency, queues, version, lease_seconds)
VALUES (:id, :name, :hostname, :pid, :pool, :concurrency, :queues, :version, :lease_seconds)
ON CONFLICT (id) """

REGISTER: Final = f"{_ROW} DO NOTHING"

REOPEN: Final = f"{_ROW} DO UPDATE SET closed_at = NULL, heartbeat_at = {_CLOCK} WHERE w.closed_at IS NOT NULL"

ALIVE: Final = "SELECT 1 FROM {workers} WHERE id = ? AND closed_at IS NULL"

HEARTBEAT: Final = f"UPDATE {{workers}} SET heartbeat_at = {_CLOCK} WHERE id = ? AND closed_at IS NULL"

CLOSE_WORKER: Final = f"UPDATE {{workers}} SET closed_at = {_CLOCK} WHERE id = ? AND closed_at IS NULL"

# Those that started first come first. `late` is for tests, which say what time it is: else it is NULL.
WORKERS: Final = """
SELECT id, heartbeat_at, CAST(lease_seconds AS REAL),
    (julianday(:now) - julianday(heartbeat_at)) * 86400.0 > CAST(lease_seconds AS REAL) AS late
FROM {workers} WHERE closed_at IS NULL AND typeof(id) = 'text' ORDER BY started_at, id"""

LOST_WORKERS: Final = """
SELECT DISTINCT worker FROM {jobs} j
WHERE rowid > :after AND rowid <= :end AND status = 'STARTED' AND typeof(worker) = 'text'
  AND NOT EXISTS (SELECT 1 FROM {workers} w WHERE w.id = j.worker AND w.closed_at IS NULL)"""

# See `store.workflows.overdue`.
OVERDUE: Final = """
SELECT id, NOT EXISTS (
    SELECT 1 FROM {edges} e
    WHERE e.successor = j.id AND NOT EXISTS (SELECT 1 FROM {jobs} p WHERE p.id = e.predecessor))
FROM {jobs} j
WHERE rowid > :after AND rowid <= :end AND status IN ('PENDING', 'RETRY') AND blocked_reason = 'predecessors'
  AND typeof(id) = 'text' AND EXISTS (SELECT 1 FROM {edges} e WHERE e.successor = j.id)
  AND NOT EXISTS (
    SELECT 1 FROM {edges} e CROSS JOIN {jobs} p ON p.id = e.predecessor
    WHERE e.successor = j.id AND p.status IN ('PENDING', 'RETRY', 'STARTED'))"""

_AGAIN: Final = "redeliver AND losses < :max_losses"

RESCUE: Final = f"""
UPDATE {{jobs}}
SET losses = losses + 1, state = NULL, meta = NULL,
    status = CASE WHEN {_AGAIN} THEN 'PENDING' ELSE 'FAILURE' END,
    ready_at = CASE WHEN {_AGAIN} AND limit_key IS NULL THEN max(coalesce(eta, ''), min(created_at, {NOW})) END,
    held_at = CASE WHEN {_AGAIN} AND limit_key IS NOT NULL THEN max(coalesce(eta, ''), min(created_at, {NOW})) END,
    blocked_reason = CASE WHEN {_AGAIN} AND limit_key IS NOT NULL THEN '{BLOCKED_BY_LIMIT}' END, permit = NULL,
    lease = CASE WHEN {_AGAIN} THEN NULL ELSE lease END,
    started_at = CASE WHEN {_AGAIN} THEN NULL ELSE started_at END,
    finished_at = CASE WHEN {_AGAIN} THEN NULL ELSE {NOW} END,
    result = CASE WHEN {_AGAIN} THEN result ELSE :error END
WHERE status = 'STARTED' AND worker IN (SELECT value FROM json_each(:workers))
RETURNING worker, status, id, successors"""

HAND_BACK: Final = f"""
UPDATE {{jobs}}
SET status = 'PENDING', lease = NULL, worker = NULL, started_at = NULL, state = NULL, meta = NULL,
    {_back(f"max(coalesce(eta, ''), min(created_at, {_CLOCK}))")}
WHERE status = 'STARTED' AND worker = :worker AND id NOT IN (SELECT value FROM json_each(:held))"""

HELD: Final = f"SELECT {_CLAIMED} FROM {{jobs}} WHERE id IN (SELECT value FROM json_each(:ids))"

TAKE_HELD: Final = f"""
UPDATE {{jobs}}
SET status = 'STARTED', held_at = NULL, blocked_reason = NULL, permit = :permit, worker = :worker, lease = :lease,
    started_at = {NOW}, redeliver = task NOT IN (SELECT value FROM json_each(:once))
WHERE id = :id"""

# Too old, or too many. Where one of the two is not asked for, its condition is NULL.
PRUNE: Final = f"""
DELETE FROM {{jobs}} WHERE rowid IN (
    SELECT rowid FROM {{jobs}}
    WHERE (finished_at < {_shifted("-:seconds")} OR (finished_at, id) <= (:surplus_at, :surplus_id))
        AND workflow_id IS NULL
    LIMIT :limit)"""

ROW_NUMBERS: Final = "SELECT (SELECT min(rowid) FROM {jobs}), (SELECT max(rowid) FROM {jobs})"

COUNT_ROWS: Final = """
SELECT finished_at, id, number, total FROM (
    SELECT finished_at, id, row_number() OVER (ORDER BY finished_at, id) AS number, count(*) OVER () AS total
    FROM {jobs} WHERE rowid > :after AND rowid <= :end AND finished_at IS NOT NULL) AS f
WHERE number % (1 + total / :marks) = 0 OR number = total"""

PRUNE_KEYS: Final = f"""
DELETE FROM {{unique_keys}} WHERE rowid IN (
    SELECT u.rowid FROM {{unique_keys}} u LEFT JOIN {{jobs}} j ON j.id = u.job_id
    WHERE j.id IS NULL OR (j.finished_at IS NOT NULL
        AND (j.status <> 'SUCCESS' OR u.until IS NULL OR u.until <= {_CLOCK}))
    LIMIT :limit)"""

PRUNE_LIMITS: Final = """
DELETE FROM {limits}
WHERE source = 'call' AND julianday(updated_at) < julianday('now') - 1
  AND coalesce(full_at, 0) <= (julianday('now') - 2440587.5) * 86400.0
  AND NOT EXISTS (SELECT 1 FROM {jobs} j WHERE j.permit = {limits}.key)
  AND NOT EXISTS (SELECT 1 FROM {jobs} j WHERE j.limit_key = {limits}.key AND j.held_at IS NOT NULL)"""

# As on PostgreSQL.
STRAYS: Final = f"""
SELECT id, lease, max(coalesce(eta, ''), min(created_at, {_CLOCK})), redeliver, losses, successors FROM {{jobs}}
WHERE id IN (SELECT value FROM json_each(:ids)) AND worker = :worker AND status = 'STARTED'"""

RECORDED: Final = "SELECT id, status, lease FROM {jobs} WHERE id IN (SELECT value FROM json_each(?))"

FETCH: Final = """
SELECT id, task, queue, status, args, kwargs, result, traceback, retries, worker,
    created_at, started_at, finished_at, state, meta, parent_id, content_type, options, content, result_content
FROM {jobs} WHERE id IN (SELECT value FROM json_each(?))"""

FINISHED: Final = f"{FETCH} AND finished_at IS NOT NULL"

IDENTITY: Final = "SELECT file FROM pragma_database_list WHERE name = 'main'"
