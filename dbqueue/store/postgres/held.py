"""Held jobs on PostgreSQL: the statements of `held`, planned as those of `postgres.sql` are."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import psycopg

from dbqueue.jobs import ClaimedJob
from dbqueue.limits import Limit
from dbqueue.store.held import Asked, Candidate, HeldTable, Level, LimitState
from dbqueue.store.postgres.sql import CLAIMED_COLUMNS, seconds_until
from dbqueue.store.records import HeldClaim

_NOW: Final = "coalesce(%(now)s::timestamptz, clock_timestamp())"
_FOUND: Final = "j.limit_key, j.queue, j.priority, j.held_at, j.task"
_ORDER: Final = "ORDER BY j.limit_key, j.queue, j.priority, j.held_at, j.id LIMIT 1"
_LEVELS: Final = f"""
SELECT limit_key, queue, priority, {seconds_until("held_at")}::float8, task FROM levels"""

# From level to level by comparing rows, which the index answers with one probe each.
LEVELS: Final = f"""
WITH RECURSIVE levels(limit_key, queue, priority, held_at, task, number) AS (
    (SELECT {_FOUND}, 1 FROM {{jobs}} j
     WHERE j.held_at IS NOT NULL
       AND (j.limit_key, j.queue, j.priority) > (%(key)s::text, %(queue)s::text, %(priority)s::int)
     {_ORDER})
  UNION ALL
    SELECT n.*, l.number + 1 FROM levels l CROSS JOIN LATERAL (
        SELECT {_FOUND} FROM {{jobs}} j
        WHERE j.held_at IS NOT NULL AND (j.limit_key, j.queue, j.priority) > (l.limit_key, l.queue, l.priority)
        {_ORDER}) n
    WHERE l.number < %(most)s
) {_LEVELS}"""

LEVELS_OF: Final = f"""
WITH RECURSIVE levels(limit_key, queue, priority, held_at, task, number) AS (
    SELECT f.*, 1 FROM unnest(%(keys)s::text[]) AS k(key) CROSS JOIN LATERAL (
        SELECT {_FOUND} FROM {{jobs}} j WHERE j.held_at IS NOT NULL AND j.limit_key = k.key COLLATE "C"
        {_ORDER}) f
  UNION ALL
    SELECT n.*, l.number + 1 FROM levels l CROSS JOIN LATERAL (
        SELECT {_FOUND} FROM {{jobs}} j
        WHERE j.held_at IS NOT NULL AND j.limit_key = l.limit_key AND (j.queue, j.priority) > (l.queue, l.priority)
        {_ORDER}) n
    WHERE l.number < %(most)s
) {_LEVELS}"""

LOCK: Final = f"""
SELECT key, max_running, rate, full_at, extract(epoch FROM {_NOW})::float8 FROM {{limits}}
WHERE key = ANY(%(keys)s::text[] COLLATE "C") ORDER BY key FOR UPDATE SKIP LOCKED"""

KNOWN: Final = f"""
SELECT extract(epoch FROM {_NOW})::float8, ARRAY(
    SELECT key FROM {{limits}} WHERE key = ANY(%(keys)s::text[] COLLATE "C"))"""

ADD: Final = """
INSERT INTO {limits} (key, max_running, rate, task, source)
SELECT d.*, 'call' FROM unnest(%(key)s::text[], %(running)s::int[], %(rate)s::text[], %(task)s::text[]) AS d
ON CONFLICT (key) DO NOTHING RETURNING key"""

FIRST_DUE: Final = """
WITH RECURSIVE levels(position, queue, priority) AS (
    SELECT q.position, q.queue, (
        SELECT j.priority FROM {jobs} j
        WHERE j.queue = q.queue COLLATE "C" AND j.ready_at IS NOT NULL
        ORDER BY j.priority DESC LIMIT 1)
    FROM unnest(%(queues)s::text[]) WITH ORDINALITY AS q(queue, position)
  UNION ALL
    SELECT l.position, l.queue, (
        SELECT j.priority FROM {jobs} j
        WHERE j.queue = l.queue COLLATE "C" AND j.ready_at IS NOT NULL AND j.priority < l.priority
        ORDER BY j.priority DESC LIMIT 1)
    FROM levels l WHERE l.priority IS NOT NULL
)
SELECT l.position - 1, -l.priority, due.ready_at::text
FROM (SELECT * FROM levels WHERE priority IS NOT NULL ORDER BY position, priority DESC) l
CROSS JOIN LATERAL (
    SELECT i.ready_at FROM {jobs} i
    WHERE i.queue = l.queue COLLATE "C" AND i.priority = l.priority
      AND i.ready_at <= coalesce(%(now)s::timestamptz, now())
    ORDER BY i.ready_at LIMIT 1) due
