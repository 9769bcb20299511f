"""The statements of workflows. Those that are the same on both databases are written once.

Where the databases differ in a word, the text names the word (`{among}`, `{lock}`, ...), and
`POSTGRES` and `SQLITE` give it. Lists of ids are arrays on PostgreSQL and JSON on SQLite
(`Store.listed`); pairs are a JSON object on both.

Locks are taken in one order everywhere: rows that are STARTED first, then blocked ones, each kind
by id within one statement. Two rounds that complete headers of the same chords wait for each other
at their bodies, and never in a circle.
"""

from __future__ import annotations

from typing import Final

from dbqueue.jobs import NOT_ENQUEUED
from dbqueue.store.postgres import sql as postgres_sql
from dbqueue.workflows import DELAY, EXPIRY

# A row's options may be any JSON on PostgreSQL, of which `->>` refuses some texts; and anything at all on SQLite.
# What is no number of seconds, or too large a one, counts for nothing.
_POSTGRES_OPTIONS: Final = "(CASE WHEN CAST(options AS text) !~ '\\\\u(0000|[dD][89a-fA-F])' THEN options END)"


def _sqlite_json(column: str) -> str:
    return f"(CASE WHEN typeof({column}) = 'text' AND json_valid({column}) THEN json({column}) END)"


def _postgres_seconds(name: str) -> str:
    value = f"{_POSTGRES_OPTIONS} ->> '{name}'"
    number = r"'^-?[0-9]{1,10}(\.[0-9]+)?(e-[0-9]{1,2})?$'"
    return f"make_interval(secs => CASE WHEN ({value}) ~ {number} THEN CAST({value} AS float8) END)"


def _sqlite_seconds(name: str) -> str:
    value = f"({_sqlite_json('options')} ->> '{name}')"
    return f"(CASE WHEN typeof({value}) IN ('integer', 'real') AND abs({value}) < 1e10 THEN {value} END || ' seconds')"


