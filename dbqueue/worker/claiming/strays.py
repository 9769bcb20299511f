"""Jobs that are STARTED by a worker which holds nothing of them any more.

Somebody has changed the lease in the row, so that the outcome found another and was dropped. Or there was no row when
the outcome came, and now there is (`Absent`). Nobody rescues jobs of a worker that beats, so its own worker sees to it:
by the outcome where that is known, and else as one whose run was lost, which it was.
"""

from __future__ import annotations

from dbqueue.jobs import Outcome
from dbqueue.store.records import Stray
from dbqueue.store.sessions import WorkSession
from dbqueue.worker import log
from dbqueue.worker.claiming.absent import Absent
from dbqueue.worker.claiming.holding import Holding
from dbqueue.worker.claiming.settling import TROUBLE, settle_in_time
from dbqueue.worker.running.lost_runs import LostRun


def take_back(session: WorkSession, holding: Holding, *, max_losses: int) -> bool:
    """End what is found, runs that were lost each by its own `redeliver` and losses; whether others may run now.

    What somebody has locked is left for the next call; so is all of it where an error is raised, or where the database
    refuses one: that keeps nothing else from being done.
    """
    absent, held = holding.absent, holding.leases
    absent.forget_old()
    sought = holding.astray | absent.ids
    if not sought:
        return False
    found = [each for each in session.strays(holding.worker_id, sought) if each.id not in held]
    left: frozenset[str] = frozenset()
    if found:
        linked = {each.id for each in found if each.successors}
        try:
            outcomes = [_known(each, absent) or _lost(each, max_losses) for each in found]
            result = settle_in_time(session, outcomes, None, linked)
        except TROUBLE:
            raise
        except Exception as error:  # noqa: BLE001 - what nobody expects
            log.logger.error("What has gone astray cannot be ended, and is tried again: %s", error)
            return False
        if result.refusal:
            log.logger.error("What has gone astray cannot be ended, and is tried again: %s", result.refusal)
        left = result.locked | result.astray
        for job_id in {each.id for each in found} - left:
            absent.ended(job_id)
        for outcome in result.absent:  # hidden again
            absent.add(outcome.job_id, outcome)
    holding.astray = set(left)
    return len(left) < len(found)


def _known(stray: Stray, absent: Absent) -> Outcome | None:
    outcome = absent.outcome_of(stray)
    if outcome is not None:
        log.logger.warning("The row of job %s is there again: its outcome is written now", stray.id)
    return outcome


def _lost(stray: Stray, max_losses: int) -> Outcome:
    loss = LostRun(stray, max_losses)
    log.astray(stray.id, loss.next_step)
    return loss.outcome(f"the lease of job {stray.id} was changed while it ran, and it may not run again")