LIMIT 1"""

# `used` reads at most as many permits as there may be, whatever is left of former ones.
CANDIDATES: Final = """
WITH free AS MATERIALIZED (
    SELECT k.key, greatest(0, CASE WHEN k.running IS NULL THEN k.most ELSE least(k.most, k.running - (
        SELECT count(*) FROM (
            SELECT FROM {jobs} p WHERE p.permit = k.key COLLATE "C" LIMIT k.running) used)::int) END) AS most
    FROM unnest(%(keys)s::text[], %(running)s::int[], %(most)s::int[]) AS k(key, running, most)
)
SELECT f.key, f.most, l.position, l.priority, due.held_at::text, due.id, due.task
FROM free f JOIN unnest(%(level_keys)s::text[], %(queues)s::text[], %(priorities)s::int[], %(positions)s::int[])
    AS l(key, queue, priority, position) ON l.key = f.key
CROSS JOIN LATERAL (
    SELECT i.id, i.task, i.held_at FROM {jobs} i
    WHERE i.limit_key = l.key COLLATE "C" AND i.queue = l.queue COLLATE "C" AND i.priority = l.priority
      AND i.held_at <= coalesce(%(now)s::timestamptz, now())
    ORDER BY i.held_at, i.id LIMIT f.most FOR UPDATE SKIP LOCKED) due"""

# The OFFSET keeps the planner to one probe for each id: joined as it likes, a table that was tiny is read whole.
TAKE: Final = f"""
WITH me AS MATERIALIZED (
    SELECT id, CASE WHEN NOT %(durable)s THEN set_config('synchronous_commit', 'off', true) END
    FROM {{workers}} WHERE id = %(worker)s AND closed_at IS NULL FOR KEY SHARE
)
UPDATE {{jobs}} j
SET status = 'STARTED', held_at = NULL, blocked_reason = NULL, permit = p.permit, worker = %(worker)s,
    lease = %(lease)s, started_at = clock_timestamp(), redeliver = j.task <> ALL(%(once)s::text[])
FROM me, unnest(%(ids)s::text[], %(permits)s::text[], %(times)s::timestamptz[]) AS p(id, permit, ready_at)
CROSS JOIN LATERAL (SELECT i.ctid AS tid{{id_of_i}} FROM {{jobs}} i WHERE i.id = p.id COLLATE "C" OFFSET 0) t
WHERE j.ctid = t.tid{{same_as_t}} AND j.status IN ('PENDING', 'RETRY')
RETURNING {CLAIMED_COLUMNS}"""

# With the outcomes that freed the permits, in one round trip: locks in the order of keys, then a claim that
# is CLAIM's, over the index of held rows. It waits for a lock, since nobody could tell it that it got none.
LOCK_KEYS: Final = """
SELECT key FROM {limits} WHERE key = ANY(%(keys)s::text[] COLLATE "C") ORDER BY key FOR UPDATE"""

CLAIM_KEYS: Final = f"""
WITH RECURSIVE me AS MATERIALIZED (
    SELECT id, CASE WHEN NOT %(durable)s THEN set_config('synchronous_commit', 'off', true) END
    FROM {{workers}} WHERE id = %(worker)s AND closed_at IS NULL FOR KEY SHARE
), free(key, most) AS MATERIALIZED (
    SELECT l.key, least(%(limit)s, l.max_running - (SELECT count(*) FROM (
        SELECT FROM {{jobs}} p WHERE p.permit = l.key LIMIT l.max_running) used))
    FROM me, {{limits}} l
    WHERE l.key = ANY(%(keys)s::text[] COLLATE "C") AND l.max_running IS NOT NULL AND l.rate IS NULL
), levels(key, most, position, queue, priority) AS (
    SELECT f.key, f.most, q.position, q.queue, (
        SELECT j.priority FROM {{jobs}} j
        WHERE j.limit_key = f.key AND j.queue = q.queue COLLATE "C" AND j.held_at IS NOT NULL
        ORDER BY j.priority DESC LIMIT 1)
    FROM free f, unnest(%(queues)s::text[]) WITH ORDINALITY AS q(queue, position) WHERE f.most > 0
  UNION ALL
    SELECT l.key, l.most, l.position, l.queue, (
        SELECT j.priority FROM {{jobs}} j
        WHERE j.limit_key = l.key AND j.queue = l.queue COLLATE "C" AND j.held_at IS NOT NULL
          AND j.priority < l.priority
        ORDER BY j.priority DESC LIMIT 1)
    FROM levels l WHERE l.priority IS NOT NULL
), ranked AS MATERIALIZED (
    SELECT due.*, l.most, l.position, l.priority, row_number() OVER (
        PARTITION BY l.key ORDER BY l.position, l.priority DESC, due.ready_at, due.id) AS nth
    FROM levels l CROSS JOIN LATERAL (
        SELECT i.ctid AS tid, i.held_at AS ready_at, i.id FROM {{jobs}} i
        WHERE i.limit_key = l.key AND i.queue = l.queue COLLATE "C" AND i.priority = l.priority
          AND i.held_at <= coalesce(%(now)s::timestamptz, now())
        ORDER BY i.held_at, i.id LIMIT l.most FOR UPDATE SKIP LOCKED) due
    WHERE l.priority IS NOT NULL
), picked AS MATERIALIZED (
    SELECT tid{{id_of_ranked}}, ready_at FROM ranked WHERE nth <= most
    ORDER BY position, priority DESC, ready_at, id LIMIT %(limit)s
)
UPDATE {{jobs}} j
SET status = 'STARTED', held_at = NULL, blocked_reason = NULL, permit = j.limit_key, worker = %(worker)s,
    lease = %(lease)s, started_at = clock_timestamp(), redeliver = j.task <> ALL(%(once)s::text[])
