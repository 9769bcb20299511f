"""The worker's one loop: children's sockets, signals and clocks. It never calls the database.

Two threads do that, `Rounds` and `Watch`; what they bring is fetched here when they wake the loop.
So a stalled COMMIT stops neither a signal nor a child's answer nor the worker's own fence.

What it does with each child's message is here; how it ends is in `shutdown`, what keeps its lease in
`fence`, and what becomes of a dead child's jobs in `losses`.
"""

from __future__ import annotations

import contextlib
import math
import selectors
import time
from collections.abc import Callable
from typing import Any, Final

from dbqueue.errors import OperationalError
from dbqueue.jobs import ClaimedJob, Failed, Outcome, Progress, Released
from dbqueue.pools import wire
from dbqueue.pools.nursery import Died, describe_exit
from dbqueue.store.base import Store
from dbqueue.worker import log
from dbqueue.worker.claiming.rates import TaskRates
from dbqueue.worker.claiming.rounds import Rounds
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.control import WorkerState
from dbqueue.worker.control.desk import Desk
from dbqueue.worker.events import EventSender
from dbqueue.worker.supervising.autoscale import Autoscaler
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.crew import Crew
from dbqueue.worker.supervising.dispatch import HAND_BACK_SECONDS, STALL_SECONDS, Dispatcher
from dbqueue.worker.supervising.fence import Fence
from dbqueue.worker.supervising.interpreter import tuned
from dbqueue.worker.supervising.limits import TimeLimits
from dbqueue.worker.supervising.losses import Losses, killed, tell_failure
from dbqueue.worker.supervising.opening import open_worker
from dbqueue.worker.supervising.reception import Reception
from dbqueue.worker.supervising.revoker import Revoker
from dbqueue.worker.supervising.shutdown import GOODBYE_SECONDS, Request, Shutdown, State
from dbqueue.worker.supervising.wakeup import WakeUp
from dbqueue.worker.watch import Watch

TICK_SECONDS: Final = 0.05
"""How often the loop looks at its clocks while jobs run; an idle loop sleeps longer."""
IDLE_TICK_SECONDS: Final = 1.0
QUIET_TICK_SECONDS: Final = 5.0
"""... and longer yet where nothing here has a clock: each time that one of many idle workers wakes, the caches of its
processor are emptied for those that work."""
TELL_SECONDS: Final = 3.0
"""After which the log tells that a worker whose tasks have ended waits for the database."""
WATCHFUL_TICK_SECONDS: Final = 0.02
"""While a job waits behind a running one, which may turn out to be long."""
LOOK_AFTER_SECONDS: Final = 0.01
"""How often the loop sees to requests and to what has a clock, while there is something to hear: not after each answer
of a child."""
GATHER_SECONDS: Final = 0.001
"""While nobody waits for it the loop lets answers gather before it looks at them: a turn costs as much as ten answers,
and takes the interpreter from the rounds. So where all children have jobs ahead, or the database is behind."""
GATHER_JOBS: Final = 32
GATHER_OUTCOMES: Final = 500
"""As many in wait for the database: it is behind, and what a child says now will wait there too."""


