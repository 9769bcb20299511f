"""The hot statements on PostgreSQL, and why each is written as it is.

The planner's statistics of a queue table are always wrong: the table was empty, or full, or half
done when they were taken. So nothing here is left to its choice: `SESSION` takes the other roads
away, every join is on the primary key or on a row's address, and tests EXPLAIN each statement.
Figures are from PostgreSQL 18 and 15 on two cores.
"""

from __future__ import annotations

from typing import Final

from dbqueue.jobs import BLOCKED_BY_LIMIT
from dbqueue.limits import TASK_KEYS
from dbqueue.store.trouble import IDLE_SECONDS, LOCK_SECONDS, ROUND_LOCK_SECONDS

MAX_COUNT: Final = 2**31 - 1
"""The largest of `retries` and `losses`, which are integers."""

# The calendar's ends for all that is reckoned of rows, which may hold any time.
_FIRST_TIME: Final = "timestamptz '0001-01-01 00:00:00+00'"
_LAST_TIME: Final = "timestamptz '9999-12-31 00:00:00+00'"

CHANNEL: Final = "dbqueue"
"""Where enqueues NOTIFY. The payload is empty: every role of the database could read it."""

CONTROL_CHANNEL: Final = "dbqueue_control"
"""Where commands to workers NOTIFY. Not the enqueues' channel: each of those would cost a look for commands."""

NOTIFY_CONTROL: Final = f"SELECT pg_notify('{CONTROL_CHANNEL}', '')"

LISTEN: Final = f"LISTEN {CHANNEL}"

LISTEN_CONTROL: Final = f"LISTEN {CONTROL_CHANNEL}"

# pg_notify in a transaction of its own. Inside the enqueue's own transaction the server would
# take a lock that makes all notifying commits wait for each other, fsync included; alone and with
# an asynchronous commit, it is held for microseconds.
NOTIFY: Final = f"SELECT set_config('synchronous_commit', 'off', true), pg_notify('{CHANNEL}', '')"

# Inside a caller's transaction, whose durability is not ours to change.
NOTIFY_INSIDE: Final = f"SELECT pg_notify('{CHANNEL}', '')"

SESSION: Final = {
    # A plan made for one batch's values can be a bad one for the next.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    "default_transaction_isolation": "read committed",
    "TimeZone": "UTC",
    "DateStyle": "ISO",  # times are compared as text (`floors`)
    "array_nulls": "on",  # statements take columns as arrays
    # No round may hang on an application's lock: it goes on without what is locked (`free_rows`), or is tried again.
    "lock_timeout": f"{ROUND_LOCK_SECONDS}s",
    "statement_timeout": "60s",
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    "idle_session_timeout": "0",  # it listens for as long as there is nothing to do
}
"""Settings of the connection for rounds."""

WATCH_SESSION: Final = {
    # A heartbeat that waits for somebody's lock says in time that it does; the next one may find it gone.
    "lock_timeout": "4s",
    "statement_timeout": "8s",
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    "idle_session_timeout": "0",
}
"""Settings of the connection for heartbeats and commands."""

# For as long as that takes: what a time-out ends is begun anew, and would be for ever where the table is too large, or
# not in memory after a crash. (Three million rows that are: one second.) Waits for locks are bounded all the same: that
# of the table is given some time, for after it all that was read would have to be read again.
READ_ALL: Final = f"""
SELECT set_config('enable_seqscan', 'on', true), set_config('statement_timeout', '0', true),
    set_config('lock_timeout', '{LOCK_SECONDS}s', true)"""

# After that: somebody's lock on one of the rows that were found.
WAIT_FOR_ROWS: Final = f"SELECT set_config('lock_timeout', '{ROUND_LOCK_SECONDS}s', true)"

# For what others of the same thread wait behind, and is tried again: what a beat fires.
WAIT_BRIEFLY: Final = "SELECT set_config('lock_timeout', %(seconds)s || 's', true)"

