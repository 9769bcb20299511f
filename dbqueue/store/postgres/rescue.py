"""What dead workers held is taken back: their jobs run again, or end as FAILURE, each by its own `redeliver`.

One transaction, which reads the table once: an index on (worker, status) would cost every completion its heap-only
update, and a worker seldom dies (a million rows: 0.2 s).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

from dbqueue import failpoints
from dbqueue.errors import LockTimeout
from dbqueue.jobs import BLOCKED_BY_LIMIT, FAILURE, PENDING
from dbqueue.store import steps
from dbqueue.store.base import Store
from dbqueue.store.postgres import sql, worker_rows
from dbqueue.store.postgres.driver import Driver, translated
from dbqueue.store.postgres.free_rows import locked_below
from dbqueue.store.records import Rescued
from dbqueue.store.rows import LOST_ERROR
from dbqueue.store.transactions.joining import JoinedPsycopg
from dbqueue.store.workflows import failure

# Who has a claim in flight (its KEY SHARE) is passed over until the next look, and who has beaten since lives.
LOCK_DEAD: Final = """
SELECT w.id FROM unnest(%(ids)s::text[], %(heartbeats)s::timestamptz[]) AS d(id, heartbeat_at)
JOIN {workers} w ON w.id = d.id COLLATE "C"
WHERE w.closed_at IS NULL AND w.heartbeat_at = d.heartbeat_at ORDER BY w.id FOR UPDATE OF w SKIP LOCKED"""

# A row that a transaction has locked is left for the next rescue, for which its worker's row stays open (`LEFT`): the
# job's own task may have been stopped between its SUCCESS and its COMMIT, and a worker that waited for that would do
# nothing else. Should the dead one come back meanwhile, the leases it has lost keep it from writing.
#
# The last column: whether the job ends, and others wait for it.
HELD: Final = """
SELECT id, worker, successors AND NOT (redeliver AND losses < %(max_losses)s) FROM {jobs}
WHERE worker = ANY(%(workers)s::text[]) AND status = 'STARTED' ORDER BY id FOR UPDATE SKIP LOCKED"""

_AGAIN: Final = "j.redeliver AND j.losses < %(max_losses)s"


def _if_again(condition: str, column: str, value: str) -> str:
    """Set a column of those jobs that run again and fit the condition."""
    return f"{column} = CASE WHEN {_AGAIN} AND {condition} THEN {value} END"


TAKE_BACK: Final = f"""
UPDATE {{jobs}} j
SET losses = least(j.losses, {sql.MAX_COUNT} - 1) + 1, state = NULL, meta = NULL,
    status = CASE WHEN {_AGAIN} THEN 'PENDING' ELSE 'FAILURE' END,
    {_if_again("j.limit_key IS NULL", "ready_at", sql.CREATED_AT)},
    {_if_again("j.limit_key IS NOT NULL", "held_at", sql.CREATED_AT)},
    {_if_again("j.limit_key IS NOT NULL", "blocked_reason", f"'{BLOCKED_BY_LIMIT}'")}, permit = NULL,
    lease = CASE WHEN {_AGAIN} THEN NULL ELSE j.lease END,
    started_at = CASE WHEN {_AGAIN} THEN NULL ELSE j.started_at END,
    finished_at = CASE WHEN {_AGAIN} THEN NULL ELSE coalesce(%(now)s::timestamptz, now()) END,
    result = CASE WHEN {_AGAIN} THEN j.result ELSE %(error)s::json END
WHERE j.id = ANY(%(ids)s::text[] COLLATE "C")
RETURNING j.worker, j.status, j.id, j.successors"""

LEFT: Final = "SELECT DISTINCT worker FROM {jobs} WHERE worker = ANY(%(workers)s::text[]) AND status = 'STARTED'"


def take_back(
    store: Store, driver: Driver, late: Mapping[str, str], *, max_losses: int, now: datetime | None
) -> list[Rescued]:
    """In a transaction that may read the table. `late`: workers, and the heartbeats by which they were found dead."""

    def rows(template: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        return driver.execute(store.text(template), parameters).fetchall()

    def taken(ids: Collection[str]) -> list[tuple[Any, ...]]:
        found = rows(TAKE_BACK, {"ids": list(ids), "max_losses": max_losses, "error": LOST_ERROR, "now": now})
        failpoints.hit("rescue.between", driver)
        return found

    def end(ids: Collection[str]) -> list[tuple[Any, ...]]:
        """Those jobs that others wait for, as far as nobody has locked one of these. Raises LockTimeout."""
        with translated(), driver.transaction():
            driver.execute(sql.WAIT_FOR_ROWS)
            ended = taken(set(ids) - locked_below(store, driver, ids, failed=ids))
            steps.run(failure.propagate(store, failure.lost(ended), now), JoinedPsycopg(driver).reply)
        return ended

    dead = [row[0] for row in rows(LOCK_DEAD, {"ids": list(late), "heartbeats": list(late.values())})]
    if not dead:
        return []
    held = rows(HELD, {"workers": dead, "max_losses": max_losses})
    found = taken([job_id for job_id, _, ends_others in held if not ends_others])
    ending = {job_id: worker for job_id, worker, ends_others in held if ends_others}
    if ending:
        with contextlib.suppress(LockTimeout):  # what is taken back already does not depend on it
            found += end(ending)
    locked = {ending[job_id] for job_id in ending.keys() - {row[2] for row in found}}
    left = {row[0] for row in rows(LEFT, {"workers": dead})}
    for worker in dead:
        if worker not in left:
            driver.execute(store.text(worker_rows.CLOSE_WORKER), {"worker": worker})
    statuses = [row[:2] for row in found]
    return [
        Rescued(
            worker,
            statuses.count((worker, PENDING)),
            statuses.count((worker, FAILURE)),
            left=worker in left,
            locked=worker in locked,
        )
        for worker in dead
    ]