class Supervisor:
    """`run` is the worker's life; `request_stop` may be called from any thread."""

    def __init__(
        self,
        store: Store,
        config: WorkerConfig,
        crew: Crew,
        *,
        limits: TimeLimits,
        rates: TaskRates | None = None,
        app: Any = None,
        autoscaler: Autoscaler | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`app` is what commands are told about: its `tasks`, its `conf`."""
        self._store, self._config, self._crew = store, config, crew
        self._limits = limits
        self._on_ready = on_ready
        self._dispatcher = Dispatcher(config.slots, shared=crew.shared)
        self._wakeup = WakeUp()
        self.wake = self._wakeup.wake
        self._stop_requests: list[Request] = []
        self._ahead = False
        rates = TaskRates({}) if rates is None else rates
        self._look_after_at = 0.0
        self._looked_after = True
        """Whether the last turn did; if not the next one comes as soon as it may."""
        self._events = EventSender(config)
        self._rounds = Rounds(store, config, rates=rates, notify=self.wake, registered=self._registered)
        self._ending = Shutdown(config, crew, self._rounds, killed)
        self._losses = Losses(config, self._dispatcher, self._complete)
        tasks = {} if app is None else app.tasks
        self._revoker = Revoker(
            config.pool, crew, self._dispatcher, limits, self._complete, tasks, self._events, self._rounds.handover
        )
        self._reception = Reception(config, self._rounds, self._revoker, self._events, self._complete)
        self._control = WorkerState(
            app,
            store,
            config,
            crew,
            self._dispatcher,
            self._rounds,
            limits,
            rates,
            self._revoker,
            self._events,
            autoscaler,
            request_stop=self._stop_by_command,
            started_at=time.monotonic(),
        )
        self._desk = Desk(self._control, wake=self.wake)
        self._watch = Watch(
            store,
            config,
            desk=self._desk,
            events=self._events,
            woken=self._rounds.woken,
            declared_dead=self.wake,
        )
        self._fence = Fence(config, crew, self._dispatcher, self._rounds, self._watch, self._ending)

    # from other threads and signal handlers

    def request_stop(self, how: str = "warm") -> None:
        """Ask for a shutdown: `warm`, or `cold`. A second warm request is a cold one."""
        self._stop_requests.append(Request(how))
        self.wake()

    def _stop_by_command(self) -> None:
        """A warm shutdown, and nothing more where the worker ends already: commands are repeated and sent to all."""
        if self._ending.claims and not self._stop_requests:
            self.request_stop()

    def handle_signals(self) -> None:
        """Let TERM, INT, HUP and QUIT ask for a shutdown. Call it on the main thread."""
        self._wakeup.take_signals(self._stop_requests.append)

    def close(self) -> None:
        """Give the process's wake-up descriptor back, when `run` has ended; on the thread of `handle_signals`."""
        self._wakeup.close()

    def _registered(self, worker_id: str, sent_at: float) -> None:
        self._watch.beat_for(worker_id, sent_at)
        self.wake()

    # the life of a worker

    def run(self) -> int:
        """Serve until told to stop; the exit code: 0 after a warm shutdown or before the start, 1 after any other."""
        with tuned(self._config):
            try:
                if self._start():
                    while not self._ending.finished:
                        self._turn()
            except BaseException:
                self._abandon()
                raise
            finally:
                self._end()
        return self._ending.exit_code

    def _abandon(self) -> None:
        """An error of the loop's own: end the children and hand their jobs back before the worker's row is closed."""
        self._ending.abandon()
        for child in self._crew:
            self._losses.settle(child, "was ended with its worker", own=True)

    def _start(self) -> bool:
        """Whether it has; not where it is told to stop while the database does not let it."""
        try:
            opened = open_worker(self._store, self._config, stopping=lambda: bool(self._stop_requests))
        except OperationalError as error:
            if not self._stop_requests:
                raise
            log.logger.warning("worker: stopped before it was registered: %s", error)
            return False
        with contextlib.ExitStack() as undo:
            undo.callback(opened.close)
            self._crew.selector.register(self._wakeup.reader, selectors.EVENT_READ, self._wakeup)
            self._crew.start()
            undo.pop_all()  # their threads close them
        self._watch.start(opened.watch, opened.worker_id, opened.registered_at)
        self._rounds.start(opened.work, opened.worker_id)
        self._rounds.want(self._config.slots)
        self._events.online()
        log.logger.debug("Registered as worker %s", opened.worker_id)
        return True

    def _end(self) -> None:
        for job in (*self._dispatcher.take_waiting(), *self._rounds.take_claimed()):
            self._give_back(job)
        if self._rounds.thread.ident is not None and not self._say_goodbye():
            self._ending.exit_code = 1
            log.logger.warning("The database did not take the last outcomes: their jobs will be rescued and run again")
        elif self._rounds.failed is not None and self._ending.exit_code == 0:
            self._ending.exit_code = 1
            log.logger.error(
                "The thread that serves the database failed at its end: %r. What it has not written is rescued",
                self._rounds.failed,
            )
        self._desk.flush()
        self._events.offline()
        self._watch.stop()
        self._crew.close()

    def _say_goodbye(self) -> bool:
        """Wait until the last outcomes are written; after a cold shutdown, or what would make it cold, not for long."""
        deadline, told_at = None, time.monotonic() + TELL_SECONDS
        while not self._rounds.stop(TICK_SECONDS):
            hurried = self._ending.exit_code != 0 or self._stop_requests or self._ending.overdue
            if deadline is None and hurried:
                deadline = time.monotonic() + GOODBYE_SECONDS
            if deadline is None and time.monotonic() >= told_at:
                told_at = math.inf
                log.logger.warning(
                    "Nothing runs here any more, but the database does not take the last outcomes: waiting until it "
                    "does; a second signal ends that, and their jobs are rescued, as after the loss of their runs"
                )
            if deadline is not None and time.monotonic() >= deadline:
                return False
        return True

    def _turn(self) -> None:
        """One turn of the loop: wait for a sign, hear all of them, then give out work."""
        if self._ahead:
            time.sleep(GATHER_SECONDS)
        for key, _ in self._crew.selector.select(self._longest_wait()):
            source = key.data
            if isinstance(source, Child):
                if not source.closed:  # it may have been buried just now, by an earlier key of this turn
                    self._serve(source)
            elif source is self._wakeup:
                self._wakeup.drain()
            else:
                self._bury(self._crew.nursery_events())
        self._fence.keep()
        self._receive_claims()
        self._fence.drop_lost_leases()
        self._give_out()
        # The rest may wait for a moment: a child that waits for work should not wait for it too.
        now = time.monotonic()
        self._looked_after = now >= self._look_after_at
        if self._looked_after:
            self._look_after_at = now + LOOK_AFTER_SECONDS
            self._look_after()

    def _longest_wait(self) -> float:
        if not self._looked_after:  # what this turn was woken for may be a command, or a signal
            return max(0.0, self._look_after_at - time.monotonic())
        if any(len(child.held) > child.slots for child in self._crew.children.values()):
            return WATCHFUL_TICK_SECONDS
        if any(child.held for child in self._crew.children.values()):
            return TICK_SECONDS
        return QUIET_TICK_SECONDS if self._is_quiet else IDLE_TICK_SECONDS

    @property
    def _is_quiet(self) -> bool:
        """Whether an idle worker waits for nothing but what wakes it: jobs, commands, signals."""
        running = self._ending.state is State.RUNNING and not self._watch.declared_dead
        scales = self._control.autoscaler is not None
        return running and not scales and not self._events.enabled and not self._dispatcher and self._crew.is_settled

    def _look_after(self) -> None:
        """See to requests, to the threads, and to everything that has a clock."""
        while self._stop_requests:
            self._ending.ask(self._stop_requests.pop(0))
        self._ending.keep()
        if self._watch.thread.ident is not None and not self._watch.thread.is_alive():
            self._give_up("The thread that sends heartbeats has ended")
        if self._rounds.failed is not None:
            self._give_up(f"The thread that serves the database failed: {self._rounds.failed!r}")
        self._desk.work()
        self._limits.enforce(self._crew, self._complete)
        self._crew.end_doomed()
        self._revoker.keep()
        self._relieve_stalled()
        self._events.keep(self._crew)

    def _complete(self, outcome: Outcome, pid: int | None = None, *, job: ClaimedJob | None = None) -> None:
        """Write what came of a job, and tell the monitors.

        `pid` is the process that ran it; `job` is given where no process is left that could tell of its failure.
        """
        try:
            self._events.ended(outcome, pid)
            if job is not None and isinstance(outcome, Failed):
                tell_failure(self._control.app, job, outcome)
        except Exception:  # noqa: BLE001 - whatever it is, the outcome is there
            log.logger.exception("What came of job %s cannot be told to monitors; it is written", outcome.job_id)
        self._rounds.complete(outcome)

    # children's messages

    def _serve(self, child: Child) -> None:
        messages = child.receive()
        if messages is None:
            self._crew.hang_up(child)
            if self._config.pool == "solo":
                self._crew.remove(child, replace=False)
            return
        for message in messages:
            self._hear(child, message)
        child.flush()
        self._crew.watch(child)

    def _hear(self, child: Child, message: tuple[Any, ...]) -> None:
        match message:
            case (wire.DONE, kind, fields):
                self._answered(child, wire.read_outcome(kind, fields))
            case (wire.PROGRESS, fields):
                self._rounds.report(Progress._make(fields))
            case (wire.RECALLED, ids):
                child.recalling = False
                jobs = [child.held.pop(job_id) for job_id in ids if job_id in child.held]
                child.left += len(jobs)
                self._dispatcher.put_back(jobs)
            case (wire.WAITING, job_id):
                if job_id in child.held:
                    self._limits.has_waited(child, child.held[job_id])
            case (wire.RETIRE, why):
                log.logger.info("Pool process %s %s: replaced", child.pid, why)
                self._retire(child)
            case (wire.READY,):
                child.ready = True
                if self._ending.state is State.RUNNING and all(each.ready for each in self._crew):
                    self._ready()

    def _ready(self) -> None:
        on_ready, self._on_ready = self._on_ready, lambda: None
        on_ready()

    def _answered(self, child: Child, outcome: Outcome) -> None:
        now = time.monotonic()
        child.silence.began_at = self._dispatcher.progress_at = now
        child.answered += 1
        if child.drop_answer(outcome.job_id):
            return
        job = child.held.pop(outcome.job_id, None)
        if job is not None:
            self._control.total.add(job.task)
            seconds = getattr(outcome, "seconds", None)
            expected = self._dispatcher.expected_seconds(job.task)
            child.backlog_seconds = max(0.0, child.backlog_seconds - (expected or 0.0)) if child.held else 0.0
            if seconds is not None:
                self._dispatcher.measured(job.task, seconds)
        self._complete(outcome, child.pid)
        if child.left <= 0 and (not child.held or (self._crew.shared and len(child.held) < child.slots)):
            self._retire(child)

    def _retire(self, child: Child) -> None:
        """Let another process take this one's place once its running jobs have ended."""
        if self._ending.state is State.RUNNING:
            self._crew.retire(child)

    def _bury(self, deaths: list[Died] | None) -> None:
        if deaths is None:
            ended_before = [child for child in self._crew if child.killed]
            self._crew.kill()  # before others may run their jobs
            for each in self._crew:
                self._hear_last_words(each)
            self._losses.count_all(self._crew, ended_before)
            self._give_up("The process that starts pool processes is gone")
            self._part()  # also where the worker ends already: nobody tells of their deaths any more
            return
        for death in deaths:
            child = self._crew.by_pid(death.pid)
            if child is None:
                continue
            self._hear_last_words(child)
            self._losses.settle(child, describe_exit(death.status), own=child.killed)
            self._crew.remove(child, replace=self._ending.claims)

    def _hear_last_words(self, child: Child) -> None:
        for message in [] if child.closed else child.last_words():
            self._hear(child, message)

    # giving out work

    def _receive_claims(self) -> None:
        jobs = self._reception.take(self._give_back if self._ending.state is not State.RUNNING else None)
        if jobs or self._dispatcher.behind:
            going_on = self._revoker.going_on.union(*(child.written_off for child in self._crew))
            self._dispatcher.add(jobs, going_on)
            for job in self._dispatcher.let_behind(going_on):
                self._give_back(job)

    def _give_back(self, job: ClaimedJob) -> None:
        self._rounds.complete(Released(job.id, job.lease, job.ready_at))

    def _relieve_stalled(self) -> None:
        """Recall what waits in a child behind a long job; hand back what waits here for too long."""
        now = time.monotonic()
        unanswered = now - self._dispatcher.progress_at
        may_hand_back = len(self._dispatcher) > 0 and unanswered > TICK_SECONDS
        for child in self._crew.children.values():
            behind = len(child.held) > child.slots and not child.recalling
            idle = unanswered if self._dispatcher.crowded else 0.0  # it would have taken what waits
            silent = child.silence.seconds(now, child.pid) if behind or (child.held and may_hand_back) else idle
            if behind and silent > STALL_SECONDS:
                self._dispatcher.stalled()
                self._crew.recall(child)
            unanswered = min(unanswered, silent)
        if may_hand_back and unanswered > HAND_BACK_SECONDS:
            self._dispatcher.stalled()
            for job in self._dispatcher.take_waiting():
                self._give_back(job)

    def _give_out(self) -> None:
        if self._ending.state is State.RUNNING:
            self._control.autoscale()
            self._crew.bear_missing()
            self._crew.provide_alone(len(self._dispatcher.suspects))
            for child, jobs in self._dispatcher.assign(self._crew):
                child.send_jobs(self._reception.announced(jobs))
                self._crew.watch(child)
            held = len(self._dispatcher) + sum(child.busy for child in self._crew.children.values())
            self._ahead = self._rounds.waiting_outcomes > GATHER_OUTCOMES or all(
                len(child.held) > GATHER_JOBS * child.slots for child in self._crew.children.values()
            )
            self._rounds.want(max(0, self._dispatcher.wanted(held, time.monotonic())))
        else:
            for job in self._dispatcher.take_waiting():
                self._give_back(job)

    def _give_up(self, why: str) -> None:
        if self._ending.state is not State.ENDING:
            log.logger.critical("%s: the worker ends, and its jobs go back", why)
            self._ending.end()
            if self._crew.place is None:  # solo's ends with its process
                self._part()

    def _part(self) -> None:
        """See to the jobs of children that were killed, and wait for no death."""
        for child in self._crew:
            self._losses.settle(child, "was ended with its worker", own=True)
            self._crew.remove(child, replace=False)