# `me` locks this worker's own live row: a worker that was declared dead finds no row and claims
# nothing, and a rescue (FOR UPDATE) waits for a claim in flight. KEY SHARE lets heartbeats pass.
#
# A round that only claims need not wait for the disk (0.4 ms): should the server crash and forget
# the claim, its lease is void, since another claim draws another token. Not so where a task may
# never run twice: `durable`.
#
# `levels` finds the priorities in use in each queue by skipping through the claim index, one
# probe for each. Naming all queues in one ORDER BY would sort the whole backlog.
#
# `picked` walks the levels in order and stops at the limit; each row is locked as it is read, so
# no more than the limit are locked. ctid joins run as TID scans: 1.5 ms for 100 rows, 6 ms for
# 500. The rows come back in the order of `picked`, which is the order in which they should run.
#
# That the row still waits is checked again in the UPDATE, by its status: a condition on ready_at
# would offer the planner the claim index for a second scan, which it takes when the table is tiny,
# and then the order is lost.
CLAIMED_COLUMNS: Final = """j.id, j.task, j.queue, j.priority, j.args::text, j.kwargs::text, j.headers::text,
    j.options::text, j.content_type, j.content, j.parent_id, j.root_id, j.group_id, j.eta::text,
    j.expires_at::text, p.ready_at::text, j.retries, j.losses, j.redeliver,
    coalesce(j.expires_at <= coalesce(%(now)s::timestamptz, now()), false), j.revoked_at IS NOT NULL,
    j.successors, j.permit, j.inputs"""

_ME: Final = """me AS MATERIALIZED (
    SELECT id, CASE WHEN NOT %(durable)s THEN set_config('synchronous_commit', 'off', true) END
    FROM {workers} WHERE id = %(worker)s AND closed_at IS NULL
        AND current_setting('dbqueue.turn', true) IS DISTINCT FROM 'false' FOR KEY SHARE
)"""

# While claims are slow (`floors`) one worker at a time claims, and the others get nothing now (`me` is empty). Where 64
# backends share two processors each claim lasts for seconds, and what was claimed meanwhile cannot be forgotten: each
# walked past 110 entries of the claim index for every job that it got, and past 30 with turns. The lock goes with the
# transaction. Who waited for it would hold back, with its snapshot, what it waits for; so a worker tries again.
_TAKE_TURN: Final = "pg_try_advisory_xact_lock(hashtext('dbqueue.turn'), hashtext(%(table)s))"
TURN: Final = f"SELECT set_config('dbqueue.turn', {_TAKE_TURN}::text, true)"

# Asked by itself before that, for most tries are refused: with the claim it cost the worker four times as much, and the
# server too. It is free again at once.
TURN_IS_FREE: Final = f"SELECT {_TAKE_TURN}"

_LEVELS: Final = """levels(position, queue, priority) AS (
    SELECT q.position, q.queue, (
        SELECT j.priority FROM {jobs} j
        WHERE j.queue = q.queue COLLATE "C" AND j.ready_at IS NOT NULL
        ORDER BY j.priority DESC LIMIT 1)
    FROM me, unnest(%(queues)s::text[]) WITH ORDINALITY AS q(queue, position)
  UNION ALL
    SELECT l.position, l.queue, (
        SELECT j.priority FROM {jobs} j
        WHERE j.queue = l.queue COLLATE "C" AND j.ready_at IS NOT NULL AND j.priority < l.priority
        ORDER BY j.priority DESC LIMIT 1)
    FROM levels l WHERE l.priority IS NOT NULL
)"""

