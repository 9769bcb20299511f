"""A round that always settles its outcomes: what the database refuses, and what has lost its lease, is seen to here.

What somebody has locked is no such thing: it is left for another round (`aside`), and named in `Round.locked`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from dbqueue.codec import describe_exception
from dbqueue.errors import AccessDenied, EncodeError, LockTimeout, OperationalError, SchemaError
from dbqueue.jobs import STARTED, TERMINAL, Failed, Outcome, Released, Replaced, Retried, Settled, Succeeded
from dbqueue.store.records import Claim, Round
from dbqueue.store.sessions import WorkSession
from dbqueue.worker import log

TROUBLE: Final = (OperationalError, SchemaError, AccessDenied)
"""What the database has against every statement, whatever the data: not about one row."""
MAX_WAITS: Final = 16
"""How often one call waits for a lock that it has not seen beforehand; what is not written then counts as locked.

It halves the outcomes each time: of a thousand, one is found after eleven waits.
"""
NO_ROW: Final = "unless its row is there again within ten minutes: it was deleted, or is hidden"
"""See `absent`."""


def settle(
    session: WorkSession,
    outcomes: list[Outcome],
    claim: Claim | None,
    linked: Collection[str],
    meanwhile: Callable[[], None] | None = None,
) -> Round:
    """One round with the database; others wait for the jobs `linked`. Raises OperationalError and SchemaError.

    `meanwhile` may be called once, while the database works.
    """
    outcomes = _to_write(outcomes)
    try:
        result = session.round(outcomes, claim, linked=linked, meanwhile=meanwhile)
    except TROUBLE:
        raise
    except Exception as error:  # one bad row must not poison a batch
        if not outcomes:
            raise
        if claim is not None:
            return settle(session, outcomes, None, linked)
        return replace(_bisect(session, outcomes, error, linked), released=bool(linked))
    return explain(session, outcomes, result)


def settle_in_time(
    session: WorkSession,
    outcomes: list[Outcome],
    claim: Claim | None,
    linked: Collection[str],
    meanwhile: Callable[[], None] | None = None,
) -> Round:
    """As `settle`, but for what waits too long for somebody's lock on a row: that is in the result's `locked`.

    Raises LockTimeout where nothing but the claim itself waits for one.
    """
    try:
        return settle(session, outcomes, claim, linked, meanwhile)
    except LockTimeout:  # nothing of this round was done but what may be done again
        if not outcomes:
            if claim is None or not claim.keys:
                raise
            return Round()  # somebody has a limit; there are other ways to jobs that wait for permits
    return settle_free(session, outcomes, claim, linked)


def settle_free(session: WorkSession, outcomes: list[Outcome], claim: Claim | None, linked: Collection[str]) -> Round:
    """As `settle_in_time`, where it is known that somebody has locked rows; the claim comes after the outcomes."""
    done = _settle_free(session, _to_write(outcomes), linked)
    if claim is None:
        return done
    try:
        found = settle(session, [], claim, linked)
    except LockTimeout:
        if not claim.keys:
            raise
        return done  # as above
    return done | found


def _settle_free(session: WorkSession, outcomes: list[Outcome], linked: Collection[str]) -> Round:
    waits = 0

    def write(outcomes: list[Outcome]) -> Round:
        nonlocal waits
        if not outcomes:
            return Round()
        if waits >= MAX_WAITS:
            return Round(locked=frozenset(outcome.job_id for outcome in outcomes))
        try:
            result = session.settle_free(outcomes, linked=linked)
        except LockTimeout:
            waits += 1
            if len(outcomes) == 1:
                return Round(locked=frozenset([outcomes[0].job_id]))
        except TROUBLE:
            raise
        except Exception:  # noqa: BLE001 - as in `settle`, which says of a single one what it is
            if len(outcomes) == 1:
                result = _settle_one(session, outcomes, linked)
                waits += bool(result.refusal)
                return result
        else:
            return explain(session, outcomes, result)
        half = len(outcomes) // 2
        halves = [outcomes[:half], outcomes[half:]]
        random.shuffle(halves)  # the one that comes last may not be tried, and is not always to be the same
        first, second = map(write, halves)
        return first | second

    return write(outcomes)


def _settle_one(session: WorkSession, outcomes: list[Outcome], linked: Collection[str]) -> Round:
    """Of a single outcome, which the database refuses."""
    try:
        return settle(session, outcomes, None, linked)
    except LockTimeout:
        return Round(locked=frozenset(outcome.job_id for outcome in outcomes))


def _to_write(outcomes: list[Outcome]) -> list[Outcome]:
    """Without those that their own transactions have written."""
    if any(type(outcome) is Settled for outcome in outcomes):
        return [outcome for outcome in outcomes if type(outcome) is not Settled]
    return outcomes


def _bisect(session: WorkSession, outcomes: list[Outcome], error: Exception, linked: Collection[str]) -> Round:
    """Find the outcome that the database refuses; it ends as a FAILURE that says so.

    Where even that is refused (by a trigger that somebody has made for the time of his work, say) it counts as locked,
    and so does what comes after it.
    """
    if len(outcomes) > 1:
        half = len(outcomes) // 2
        first = settle(session, outcomes[:half], None, linked)
        if first.locked:
            return first | Round(locked=frozenset(outcome.job_id for outcome in outcomes[half:]))
        return first | settle(session, outcomes[half:], None, linked)
    (outcome,) = outcomes
    text, _ = describe_exception(EncodeError(f"the outcome cannot be stored: {error}"), max_bytes=4096)
    failed = [Failed(outcome.job_id, outcome.lease, text, None, 0.0)]
    try:
        result = _fail(session, failed, linked)
    except TROUBLE:
        raise
    except Exception as refusal:  # noqa: BLE001 - the same
        return Round(locked=frozenset([outcome.job_id]), refusal=str(refusal).partition("\n")[0] or "no reason given")
    log.logger.error("The outcome of job %s cannot be stored and ends as FAILURE: %s", outcome.job_id, error)
    return explain(session, failed, result)


def _fail(session: WorkSession, failed: list[Failed], linked: Collection[str]) -> Round:
    try:
        return session.round(failed, None, linked=linked)
    except TROUBLE:
        raise
    except Exception:
        if not linked:
            raise
        result = session.round(failed, None)
        log.logger.exception("What waits for job %s cannot be moved, and is left as it is", failed[0].job_id)
        return result


def explain(session: WorkSession, outcomes: Collection[Outcome], result: Round) -> Round:
    """Say what became of outcomes that matched no row, never forced, and of leases that only a task missed.

    Returns the result, with what has gone astray or found no row.
    """
    settled, locked = result.settled, result.locked
    for outcome in outcomes:
        if type(outcome) is Succeeded:  # nearly all are
            continue
        if isinstance(outcome, (Released, Failed)) and outcome.missed and outcome.job_id in settled:
            log.lease_missed(outcome.job_id, outcome.missed)
    missing = [each for each in outcomes if each.job_id not in settled and each.job_id not in locked]
    if not missing:
        return result
    recorded = session.recorded([outcome.job_id for outcome in missing])
    for outcome in missing:
        status, lease = recorded.get(outcome.job_id, (None, None))
        rolled_back = isinstance(outcome, (Released, Failed)) and outcome.missed is not None
        if lease == outcome.lease and status in TERMINAL and not rolled_back:
            # An earlier try had committed, and its reply was lost; or the own transaction of a run that died had.
            if isinstance(outcome, Released):
                log.logger.info("Job %s had ended as %s in that run: it does not run again", outcome.job_id, status)
            continue
        what = NO_ROW if status is None else f"it is {status} by another hand now"
        # These give up the lease: when an earlier try of the same had committed, the row looks like one that was taken.
        if status is not None and (rolled_back or isinstance(outcome, (Released, Retried, Replaced))):
            what = f"it is {status} by another hand now, or by an earlier try to write this, which had no answer"
        if isinstance(outcome, Released) and not (rolled_back or outcome.lost or outcome.ended or outcome.rejected):
            # Nothing is lost by that: no run began.
            log.logger.info(
                "Job %s need not be handed back: %s", outcome.job_id, "it has no row" if status is None else what
            )
            continue
        name = "success, with all that it wrote," if rolled_back else f"outcome ({type(outcome).__name__})"
        log.lease_lost(outcome.job_id, name, what)
    return replace(
        result,
        astray=frozenset(job_id for job_id, (status, _) in recorded.items() if status == STARTED),
        absent=tuple(outcome for outcome in missing if outcome.job_id not in recorded),
    )
