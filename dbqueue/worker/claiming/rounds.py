"""The thread that talks to the jobs table: a round completes what has ended and claims what is wanted.

There is no timer that collects a batch: while one round is under way the next one's outcomes
pile up, so batches are as large as the load makes them, and an idle queue has no added delay.

Outcomes stay here until the database has answered for them. After a broken connection they are
sent again; the fence (id, lease, STARTED) makes that safe, and reading the row tells an outcome
that was committed before the reply was lost from one whose lease is gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, TypeVar
from uuid import uuid4

from dbqueue.errors import DBQueueError, OperationalError
from dbqueue.jobs import ClaimedJob, Outcome, Progress, Released
from dbqueue.limits import TASK_KEYS
from dbqueue.store.base import Store
from dbqueue.store.records import Claim, HeldClaim, Round, WorkerInfo
from dbqueue.store.sessions import WorkSession
from dbqueue.worker import log
from dbqueue.worker.claiming import strays
from dbqueue.worker.claiming.claims import Claims
from dbqueue.worker.claiming.doorbell import Doorbell
from dbqueue.worker.claiming.handover import Handover
from dbqueue.worker.claiming.held_jobs import HeldJobs
from dbqueue.worker.claiming.holding import MAX_OUTCOMES, Holding
from dbqueue.worker.claiming.lasting_session import LastingSession
from dbqueue.worker.claiming.rates import TaskRates
from dbqueue.worker.claiming.reports import ProgressBoard
from dbqueue.worker.claiming.settling import explain, settle_free, settle_in_time
from dbqueue.worker.claiming.upkeep import Upkeep
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.watch import boot_clock

C = TypeVar("C", Claim, HeldClaim)
T = TypeVar("T")

STOPPING_SECONDS: Final = 1.0
"""How long one that stops sleeps at most, while it waits for somebody's lock."""
PARK_ROWS: Final = 1000
"""How far to look ahead for jobs of a task that may start no more: a backlog of it must not keep others waiting."""