# The levels that the worker knows, each with the place where its last claim ended, and what priorities there are
# between them: a probe that would walk past the dead entries of a known one has nothing to look for there.
_KNOWN_LEVELS: Final = """levels(position, queue, priority, after, after_id, above) AS (
    SELECT k.*, NULL::int FROM {of_me}unnest(%(level_position)s::bigint[], %(level_queue)s::text[],
        %(level_priority)s::smallint[], %(level_ready_at)s::timestamptz[], %(level_id)s::text[])
        AS k(position, queue, priority, after, after_id)
  UNION ALL
    SELECT g.position, g.queue, (
        SELECT j.priority FROM {jobs} j
        WHERE j.queue = g.queue COLLATE "C" AND j.ready_at IS NOT NULL
          AND j.priority < g.below AND j.priority > g.above
        ORDER BY j.priority DESC LIMIT 1), '-infinity', '', g.above
    FROM {of_me}unnest(%(gap_position)s::bigint[], %(gap_queue)s::text[], %(gap_below)s::int[], %(gap_above)s::int[])
        AS g(position, queue, below, above)
  UNION ALL
    SELECT l.position, l.queue, (
        SELECT j.priority FROM {jobs} j
        WHERE j.queue = l.queue COLLATE "C" AND j.ready_at IS NOT NULL
          AND j.priority < l.priority AND j.priority > l.above
        ORDER BY j.priority DESC LIMIT 1), '-infinity', '', l.above
    FROM levels l WHERE l.priority IS NOT NULL AND l.above IS NOT NULL
)"""

_BEHIND: Final = """AND (i.ready_at, i.id) > (l.after, l.after_id COLLATE "C")"""

_CLAIM: Final = f"""
WITH RECURSIVE {_ME}, {{levels}}, picked AS MATERIALIZED (
    SELECT due.tid{{id_of_due}}, due.ready_at
    FROM (SELECT * FROM levels WHERE priority IS NOT NULL ORDER BY position, priority DESC) l
    CROSS JOIN LATERAL (
        SELECT i.ctid AS tid{{id_of_i}}, i.ready_at FROM {{jobs}} i
        WHERE i.queue = l.queue COLLATE "C" AND i.priority = l.priority
          AND i.ready_at <= coalesce(%(now)s::timestamptz, now()) {{behind}}
        ORDER BY i.ready_at, i.id LIMIT %(limit)s FOR UPDATE SKIP LOCKED) due
    LIMIT %(limit)s
)
UPDATE {{jobs}} j
SET status = 'STARTED', ready_at = NULL, worker = %(worker)s, lease = %(lease)s,
    started_at = clock_timestamp(), redeliver = j.task <> ALL(%(once)s::text[])
FROM picked p
WHERE j.ctid = p.tid{{same_as_p}} AND j.status IN ('PENDING', 'RETRY')
RETURNING {CLAIMED_COLUMNS}"""

CLAIM: Final = _CLAIM.replace("{levels}", _LEVELS).replace("{behind}", "")

# See `floors`.
CLAIM_BEHIND: Final = _CLAIM.replace("{levels}", _KNOWN_LEVELS.replace("{of_me}", "me, ")).replace("{behind}", _BEHIND)

# One probe of the claim index for each queue, however many jobs wait in it.
WAITING_QUEUES: Final = """
WITH RECURSIVE present(queue) AS (
    SELECT (
        SELECT j.queue FROM {jobs} j WHERE j.ready_at IS NOT NULL ORDER BY j.queue LIMIT 1)
  UNION ALL
    SELECT (
        SELECT j.queue FROM {jobs} j
        WHERE j.queue > p.queue AND j.ready_at IS NOT NULL ORDER BY j.queue LIMIT 1)
    FROM present p WHERE p.queue IS NOT NULL
)
SELECT queue FROM present WHERE queue IS NOT NULL"""

PAUSED: Final = "SELECT queue FROM {paused_queues}"

# The join is on the primary key alone, with its collation; lease and status only filter, and no
# index can match them. (With an index that `status = 'STARTED'` could use, this statement scanned
# all of it for each batch: 43,000 jobs a second fell to 10,000.) `permit = NULL` changes nothing for a job
# without one, which keeps its update heap-only.
_FINISH: Final = """
UPDATE {{jobs}} j
SET status = d.status, result = d.result::json, traceback = d.traceback, state = NULL, meta = NULL, permit = NULL,
    finished_at = coalesce(%(now)s::timestamptz, now()),
    started_at = coalesce(%(now)s::timestamptz, now()) - make_interval(secs => d.seconds)
FROM {source}
WHERE {{by_id_of_d}} AND j.lease = d.lease AND j.status = 'STARTED'
RETURNING j.id"""

