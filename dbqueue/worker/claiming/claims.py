"""What the rounds claim next: how many jobs, from which queues, and whether those that wait for permits are looked for.

A claim is due when its clock says so. There are three kinds, of which a round has one at most:

    in turn         due jobs of the queues, in their order
    of freed keys   jobs that wait for the permits which the round's own outcomes free
    held jobs       a look for all that wait for permits, in transactions of its own (`HeldJobs`)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any
from uuid import uuid4

from dbqueue.store.records import Claim
from dbqueue.store.sessions import WorkSession
from dbqueue.worker.claiming.claim_clock import ClaimClock
from dbqueue.worker.claiming.handover import Handover
from dbqueue.worker.claiming.held_jobs import HeldJobs
from dbqueue.worker.claiming.holding import Holding
from dbqueue.worker.claiming.neighbours import Neighbours
from dbqueue.worker.claiming.queue_choice import QueueChoice
from dbqueue.worker.config import WorkerConfig


class Claims:
    """Used by the thread of the rounds, but for `allowed`, `clock.at_once` and `queues.consume`."""

    def __init__(
        self,
        config: WorkerConfig,
        holding: Holding,
        handover: Handover,
        held: HeldJobs,
        *,
        must_poll: bool,
        tried: Callable[[str, Callable[[WorkSession], Any]], Any],
    ) -> None:
        """`tried(what, operation)` runs something on the session, and gives None where it has failed."""
        self._config, self._holding, self._handover, self._held = config, holding, handover, held
        self._tried = tried
        self.clock = ClaimClock(config, must_poll=must_poll)
        self.queues = QueueChoice(config)
        self._neighbours = Neighbours()
        self.allowed = False
        """Whether the worker wants jobs: not before it is registered, and not when it stops."""
        self._passed_over = False
        """Whether the claim in turn was due in the last round, and gave way to one of freed keys."""

    @property
    def may_claim(self) -> bool:
        return self.allowed and not self._holding.aside.is_full

    def next(self, *, now: bool) -> tuple[Claim | None, bool]:
        """The claim of the next round, if one is due (with `now` in any case), and whether to look for held jobs."""
        able = self.may_claim and self._handover.room > 0
        claim = (self._of_freed_keys() if able and not now else None) or self._in_turn(now=now)
        # Nothing waited lately that needs no permit: first the claim that was passed over for those that do.
        alone = self._passed_over and claim is not None and bool(self._held.quick_keys())
        look = able and self._held.due() and not alone and not (claim and claim.keys)
        self._passed_over = bool(claim and claim.keys) and self.clock.due
        return claim, look

    def _of_freed_keys(self) -> Claim | None:
        """The claim of permits that the round's outcomes free, in their own transaction.

        It goes before a claim that is due only where that one found nothing lately, and not twice in turn.
        """
        if self.clock.due and (not self.clock.empty_claims or self._passed_over):
            return None
        keys = self._held.quick_keys()
        queues = self.queue_order(held=True) if keys else []
        if not queues:
            return None
        return self._new(queues, self._handover.room, keys)

    def _in_turn(self, *, now: bool) -> Claim | None:
        """The claim that is due: there may be more than the last one took, or a wake-up came, or the time has.

        A round that only completes is done twice as soon as one that looks for work as well.
        """
        if not self.may_claim:
            return None
        wanted = self._handover.room
        if wanted <= 0 or not (now or self.clock.due):
            return None
        if now:
            self._neighbours.join_in()
        pause = self._neighbours.pause()
        if pause > 0:
            self.clock.at = time.monotonic() + pause
            return None
        self.clock.claim_begins()
        queues = self.queue_order()
        if not queues:  # all are paused, or a pattern fits none yet
            self.clock.at = self.queues.look_at
            return None
        return self._new(queues, wanted)

    def _new(self, queues: Sequence[str], limit: int, keys: Collection[str] = ()) -> Claim:
        once, max_input_bytes = tuple(self._config.once), self._config.max_input_bytes
        yielding = self.clock.yields
        return Claim(self._holding.worker_id, str(uuid4()), queues, limit, once, max_input_bytes, keys, yielding)

    def announced(self) -> None:
        """The database told all workers of new jobs."""
        if self._neighbours.holding_back:
            return
        if not self._holding.leases and not self.clock.is_refused:  # else it has waited for others already
            self._neighbours.woken()
        self.clock.at_once()

    def look_around(self, session: WorkSession) -> None:
        self._neighbours.before = session.workers_before(self._holding.worker_id)

    def ask(self) -> float:
        """Ask the database when a job is due, where nothing says so.

        Not before the jobs that were just given out have had their time to end: seconds until then, or zero.
        """
        if self.clock.at is not None or not self.may_claim:
            return 0.0
        now = time.monotonic()
        settling = self.clock.settling_seconds(now)
        if settling > 0:
            return settling
        queues = self.queues
        self.clock.asking(now, no_later_than=queues.look_at if queues.restless else None)
        found = self._tried("Asking when a job is due", lambda session: session.outlook(queues.names))
        if found is not None:
            seconds, held = found
            self._held.seen(held)
            self.clock.told(seconds)
        return 0.0

    def queue_order(self, *, held: bool = False) -> list[str]:
        """The queues of the next claim, after a look at what is paused and what is held if the last is too old."""
        if time.monotonic() >= self.queues.look_at:
            self._tried("Looking at the queues", self._look)
        return self.queues.next_order(held=held)

    def _look(self, session: WorkSession) -> None:
        self.queues.look(session)
        self._held.seen(session.anything_held())
