"""Which outcomes can be written without waiting for somebody's lock on a row: asked, and these rows are locked with it.

A round that has waited for too long (`SESSION`) knows nothing of who is in its way. So it looks, with SKIP LOCKED. What
it finds free is its own until the end of the transaction: the statements that follow find nobody there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from dbqueue.errors import LockTimeout
from dbqueue.jobs import Outcome
from dbqueue.store.base import Store
from dbqueue.store.postgres.driver import Driver, not_said_of_rows, translated
from dbqueue.store.rows import Finish, part, replacements
from dbqueue.store.statements import pyformat

# Whoever has locked the table keeps all outcomes from being written, and is waited for: after that it is about rows.
LOCK_JOBS: Final = "LOCK TABLE {jobs} IN ROW EXCLUSIVE MODE"

# Whoever has locked that of the edges keeps those outcomes from being written that others wait for.
LOCK_EDGES: Final = "LOCK TABLE {edges} IN ROW EXCLUSIVE MODE"

# There are others that are not looked for: what an errback that is dropped takes with it; an id that a replacement
# brings, and which somebody has inserted and not committed.
WAIT_BRIEFLY: Final = "SELECT set_config('lock_timeout', '100ms', true)"

# The application's foreign keys to a row (KEY SHARE) keep nobody from ending its job.
LOCKED: Final = """
WITH free AS MATERIALIZED (
    SELECT id FROM {jobs} WHERE id = ANY(%(ids)s::text[] COLLATE "C") FOR NO KEY UPDATE SKIP LOCKED
)
SELECT id FROM {jobs} WHERE id = ANY(%(ids)s::text[] COLLATE "C") AND id NOT IN (SELECT id FROM free)"""

# The jobs of which a row is locked that waits for them; or of those that have failed, one that waits for that in turn.
# As in `COMPLETE_POSTGRES` and `LOCK_BLOCKED`, which are to find all of these rows free.
LOCKED_BELOW: Final = """
WITH RECURSIVE below(origin, id) AS (
    SELECT b.id, e.successor FROM {given} {each}{edges} {out_of_b}
  UNION
    SELECT b.origin, e.successor FROM below b {each}{edges} {out_of_b}
    WHERE b.origin = ANY(CAST(:failed AS text[]))
      AND (SELECT s.blocked_reason FROM {jobs} s WHERE s.id = b.id) = 'predecessors'
), free AS MATERIALIZED (
    SELECT id FROM {jobs} WHERE id = ANY(ARRAY(SELECT id FROM below)) AND status <> 'STARTED' FOR UPDATE SKIP LOCKED
)
SELECT DISTINCT b.origin FROM below b
WHERE (SELECT s.status FROM {jobs} s WHERE s.id = b.id) <> 'STARTED' AND b.id NOT IN (SELECT id FROM free)"""


def lock_free(
    store: Store, driver: Driver, outcomes: Sequence[Outcome], finish: Iterable[Finish], linked: Collection[str]
) -> frozenset[str]:
    """Lock what these outcomes need, as far as it is free; the jobs whose outcomes would have to wait.

    `finish` are their rows that end jobs. Raises OperationalError where it is the table of jobs that somebody has
    locked.
    """

    with not_said_of_rows(), translated():
        driver.execute(store.text(LOCK_JOBS))
    driver.execute(WAIT_BRIEFLY)
    locked = _ids(store, driver, LOCKED, ids=[each.job_id for each in outcomes])
    _, succeeded, failed = part(finish, linked)
    moving = [row.id for row in succeeded + failed]
    changing = {*moving, *(each.job_id for each in replacements(outcomes))}
    if changing and not _edges_are_free(store, driver):
        locked |= changing
    elif moving:
        locked |= locked_below(store, driver, moving, failed=[row.id for row in failed])
    return frozenset(locked)


def locked_below(store: Store, driver: Driver, ending: Collection[str], *, failed: Collection[str]) -> set[str]:
    """Which of these jobs somebody keeps from ending, for what waits for them is locked; locks it for the others."""
    return _ids(store, driver, LOCKED_BELOW, ids=list(ending), failed=list(failed))


def _ids(store: Store, driver: Driver, template: str, **parameters: Any) -> set[str]:
    with translated():
        return {row[0] for row in driver.execute(pyformat(store.text(template)), parameters).fetchall()}


def _edges_are_free(store: Store, driver: Driver) -> bool:
    try:
        with translated(), driver.transaction():
            driver.execute(store.text(LOCK_EDGES))
    except LockTimeout:
        return False
    return True