FINISH: Final = _FINISH.format(
    source="""unnest(%(id)s::text[], %(lease)s::uuid[], %(status)s::text[], %(result)s::text[],
    %(traceback)s::text[], %(seconds)s::float8[]) AS d(id, lease, status, result, traceback, seconds)"""
)

# On an idle queue one job ends at a time: without the arrays and the join it takes 0.35 ms instead of 0.5.
FINISH_ONE: Final = _FINISH.format(
    source="""(SELECT %(id)s::text AS id, %(lease)s::uuid AS lease, %(status)s::text AS status,
    %(result)s::text AS result, %(traceback)s::text AS traceback, %(seconds)s::float8 AS seconds) AS d"""
)

CONTENT: Final = """
UPDATE {jobs} j
SET result_content = d.content
FROM unnest(%(id)s::text[], %(lease)s::uuid[], %(content)s::bytea[]) AS d(id, lease, content)
WHERE {by_id_of_d} AND j.lease = d.lease AND j.status = 'STARTED'"""

# Joined on the primary key alone, as FINISH is; `state` and `meta` are in no index, so that a report is a heap-only
# update. A job whose own task has completed it, and not committed yet, goes without: the round must not wait for it.
REPORT: Final = """
WITH free AS MATERIALIZED (
    SELECT j.ctid AS tid{id_of_j}, d.state, d.meta
    FROM unnest(%(job_id)s::text[], %(lease)s::uuid[], %(state)s::text[], %(meta)s::text[])
        AS d(id, lease, state, meta)
    JOIN {jobs} j ON {by_id_of_d} AND j.lease = d.lease AND j.status = 'STARTED'
    FOR NO KEY UPDATE OF j SKIP LOCKED
)
UPDATE {jobs} j SET state = f.state, meta = f.meta::json FROM free f WHERE j.ctid = f.tid{same_as_f}"""


def _back(due: str, key: str = "j.limit_key") -> str:
    """Put a row back: to those that may be claimed, or if it has a limit to those that wait for a permit."""
    return f"""ready_at = CASE WHEN {key} IS NULL THEN {due} END,
    held_at = CASE WHEN {key} IS NOT NULL THEN {due} END,
    blocked_reason = CASE WHEN {key} IS NOT NULL THEN '{BLOCKED_BY_LIMIT}' END,
    limit_key = {key}, permit = NULL"""


_REQUEUED_AT: Final = """greatest(j.eta, coalesce(d.ready_at, d.eta,
        coalesce(%(now)s::timestamptz, now()) + make_interval(secs => d.delay_seconds)))"""
CREATED_AT: Final = "greatest(j.eta, least(j.created_at, now()))"