POSTGRES: Final = {
    "among": '= ANY(CAST(:ids AS text[]) COLLATE "C")',
    "given": "unnest(CAST(:ids AS text[])) AS b(id)",
    "pairs": "json_each_text(CAST(:pairs AS json)) AS p(key, value)",
    "c": ' COLLATE "C"',
    # Row by row, by the index, whatever the planner thinks: OFFSET keeps it from turning the join round. It thinks
    # that the edges are none, for one, where the table was looked through just after its last workflow was pruned.
    "each": "CROSS JOIN LATERAL (SELECT ctid, * FROM ",
    "each_or_none": "LEFT JOIN LATERAL (SELECT * FROM ",
    "out_of_b": 'e WHERE e.predecessor = b.id COLLATE "C" OFFSET 0) AS e',
    "into_b": 'e WHERE e.successor = b.id COLLATE "C" OFFSET 0) AS e',
    "at_start": "p WHERE p.id = e.predecessor OFFSET 0) AS p",
    "at_start_or_none": "p WHERE p.id = e.predecessor OFFSET 0) AS p ON true",
    "at_end": "s WHERE s.id = e.successor OFFSET 0) AS s",
    # Edges are never changed, so their addresses hold. `successor = ANY(...)` might read the whole primary key.
    "address": "ctid",
    "any_of": "= ANY(ARRAY",
    "end": ")",
    "lock": "FOR UPDATE",
    "moment": "coalesce(CAST(:now AS timestamptz), now())",
    "options": _POSTGRES_OPTIONS,
    "due": "greatest(eta, coalesce(CAST(:now AS timestamptz), now())"
    f" + coalesce({_postgres_seconds(DELAY)}, interval '0'))",
    "lapse": f"coalesce(coalesce(CAST(:now AS timestamptz), now()) + {_postgres_seconds(EXPIRY)}, expires_at)",
    "json_from": "CAST(",
    "json_to": " AS json)",
    "lease": "CAST(:lease AS uuid)",
    "asked": "coalesce(CAST(:eta AS timestamptz), now() + make_interval(secs => CAST(:delay_seconds AS float8)))",
    "expiry": "coalesce(CAST(:expires_at AS timestamptz),"
    " now() + make_interval(secs => CAST(:expires_seconds AS float8)), expires_at)",
    "greatest": "greatest",
    # `greatest` passes over what is NULL. What ended at `surplus_at` is too much, too.
    "before": "greatest(coalesce(CAST(:now AS timestamptz), now()) - make_interval(secs => CAST(:seconds AS float8)),"
    " CAST(:surplus_at AS timestamptz) + interval '1 microsecond')",
    "clock": "now()",
    "index": "CAST(split_part(trim(both '[]' from place), ',', 1) AS integer)",
    "size": "octet_length",
    "object": "json_build_object",
    "args": "p.args",
    "kwargs": "p.kwargs",
    "headers": "p.headers",
    "result": "p.result",
}
SQLITE: Final = {
    "among": "IN (SELECT value FROM json_each(:ids))",
    "given": "(SELECT value AS id FROM json_each(:ids)) AS b",
    "pairs": "json_each(:pairs) AS p",
    "c": "",
    # SQLite keeps the order of a CROSS JOIN, whatever an ANALYZE has left behind.
    "each": "CROSS JOIN ",
    "each_or_none": "LEFT JOIN ",
    "out_of_b": "e ON e.predecessor = b.id",
    "into_b": "e ON e.successor = b.id",
    "at_start": "p ON p.id = e.predecessor",
    "at_start_or_none": "p ON p.id = e.predecessor",
    "at_end": "s ON s.id = e.successor",
    "address": "rowid",
    "any_of": "IN",
    "end": "",
    "lock": "",
    "moment": "coalesce(:now, strftime('%Y-%m-%d %H:%M:%f', 'now'))",
    "options": _sqlite_json("options"),
    "due": "max(coalesce(eta, ''), strftime('%Y-%m-%d %H:%M:%f', coalesce(:now, 'now'),"
    f" coalesce({_sqlite_seconds(DELAY)}, '0 seconds')))",
    "lapse": f"coalesce(strftime('%Y-%m-%d %H:%M:%f', coalesce(:now, 'now'), {_sqlite_seconds(EXPIRY)}), expires_at)",
    "json_from": "",
    "json_to": "",
    "lease": ":lease",
    "asked": "coalesce(:eta, strftime('%Y-%m-%d %H:%M:%f', 'now', :delay_seconds || ' seconds'))",
    "expiry": "coalesce(:expires_at, strftime('%Y-%m-%d %H:%M:%f', 'now', :expires_seconds || ' seconds'), expires_at)",
    "greatest": "max",
    "before": "max(coalesce(strftime('%Y-%m-%d %H:%M:%f', coalesce(:now, 'now'), (-:seconds) || ' seconds'), ''),"
    " coalesce(:surplus_at || '0', ''))",
    "clock": "strftime('%Y-%m-%d %H:%M:%f', 'now')",
    "index": "CAST(substr(place, 2) AS integer)",
    "size": "length",
    "object": "json_object",
    **{name: _sqlite_json(f"p.{name}") for name in ("args", "kwargs", "headers", "result")},
}

# -- a predecessor has succeeded --------------------------------------------------------------------

# What a row becomes that waits for no predecessor any more: it may run, or waits for its limit. A countdown
# and an expiry in seconds count from now on.
#
# That it waits is asked for PostgreSQL, which makes a row of what a statement's snapshot shows, and checks it, before
# it finds out that it is another by now: one that has failed, and that an operator lets wait again.
_WAITS: Final = "status IN ('PENDING', 'RETRY')"
_FREE: Final = f"""blocked_reason = CASE WHEN limit_key IS NOT NULL AND {_WAITS} THEN 'limit' END, waits_for = 0,
    eta = CASE WHEN {{options}} ->> 'delay_seconds' IS NOT NULL THEN {{due}} ELSE eta END, expires_at = {{lapse}},
    ready_at = CASE WHEN limit_key IS NULL AND {_WAITS} THEN {{due}} END,
    held_at = CASE WHEN limit_key IS NOT NULL AND {_WAITS} THEN {{due}} END"""

