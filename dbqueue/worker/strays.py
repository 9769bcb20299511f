"""Jobs that are STARTED by a worker which knows nothing of them, for somebody has changed the lease in their rows.

The outcome of such a job finds that, and is dropped. Nobody rescues jobs of a worker that beats, so its own worker
takes it back: as one whose run was lost, which it was.
"""

from __future__ import annotations

from dbqueue.jobs import Outcome
from dbqueue.store.records import Stray
from dbqueue.store.sessions import WorkSession
from dbqueue.worker import log
from dbqueue.worker.holding import Holding
from dbqueue.worker.lost_runs import LostRun
from dbqueue.worker.settling import TROUBLE, settle_in_time


def take_back(session: WorkSession, holding: Holding, *, max_losses: int) -> bool:
    """End what has gone astray, each by its own `redeliver` and losses; whether others may run now.

    What somebody has locked is left for the next call; so is all of it where an error is raised, or where the database
    refuses one: that keeps nothing else from being done.
    """
    if not holding.astray:
        return False
    held = holding.leases
    found = [each for each in session.strays(holding.worker_id, holding.astray) if each.id not in held]
    left: frozenset[str] = frozenset()
    if found:
        linked = {each.id for each in found if each.successors}
        try:
            result = settle_in_time(session, [_lost(each, max_losses) for each in found], None, linked)
        except TROUBLE:
            raise
        except Exception as error:  # noqa: BLE001 - what nobody expects
            log.logger.error("What has gone astray cannot be ended, and is tried again: %s", error)
            return False
        if result.refusal:
            log.logger.error("What has gone astray cannot be ended, and is tried again: %s", result.refusal)
        left = result.locked | result.astray
    holding.astray = set(left)
    return len(left) < len(found)


def _lost(stray: Stray, max_losses: int) -> Outcome:
    loss = LostRun(stray, max_losses)
    log.astray(stray.id, loss.next_step)
    return loss.outcome(f"the lease of job {stray.id} was changed while it ran, and it may not run again")