REQUEUE: Final = f"""
UPDATE {{jobs}} j
SET status = d.status, lease = NULL, worker = NULL, started_at = NULL, state = NULL, meta = NULL,
    {_back(_REQUEUED_AT, "coalesce(j.limit_key, d.hold)")},
    retries = least(j.retries, {MAX_COUNT} - 1) + d.retried, losses = least(j.losses, {MAX_COUNT} - 1) + d.lost,
    result = coalesce(d.error::json, j.result), traceback = coalesce(d.traceback, j.traceback),
    args = coalesce(d.args::json, j.args), kwargs = coalesce(d.kwargs::json, j.kwargs),
    options = coalesce(d.options::json, j.options), queue = coalesce(d.queue, j.queue),
    priority = coalesce(d.priority, j.priority), expires_at = coalesce(d.expires_at, j.expires_at),
    content = coalesce(d.content, j.content), headers = coalesce(d.headers::json, j.headers),
    inputs = j.inputs AND d.args IS NULL AND d.content IS NULL -- new arguments are all of them
FROM unnest(%(id)s::text[], %(lease)s::uuid[], %(status)s::text[], %(retried)s::int[], %(lost)s::int[],
    %(ready_at)s::timestamptz[], %(eta)s::timestamptz[], %(delay_seconds)s::float8[], %(error)s::text[],
    %(traceback)s::text[], %(args)s::text[], %(kwargs)s::text[], %(options)s::text[], %(queue)s::text[],
    %(priority)s::smallint[], %(expires_at)s::timestamptz[], %(content)s::bytea[], %(hold)s::text[],
    %(headers)s::text[])
    AS d(id, lease, status, retried, lost, ready_at, eta, delay_seconds, error, traceback, args, kwargs,
         options, queue, priority, expires_at, content, hold, headers)
WHERE {{by_id_of_d}} AND j.lease = d.lease AND j.status = 'STARTED'
RETURNING j.id, j.queue, j.priority, j.ready_at::text"""


def seconds_until(moment: str) -> str:
    """Seconds from now until a row's time, which may be infinite: its distance to another time is an error then."""
    now = "coalesce(%(now)s::timestamptz, clock_timestamp())"
    return f"""extract(epoch FROM CASE WHEN {moment} < {_FIRST_TIME} THEN {_FIRST_TIME}
    WHEN {moment} > {_LAST_TIME} THEN {_LAST_TIME} ELSE {moment} END - {now})"""


# One probe of the claim index for each priority in use, as in CLAIM.
NEXT_READY: Final = f"""
WITH RECURSIVE levels(queue, priority) AS (
    SELECT q.queue, (
        SELECT j.priority FROM {{jobs}} j
        WHERE j.queue = q.queue COLLATE "C" AND j.ready_at IS NOT NULL
        ORDER BY j.priority DESC LIMIT 1)
    FROM unnest(%(queues)s::text[]) AS q(queue)
  UNION ALL
    SELECT l.queue, (
        SELECT j.priority FROM {{jobs}} j
        WHERE j.queue = l.queue COLLATE "C" AND j.ready_at IS NOT NULL AND j.priority < l.priority
        ORDER BY j.priority DESC LIMIT 1)
    FROM levels l WHERE l.priority IS NOT NULL
)
SELECT {seconds_until("min(first.ready_at)")}, EXISTS (SELECT FROM {{jobs}} h WHERE h.held_at IS NOT NULL)
FROM levels l CROSS JOIN LATERAL (
    SELECT i.ready_at FROM {{jobs}} i
    WHERE i.queue = l.queue COLLATE "C" AND i.priority = l.priority AND i.ready_at IS NOT NULL
    ORDER BY i.ready_at LIMIT 1) first
WHERE l.priority IS NOT NULL"""

NEXT_READY_BEHIND: Final = f"""
WITH RECURSIVE {_KNOWN_LEVELS.replace("{of_me}", "")}
SELECT {seconds_until("min(first.ready_at)")}, EXISTS (SELECT FROM {{jobs}} h WHERE h.held_at IS NOT NULL)
FROM levels l CROSS JOIN LATERAL (
    SELECT i.ready_at FROM {{jobs}} i
    WHERE i.queue = l.queue COLLATE "C" AND i.priority = l.priority AND i.ready_at IS NOT NULL {_BEHIND}
    ORDER BY i.ready_at LIMIT 1) first
WHERE l.priority IS NOT NULL"""