class Rounds:
    """Runs on a thread of its own between `start` and `stop`; the supervisor calls the other methods."""

    def __init__(
        self,
        store: Store,
        config: WorkerConfig,
        *,
        rates: TaskRates,
        notify: Callable[[], None],
        registered: Callable[[str, float], None],
    ) -> None:
        """`notify` wakes the supervisor; `registered` is called with a new worker id and when it was sent."""
        self._store, self._config, self._notify, self._registered = store, config, notify, registered
        self._bell = Doorbell()
        self._board = ProgressBoard()
        self._stopping = False
        self._upkeeper = Upkeep(config, every_seconds=1.0 if store.sees_deaths else config.heartbeat_seconds)
        self._held = HeldJobs(config, rates)
        self._holding = Holding()
        self.handover = Handover(self._holding, notify)
        self._claims = Claims(
            config, self._holding, self.handover, self._held, must_poll=store.must_poll, tried=self._tried
        )
        self._clock = self._claims.clock
        self.take_claimed = self.handover.take
        """Jobs for the supervisor, claimed since the last call; it wants so many fewer until it says what it wants."""
        self._session = LastingSession(
            store, config.name, self._holding, restored=self._restored, may_leave=self._may_leave
        )
        self._prepared: list[Outcome] | None = None
        """Those of the next round, where they were made ready in the last."""
        self._new_info: WorkerInfo | None = None
        self.thread = threading.Thread(target=self._run, name="rounds", daemon=True)
        self.lost_leases: deque[tuple[str, str]] = deque()
        """Jobs that were handed over, and their leases, which a crash of the server has undone."""
        self.failed: BaseException | None = None
        """What ended the thread, if it did not end by being stopped."""

    # called by the supervisor

    def start(self, session: WorkSession, worker_id: str) -> None:
        """Begin to claim for this worker, which is registered."""
        self._session.current, self._holding.worker_id = session, worker_id
        self._claims.allowed = True
        self._bell.open()
        self.thread.start()

    def complete(self, outcome: Outcome) -> None:
        self._holding.outcomes.append(outcome)
        self._bell.ring()

    def report(self, report: Progress) -> None:
        """A running job shows how far it has got."""
        self._board.put(report)
        self._bell.ring()

    def want(self, count: int) -> None:
        """How many jobs the supervisor can take, beyond those that `take_claimed` has given it."""
        if self.handover.want(count):
            self._bell.ring()

    def woken(self) -> None:
        """There may be new jobs, of which the database does not tell this thread: SQLite, or jobs put back."""
        self._clock.at_once()
        self._held.woken()
        self._bell.ring()

    def rates_changed(self) -> None:
        """A task may start more of its jobs now, or fewer."""
        self._held.changed()
        self._bell.ring()

    @property
    def waiting_outcomes(self) -> int:
        """How many the database has not answered for yet, but for those that are aside."""
        return len(self._holding.outcomes)

    @property
    def queues(self) -> tuple[str, ...]:
        """Where jobs are claimed from, as the worker was told: names and patterns."""
        return self._claims.queues.chosen

    def consume(self, queues: Iterable[str]) -> None:
        """Claim from these queues, from the next claim on."""
        self._claims.queues.consume(queues)
        self.woken()

    def stop_claiming(self) -> None:
        self._claims.allowed = False

    def resume_claiming(self) -> None:
        self._claims.allowed = True
        self.woken()

    def register_anew(self, info: WorkerInfo) -> None:
        """Take a new identity, for the old one was declared dead."""
        self._new_info = info
        self._bell.ring()

    @property
    def registering(self) -> bool:
        """Whether it is about to."""
        return self._new_info is not None

    def stop(self, timeout: float | None = None) -> bool:
        """Write the outcomes that are left, and end; whether it ended within the time."""
        self._claims.allowed, self._stopping = False, True
        self._bell.ring()
        self.thread.join(timeout)
        return not self.thread.is_alive()

    # the thread

    def _run(self) -> None:
        for part in (self._serve, self.handover.give, self._say_goodbye, self._session.close):
            try:
                part()
            except BaseException as error:  # noqa: BLE001 - the supervisor decides what becomes of the worker
                self.failed = self.failed or error
        self._bell.close()
        self._notify()

    def _serve(self) -> None:
        try:
            self._serve_until_stopped()
        except OperationalError as error:
            if not self._may_leave():
                raise
            log.logger.warning("The database does not hear that this worker ends, which held nothing: %s", error)

    def _may_leave(self) -> bool:
        """Whether this worker ends, and holds nothing: no job, no outcome, no claim of which nothing is known.

        Its row stays open, and others close it, as that of any worker that has died.
        """
        holding = self._holding
        held = holding.leases or holding.outcomes or holding.aside or holding.astray
        return self._stopping and not held and not self.handover.is_claiming

    def _serve_until_stopped(self) -> None:
        while not (self._stopping and not self._holding.outcomes and not self._holding.aside):
            if time.monotonic() >= self._upkeeper.due_at and not self._stopping:
                # Here, for under load there is no pause.
                self._tried("Looking for dead workers and expired jobs", self._upkeep)
            self._write_reports()
            self._write_aside()
            if not self._step():
                self._sleep(self._pause())
            self._bell.answer()

    def _sleep(self, seconds: float) -> None:
        """Until the bell rings, the time has come, or (where the database can say so) there are new jobs."""
        if seconds > 0 and self._surely(lambda session: session.wait(seconds, self._bell)):
            self._claims.announced()
            self._held.woken()

    def _say_goodbye(self) -> None:
        """Close the worker's row, unless outcomes are left: nobody rescues the jobs of a closed row."""
        if self._held.freed:
            self._store.wake()
        session = self._session.current
        if session is None or self.failed is not None:
            return
        with contextlib.suppress(DBQueueError):  # a heartbeat that stays away says the same, later
            # A claim was under way when the supervisor stopped: it never saw these jobs.
            unseen = [Released(job.id, job.lease, job.ready_at) for job in self.take_claimed()]
            if unseen:
                self._holding.lost(explain(session, unseen, session.round(unseen, None)))
            for released in unseen:
                self._holding.leases.pop(released.job_id, None)
            if strays.take_back(session, self._holding, max_losses=self._config.max_losses):
                self._store.wake()
            if self._holding.leases or self._holding.astray:
                return  # the row stays open: the rescue looks only at open ones
            if self._session.has_broken:
                session.hand_back(self._holding.worker_id, ())
            session.close_worker(self._holding.worker_id)

    def _step(self) -> bool:
        """One round, if there is anything to do; whether there was."""
        if self._new_info is not None:
            self._register(self._new_info)
        outcomes, self._prepared = self._prepared or self._holding.next_outcomes(), None
        self._held.ended(outcomes)
        # What waits for a job may run as soon as this round has ended it, and the claim comes after that.
        linked = not self._holding.linked.isdisjoint(each.job_id for each in outcomes)
        claim, look = self._claims.next(now=linked)
        if not outcomes and claim is None and not look:
            self.handover.give()
            if self._held.gives_up():
                self._store.wake()
            return False
        if look and outcomes:  # first, for they free permits
            self._complete_and_claim(outcomes, None)
            outcomes = []
        if look and self._claim_held(yielding=claim is not None) and claim is not None:
            claim = replace(claim, limit=self.handover.room) if self.handover.room > 0 else None
            if claim is None:
                self._clock.at_once()
        if outcomes or claim is not None:
            self._complete_and_claim(outcomes, claim)
        return True

    def _complete_and_claim(self, outcomes: list[Outcome], claim: Claim | None) -> None:
        # A claim whose reply was lost may have been granted, and handed back: the next has a lease of its own.
        def do(session: WorkSession) -> Round:
            return self._round(session, outcomes, claim and self._anew(claim))

        result = self._session.tried("Claiming jobs", do) if claim else self._session.surely(do)
        self.handover.claim_ended()
        if result is None:  # what of the outcomes was written is found to be so by the next round
            self._clock.claim_refused()
            return
        self._clock.round_ended()
        self._holding.written(outcomes, result)
        if result.refused:
            self._clock.claim_refused()
        elif claim and claim.keys:
            self._held.took(result.claimed, claim.limit)
            self.handover.add(result.claimed)
        elif claim:
            self._clock.claim_found(len(result.claimed), claim.limit)
            if result.claimed:
                self._take_on(result.claimed, claim)
        if result.released:
            self._clock.at_once()
            self._held.woken()

    def _round(self, session: WorkSession, outcomes: list[Outcome], claim: Claim | None) -> Round:
        def meanwhile() -> None:
            self.handover.give()
            if more:
                self._prepared = self._holding.next_outcomes(after=len(outcomes))
                session.prepare(self._prepared)

        more = len(self._holding.outcomes) >= len(outcomes) + MAX_OUTCOMES  # what is not whole yet may still grow
        busy = more or bool(self.handover.fresh)
        linked = self._holding.linked
        try:
            if self._holding.aside and outcomes:
                return settle_free(session, outcomes, claim, linked)
            return settle_in_time(session, outcomes, claim, linked, meanwhile if busy else None)
        finally:
            self.handover.give()  # also where the database did not answer

    def _take_on(self, jobs: Sequence[ClaimedJob], claim: Claim) -> None:
        """Let the supervisor have the jobs, but for those whose tasks may not start more now."""
        started, parked = self._held.sort_out(jobs)
        self.handover.add(started)
        if parked:
            self._holding.take(parked)
            tasks = {job.task for job in parked}
            self._holding.outcomes.extend(
                Released(job.id, job.lease, job.ready_at, hold=TASK_KEYS + job.task) for job in parked
            )
            self._tried("Parking jobs", lambda session: session.park(tasks, claim.queues, most=PARK_ROWS))
            self._held.park(tasks)
            self._clock.at_once()  # what they stood before

    def _surely(self, operation: Callable[[WorkSession], T]) -> T:
        """Something else than a round: the supervisor does not wait for it."""
        self.handover.give()
        return self._session.surely(operation)

    def _tried(self, what: str, operation: Callable[[WorkSession], T]) -> T | None:
        self.handover.give()
        return self._session.tried(what, operation)

    def _claim_held(self, *, yielding: bool) -> bool:
        """Start jobs that waited for permits; whether there were any."""
        queues = self._claims.queue_order(held=True)
        if not queues:
            return False
        wakes = self._held.wakes
        claim = self._held.claim(self._holding.worker_id, queues, self.handover.room, yielding=yielding)
        found = self._tried("Claiming jobs with limits", lambda session: session.claim_held(self._anew(claim)))
        self.handover.claim_ended()
        if found is None:
            self._held.failed()
            return False
        if self._held.learned(claim, found, wakes):
            self._store.wake()  # others have jobs that wait for what is left
        self.handover.add(found.claimed)
        return bool(found.claimed)

    def _write_reports(self) -> None:
        """The progress of running jobs, in a transaction of its own: what is wrong with it harms no outcome."""
        now = time.monotonic()
        if not self._board.is_due(now):  # else the jobs just claimed would be read now, and not while the server works
            return
        reports = self._board.take_due(now, self._holding.leases)
        if reports:
            try:
                self._surely(lambda session: session.report(reports))
            except DBQueueError:
                raise
            except Exception as error:  # noqa: BLE001 - the next report may do better
                log.logger.warning("The progress of %d jobs cannot be written and is dropped: %s", len(reports), error)

    def _write_aside(self) -> None:
        """Try again what could not be written while somebody had locked its rows."""
        aside = self._holding.aside
        if not aside.due:
            return
        outcomes = aside.next_try()
        result = self._surely(lambda session: settle_free(session, outcomes, None, self._holding.linked))
        self._holding.written_at_last(outcomes, result)
        if any(each.job_id not in result.locked for each in outcomes):  # permits are free, what waited for them may run
            self.woken()

    def _register(self, info: WorkerInfo) -> None:
        sent_at = 0.0

        def register(session: WorkSession) -> None:
            nonlocal sent_at
            sent_at = boot_clock()
            session.register(info)

        self._surely(register)
        self._holding.worker_id = info.id
        self._registered(info.id, sent_at)
        self._new_info = None

    def _pause(self) -> float:
        """Seconds to sleep when there is nothing to do."""
        settling = self._claims.ask()
        if settling > 0:
            return settling
        # One that stops sees to no more of that, and it would be due for ever.
        wake_at = time.monotonic() + STOPPING_SECONDS if self._stopping else self._upkeeper.due_at
        reports_at = self._board.due_at()
        if reports_at is not None:
            wake_at = min(wake_at, reports_at)
        times = [self._held.gives_up_at, self._holding.aside.again_at]
        if self._claims.may_claim and self.handover.room > 0:
            times += [self._clock.at, self._held.due_at]
        wake_at = min([wake_at, *(at for at in times if at is not None)])
        return max(0.0, wake_at - time.monotonic()) if not self._bell.rung else 0.0

    def _restored(self, lost: list[tuple[str, str]]) -> None:
        """The database works again: there may be work, and leases that are lost."""
        self.handover.give()  # they are to be found where they are dropped
        self._held.forget(job_id for job_id, _ in lost)
        self.lost_leases.extend(lost)
        self._clock.at_once()
        self._notify()

    def _upkeep(self, session: WorkSession) -> None:
        if time.monotonic() >= self._upkeeper.rescue_at:
            if strays.take_back(session, self._holding, max_losses=self._config.max_losses):
                self.woken()
            self._session.hand_back_late_claims(session)
            self._claims.look_around(session)
        if self._upkeeper.run(session, self._holding.worker_id):
            self.woken()

    def _anew(self, claim: C) -> C:
        """The claim with a lease that no other has had, about to be sent."""
        self.handover.claim_begins()
        return replace(claim, lease=str(uuid4()))