# One statement ends the jobs and moves what waits for them, so that the outcome of a round which is sent
# again moves nothing: it ends no row. The counts of a batch are summed first, and `locked` has
# them as they are once the lock is held, whatever the statement's snapshot says.
#
# An errback that no failure can reach any more is deleted, and with it what waits for it.
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
    UPDATE {{jobs}} s SET {_FREE}
    WHERE s.id = ANY(ARRAY(SELECT id FROM locked WHERE waits_for <= 0 AND counts))
    RETURNING s.id
), unlinked AS (
    DELETE FROM {{edges}} WHERE ctid = ANY(ARRAY(SELECT e.ctid FROM dropped b {{each}}{{edges}} {{into_b}}))
), deleted AS (
    DELETE FROM {{jobs}} WHERE id = ANY(ARRAY(SELECT id FROM dropped)) AND blocked_reason = 'predecessors'
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

FREE: Final = f"UPDATE {{jobs}} SET {_FREE} WHERE id {{among}}"

# -- jobs that can never run ------------------------------------------------------------------------

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

WITH_SUCCESSORS: Final = "SELECT id FROM {jobs} WHERE id {among} AND successors"

LOCK_READ: Final = (
    "SELECT id FROM {jobs} WHERE id {among} AND successors AND finished_at IS NOT NULL ORDER BY id {lock}"
)

LOCK_TOGETHER: Final = "SELECT id FROM {jobs} WHERE id {among} ORDER BY status <> 'STARTED', id {lock}"

LOCK_BLOCKED: Final = """
SELECT id, waits_for, {options} ->> 'join', {options} ->> 'replaced' FROM {jobs}
WHERE id {among} AND blocked_reason = 'predecessors' ORDER BY id {lock}"""

EDGES_INTO: Final = "SELECT e.predecessor, e.successor, e.event, e.place FROM {given} {each}{edges} {into_b}"

END: Final = """
UPDATE {jobs}
SET status = :status, result = {json_from}:error{json_to}, traceback = :traceback,
    finished_at = {moment}, ready_at = NULL, blocked_reason = NULL, waits_for = 0
WHERE id {among}"""

# The failed job is the errback's parent: its claim reads what to tell it of from there.
FIRE: Final = f"""
UPDATE {{jobs}} SET parent_id = p.value, {_FREE}
FROM {{pairs}} WHERE {{jobs}}.id = p.key{{c}}"""

LOWER: Final = """
UPDATE {jobs} SET waits_for = waits_for - CAST(p.value AS integer)
FROM {pairs} WHERE {jobs}.id = p.key{c}"""

UNLINK: Final = """
DELETE FROM {edges} WHERE {address} {any_of}(SELECT e.{address} FROM {given} {each}{edges} {into_b}){end}"""

# But for those by which a job that has ended took something: they go with it.
UNLINK_FROM: Final = """
DELETE FROM {edges}
WHERE predecessor {among} AND (place IS NULL OR (
    SELECT 1 FROM {jobs} s WHERE s.id = successor AND s.inputs AND s.finished_at IS NOT NULL
      AND (event = 'success' OR predecessor = s.parent_id)) IS NULL)"""

DELETE_OF_WORKFLOW: Final = "DELETE FROM {jobs} WHERE id {among} AND workflow_id = :workflow"

DELETE: Final = "DELETE FROM {jobs} WHERE id {among}"

# After the edges were written: who forgets or deletes the row has to see to those that begin at it.
ADOPT: Final = """
UPDATE {jobs}
SET workflow_id = :workflow,
    successors = (SELECT 1 FROM {edges} e WHERE e.predecessor = {jobs}.id LIMIT 1) IS NOT NULL
WHERE id {among} AND workflow_id IS NULL"""

# -- jobs that change their own workflow --------------------------------------------------------------

# A replacement begins anew, as Celery's does: no retries and no losses count.
REPLACE: Final = """
UPDATE {jobs}
SET status = 'PENDING', lease = NULL, worker = NULL, started_at = NULL, state = NULL, meta = NULL, permit = NULL,
    retries = 0, losses = 0, result = NULL, result_content = NULL, traceback = NULL,
    task = :task, queue = :queue, priority = :priority, args = {json_from}:args{json_to},
    kwargs = {json_from}:kwargs{json_to}, headers = {json_from}:headers{json_to},
    options = {json_from}:options{json_to}, content_type = :content_type, content = :content,
    limit_key = :limit_key, waits_for = :waits_for, inputs = :inputs, successors = successors OR :successors,
    blocked_reason = :blocked_reason, eta = {asked}, expires_at = {expiry},
    ready_at = CASE WHEN CAST(:blocked_reason AS text) IS NULL
        THEN {greatest}(coalesce({asked}, {clock}), {clock}) END,
    held_at = CASE WHEN CAST(:blocked_reason AS text) = 'limit'
        THEN {greatest}(coalesce({asked}, {clock}), {clock}) END,
    workflow_id = CASE WHEN :in_workflow THEN coalesce(workflow_id, id) ELSE workflow_id END
WHERE id = :id AND lease = {lease} AND status = 'STARTED'
RETURNING workflow_id"""

LOCK_RUNNING: Final = """
SELECT id FROM {jobs} WHERE id = :id AND lease = {lease} AND status = 'STARTED' {lock}"""

SUCCESSORS: Final = """
SELECT e.successor, e.place, {options} ->> 'join',
    (SELECT count(*) FROM {edges} i WHERE i.successor = s.id AND i.event = 'success')
FROM {given} {each}{edges} {out_of_b} {each}{jobs} {at_end}
WHERE e.event = 'success'"""

IS_RUNNING: Final = LOCK_RUNNING.removesuffix(" {lock}")

IS_BLOCKED: Final = "SELECT id FROM {jobs} WHERE id = :id AND blocked_reason = 'predecessors'"

LAST_PLACE: Final = """
SELECT workflow_id, (
    SELECT max({index}) FROM {edges}
    WHERE successor = s.id AND event = 'success' AND substr(place, 1, 1) = '[' AND place <> '[]'),
    finished_at IS NOT NULL
FROM {jobs} s WHERE s.id = :id"""

RAISE_COUNT: Final = "UPDATE {jobs} SET waits_for = waits_for + :more WHERE id = :id"

# -- an operator's changes --------------------------------------------------------------------------

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

# -- rows that have served ----------------------------------------------------------------------------

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

# -- what a claim reads -----------------------------------------------------------------------------

_FAILED_CALL: Final = """{object}('id', p.id, 'task', p.task, 'queue', p.queue, 'priority', p.priority,
    'args', {args}, 'kwargs', {kwargs}, 'content_type', p.content_type, 'headers', {headers},
    'retries', p.retries, 'parent_id', p.parent_id, 'root_id', p.root_id,
    'group_id', p.group_id, 'error', {result}, 'traceback', p.traceback)"""

# No more than `:limit` bytes for one job, nor for the batch, unless one job of it has as much: a
# supervisor holds them all. Of others only the size is told.
INPUTS: Final = f"""
SELECT successor, predecessor, place, CASE WHEN fits THEN input END, CASE WHEN fits THEN content END, total, fits, gone
FROM (
    SELECT *, total <= :limit AND (so_far <= :limit OR so_far = total) AS fits
    FROM (
        SELECT *, sum(CASE WHEN total <= :limit THEN size ELSE 0 END) OVER (ORDER BY successor) AS so_far
        FROM (
            SELECT *, sum(size) OVER (PARTITION BY successor) AS total
            FROM (
                SELECT successor, predecessor, place, input, content, gone,
                    coalesce({{size}}(input), 0) + coalesce({{size}}(content), 0) AS size
                FROM (
                    SELECT e.successor, e.predecessor, e.place, p.id IS NULL AS gone,
                        CASE e.event WHEN 'success' THEN CAST(p.result AS text)
                            ELSE CAST({_FAILED_CALL} AS text) END AS input,
                        CASE e.event WHEN 'success' THEN p.result_content ELSE p.content END AS content
                    FROM {{given}} {{each}}{{edges}} {{into_b}} {{each_or_none}}{{jobs}} {{at_start_or_none}}
                    WHERE e.place IS NOT NULL AND (e.event = 'success'
                        OR e.predecessor = (SELECT s.parent_id FROM {{jobs}} s WHERE s.id = e.successor))
                ) AS read_from_rows) AS sized
            ) AS summed
        ) AS running
    ) AS marked
ORDER BY successor"""