FROM picked p
WHERE j.ctid = p.tid{{same_as_p}} AND j.status IN ('PENDING', 'RETRY')
RETURNING {CLAIMED_COLUMNS}"""

SPEND: Final = """
UPDATE {limits} l SET full_at = d.full_at, updated_at = now()
FROM unnest(%(keys)s::text[], %(full)s::float8[]) AS d(key, full_at) WHERE l.key = d.key COLLATE "C\""""


class PostgresHeld(HeldTable):
    def __init__(
        self, driver: psycopg.Connection[tuple[Any, ...]], text: Callable[[str], str], now: datetime | None
    ) -> None:
        self._driver, self._text, self._now = driver, text, now

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        # In a pipeline BEGIN and COMMIT travel with the statements beside them.
        with self._driver.pipeline(), self._driver.transaction():
            yield

    def levels(self, keys: Collection[str], after: tuple[str, str, int], most: int) -> list[Level]:
        if keys:
            rows = self._rows(LEVELS_OF, keys=list(keys), most=most)
        else:
            key, queue, priority = after
            rows = self._rows(LEVELS, key=key, queue=queue, priority=priority, most=most)
        return [Level._make(row) for row in rows]

    def lock(self, keys: Collection[str]) -> tuple[list[LimitState], set[str], float]:
        parameters = {"keys": list(keys)}
        cursors = [self._execute(template, parameters) for template in (LOCK, KNOWN)]
        locked, [(now, known)] = (cursor.fetchall() for cursor in cursors)
        return [LimitState._make(row[:4]) for row in locked], set(known), now

    def add(self, limits: Sequence[tuple[str, Limit, str]]) -> set[str]:
        if not limits:
            return set()
        columns = {
            "key": [key for key, _, _ in limits],
            "running": [limit.running for _, limit, _ in limits],
            "rate": [limit.rate_text for _, limit, _ in limits],
            "task": [task for _, _, task in limits],
        }
        return {row[0] for row in self._execute(ADD, columns).fetchall()}

    def first_due(self, queues: Sequence[str]) -> tuple[int, int, str] | None:
        rows = self._rows(FIRST_DUE, queues=list(queues))
        return (rows[0][0], rows[0][1], rows[0][2]) if rows else None

    def candidates(self, asked: Sequence[Asked]) -> list[Candidate]:
        by_key = {each.key: each for each in asked}
        rows = self._rows(
            CANDIDATES,
            keys=list(by_key),
            running=[each.running for each in by_key.values()],
            most=[each.most for each in by_key.values()],
            level_keys=[each.key for each in asked],
            queues=[each.queue for each in asked],
            priorities=[each.priority for each in asked],
            positions=[each.position for each in asked],
        )
        return [Candidate._make(row) for row in rows]

    def take(self, claim: HeldClaim, picked: Sequence[Candidate], counted: Collection[str]) -> list[ClaimedJob]:
        parameters = {
            "worker": claim.worker_id,
            "lease": claim.lease,
            "once": list(claim.once),
            "durable": bool(claim.once),
            "ids": [each.id for each in picked],
            "permits": [each.key if each.key in counted else None for each in picked],
            "times": [each.held_at for each in picked],
        }
        # In whatever order the rows were joined.
        rows = {row[0]: row for row in self._rows(TAKE, **parameters)}
        found = (rows[each.id] for each in picked if each.id in rows)
        return [ClaimedJob._make((row[0], claim.lease, *row[1:])) for row in found]

    def spend(self, full_at: Mapping[str, float]) -> None:
        if full_at:
            self._execute(SPEND, {"keys": list(full_at), "full": list(full_at.values())})

    def _rows(self, template: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return self._execute(template, parameters).fetchall()

    def _execute(self, template: str, parameters: dict[str, Any]) -> psycopg.Cursor[tuple[Any, ...]]:
        return self._driver.execute(self._text(template), {**parameters, "now": self._now})