# Of each level no more than its first rows are read, whatever tasks they are of: a backlog of other tasks
# is not searched for these. That a row still waits is checked again under its lock.
PARK: Final = f"""
WITH RECURSIVE levels(queue, priority) AS (
    SELECT q.queue, (
        SELECT j.priority FROM {{jobs}} j
        WHERE j.queue = q.queue COLLATE "C" AND j.ready_at IS NOT NULL
        ORDER BY j.priority DESC LIMIT 1)
    FROM unnest(%(queues)s::text[]) AS q(queue)
  UNION ALL
    SELECT l.queue, (
        SELECT j.priority FROM {{jobs}} j
        WHERE j.queue = l.queue COLLATE "C" AND j.ready_at IS NOT NULL AND j.priority < l.priority
        ORDER BY j.priority DESC LIMIT 1)
    FROM levels l WHERE l.priority IS NOT NULL
), heads AS MATERIALIZED (
    SELECT h.tid{{id_of_h}} FROM levels l CROSS JOIN LATERAL (
        SELECT i.ctid AS tid, i.task{{id_of_i}} FROM {{jobs}} i
        WHERE i.queue = l.queue COLLATE "C" AND i.priority = l.priority AND i.ready_at <= now()
        ORDER BY i.ready_at, i.id LIMIT %(most)s) h
    WHERE l.priority IS NOT NULL AND h.task = ANY(%(tasks)s::text[] COLLATE "C")
), locked AS MATERIALIZED (
    SELECT j.ctid AS tid{{id_of_j}} FROM heads h JOIN {{only}}{{jobs}} j ON j.ctid = h.tid{{same_as_h}}
    WHERE j.status IN ('PENDING', 'RETRY') AND j.blocked_reason IS NULL FOR UPDATE OF j SKIP LOCKED
)
UPDATE {{only}}{{jobs}} j
SET held_at = j.ready_at, ready_at = NULL, blocked_reason = '{BLOCKED_BY_LIMIT}',
    limit_key = coalesce(j.limit_key, '{TASK_KEYS}' || j.task)
FROM locked l WHERE j.ctid = l.tid{{same_as_l}}"""

ANYTHING_HELD: Final = "SELECT EXISTS (SELECT FROM {jobs} h WHERE h.held_at IS NOT NULL)"

# Waits for a claim of this worker that is still under way on a connection it has lost (KEY SHARE).
LOCK_WORKER: Final = "SELECT id FROM {workers} WHERE id = %(worker)s FOR UPDATE"

HAND_BACK: Final = f"""
UPDATE {{jobs}} j SET status = 'PENDING', lease = NULL, worker = NULL, started_at = NULL, state = NULL, meta = NULL,
    {_back(CREATED_AT)}
WHERE worker = %(worker)s AND status = 'STARTED' AND id <> ALL(%(held)s::text[])"""

RECORDED: Final = 'SELECT id, status, lease::text FROM {jobs} WHERE id = ANY(%(ids)s::text[] COLLATE "C")'

_RECORD: Final = """
SELECT id, task, queue, status, args::text, kwargs::text, result::text, traceback, retries, worker,
    created_at, started_at, finished_at, state, meta::text, parent_id, content_type, options::text,
    content, result_content
FROM {jobs} """

# A single id has a statement of its own: with an array the server plans anew each time, to see how
# long the array is, and that takes three times as long as the look itself (0.15 ms against 0.05).
FETCH_ONE: Final = f"{_RECORD} WHERE id = %(id)s"

FETCH: Final = f'{_RECORD} WHERE id = ANY(%(ids)s::text[] COLLATE "C")'

FINISHED_ONE: Final = f"{FETCH_ONE} AND finished_at IS NOT NULL"

FINISHED: Final = f"{FETCH} AND finished_at IS NOT NULL"

FORGET_ALONE: Final = """
DELETE FROM {jobs} WHERE id = %(id)s AND finished_at IS NOT NULL AND workflow_id IS NULL AND NOT successors
RETURNING 1"""

# The start of the server and the tables' own numbers name a database as no host name can. (The
# start as a number: its text would follow the TimeZone of the connection that asks.)
IDENTITY: Final = """
SELECT current_database(), extract(epoch FROM pg_postmaster_start_time())::text,
    to_regclass({jobs_text})::oid::bigint"""
