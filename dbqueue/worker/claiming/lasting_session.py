"""The session of the rounds, opened anew as often as its connection breaks, and what is then to be put right.

A broken connection leaves three doubts. The reply to a claim may have been lost: those jobs are nobody's, and are
handed back. Such a claim may even commit after the new connection has been made: they are handed back again, for
a while. And the server may have crashed and forgotten a claim: its jobs are another's to run.

What has only met a conflict is tried again on the same connection. It leaves the first doubt too: a round may be
several transactions, of which the claim was the first.

Tables that are missing, or rights, are a mistake of whoever has set this up, as long as nothing has worked yet. Later
somebody is at work on the database (restores a backup, grants anew), and all workers are not to end for that. Not for
ever, for nobody rescues the jobs of a worker that beats: one right may be missing, and others not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

from dbqueue.errors import AccessDenied, OperationalError, SchemaError
from dbqueue.jobs import STARTED, SUCCESS
from dbqueue.store.base import Store
from dbqueue.store.sessions import WorkSession
from dbqueue.worker import log
from dbqueue.worker.claiming.holding import Holding
from dbqueue.worker.claiming.settling import TROUBLE

T = TypeVar("T")

FIRST_RETRY_SECONDS: Final = 0.1
LAST_RETRY_SECONDS: Final = 5.0
AWAY_SECONDS: Final = 120.0
"""How long tables or rights may be away."""
LATE_COMMIT_SECONDS: Final = 120.0
"""How long after a broken connection its last claim may still commit: a statement's time-out, and some."""


class LastingSession:
    """Used by the thread of the rounds."""

    def __init__(
        self,
        store: Store,
        label: str,
        holding: Holding,
        *,
        restored: Callable[[list[tuple[str, str]]], None],
        may_leave: Callable[[], bool] = lambda: False,
    ) -> None:
        """`label` is the name of the worker.

        `restored` is called when the database works again, with the jobs that were held here and whose leases, beside
        their ids, a crash of the server has undone. `may_leave` tells whether the worker ends, and nothing is lost
        where the database does not answer any more.
        """
        self._store, self._label, self._holding = store, label, holding
        self._restored, self._may_leave = restored, may_leave
        self.current: WorkSession | None = None
        self._has_worked = False
        self._reconnected_at: float | None = None
        self._look_again_at: float | None = None
        """When to look for late claims next; None: there can be none."""
        self._said: dict[str, str] = {}

    @property
    def has_broken(self) -> bool:
        """Whether it has been opened anew, ever."""
        return self._reconnected_at is not None

    def surely(self, operation: Callable[[WorkSession], T]) -> T:
        """Run an operation until the database has answered, over new connections if need be.

        Raises OperationalError where a new connection was of no use, and the worker may leave; SchemaError and
        AccessDenied where none has worked before, or after AWAY_SECONDS of them.
        """
        pause, said = FIRST_RETRY_SECONDS, ""
        began = time.monotonic()
        handed_back, in_doubt = 0, self.current is None
        failed_before = False
        while True:
            try:
                session = self.current or self._reconnect()
                if in_doubt:
                    handed_back += self._put_right(session)
                result = operation(session)
            except (OperationalError, SchemaError, AccessDenied) as error:
                away = self._has_worked and time.monotonic() - began < AWAY_SECONDS
                if not (away or isinstance(error, OperationalError)):
                    raise
                if str(error) != said:
                    said = str(error)
                    log.logger.warning("%s. Trying again; finished jobs are kept until they are written.", said)
                in_doubt = True
                # What refuses may be a setting of the user's, which a new connection has not.
                survives = isinstance(error, OperationalError) and self.current and self.current.survives(error)
                if not survives:
                    self.close()
                    if failed_before and self._may_leave():
                        raise OperationalError(said) from error
                    failed_before = True
            else:
                self._has_worked = True
                # Not before: a connection to a database whose disk is full is soon made, and of no use.
                if in_doubt:
                    log.logger.warning(
                        "The database works again; %d jobs of a lost claim were handed back", handed_back
                    )
                return result
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, LAST_RETRY_SECONDS)

    def tried(self, what: str, operation: Callable[[WorkSession], T]) -> T | None:
        """As `surely`, for what is done again and again; None where something in a row keeps it from being done.

        That is said once for each error: the next try comes soon, and the worker has other things to do.
        """
        try:
            return self.surely(operation)
        except TROUBLE:
            raise
        except Exception as error:  # noqa: BLE001 - one row is not to end every worker in turn
            if str(error) != self._said.get(what):
                self._said[what] = str(error)
                log.logger.exception("%s failed for something in a row; it is tried again, and all else goes on", what)
            return None

    def hand_back_late_claims(self, session: WorkSession) -> None:
        """Give back what a claim took that had reached the server before the connection broke, and committed later."""
        began = time.monotonic()
        if self._look_again_at is None or began < self._look_again_at:
            return
        assert self._reconnected_at is not None
        session.hand_back(self._holding.worker_id, self._holding.known)
        # Each look reads the whole table, and the more time has passed the less is to be expected of it.
        passed = began - self._reconnected_at
        self._look_again_at = time.monotonic() + passed if passed < LATE_COMMIT_SECONDS else None

    def _reconnect(self) -> WorkSession:
        self.current = self._store.work_session(self._label)
        self._reconnected_at = self._look_again_at = time.monotonic()
        return self.current

    def _put_right(self, session: WorkSession) -> int:
        """See to what is in doubt; returns how many jobs were handed back."""
        holding = self._holding
        # A claim's reply may have been lost with the connection: those jobs are nobody's.
        count = session.hand_back(holding.worker_id, holding.known)
        # The server may have crashed and forgotten a claim: such a job is another's to run. (One that is
        # SUCCESS under its lease has written that itself, and its child is about to say so.)
        recorded = session.recorded(holding.leases)
        done = {outcome.job_id for outcome in holding.unwritten}
        lost = [
            (job_id, lease)
            for job_id, lease in holding.leases.items()
            if job_id not in done and recorded.get(job_id) not in ((STARTED, lease), (SUCCESS, lease))
        ]
        holding.forget(job_id for job_id, _ in lost)
        for job_id, _ in lost:
            if job_id not in recorded:
                holding.absent.add(job_id)
            elif recorded[job_id][0] == STARTED:
                holding.astray.add(job_id)
        self._restored(lost)
        return count

    def close(self) -> None:
        if self.current is not None:
            self.current.close()
            self.current = None
