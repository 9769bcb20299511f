"""How a worker ends: warmly, softly or coldly.

    state        a warm request   a cold request   what else moves it
    RUNNING      DRAINING         SOFT, ENDING     the lease may have ended: FENCED; it has: REGISTERING
    FENCED       DRAINING         SOFT, ENDING     the heartbeat is back: RUNNING; the lease has ended: REGISTERING
    REGISTERING  DRAINING         SOFT, ENDING     registered anew: RUNNING
    DRAINING     SOFT, ENDING     SOFT, ENDING     worker_shutdown_timeout is over: ENDING
    SOFT         ENDING           ENDING           worker_soft_shutdown_timeout is over: ENDING
    ENDING       -                -                -

DRAINING and SOFT let running jobs end and hand the rest back; SOFT does so for a limited time, and
is passed over where that time is 0 (the default), or nothing runs and
`worker_enable_soft_shutdown_on_idle` is off. ENDING kills the children and hands their jobs back.
In each of the three the worker is done as soon as no child is left.

The requests are Celery's: TERM and INT ask for a warm shutdown, QUIT for a cold one, and a second
request of either kind is a cold one; `REMAP_SIGTERM=SIGQUIT` in the environment makes TERM a QUIT.
"""

from __future__ import annotations

import enum
import math
import os
import signal
import time
from collections.abc import Callable
from typing import Final, NamedTuple, NoReturn

from dbqueue import signals
from dbqueue.jobs import ClaimedJob, Outcome
from dbqueue.worker import log
from dbqueue.worker.claiming.rounds import Rounds
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.supervising.crew import Crew

GOODBYE_SECONDS: Final = 10.0
"""How long a cold shutdown waits for the database to take the last outcomes."""
RECALL_SECONDS: Final = 1.0
"""How long a cold shutdown of solo waits to be told which of its jobs have not begun."""
REMAP: Final = "REMAP_SIGTERM"


class State(enum.Enum):
    RUNNING = "running"
    FENCED = "fenced"
    REGISTERING = "registering"
    DRAINING = "draining"
    SOFT = "soft"
    ENDING = "ending"


class Request(NamedTuple):
    """`how` is `warm` or `cold`; `sig` is the signal's name, None where a program or a command asked."""

    how: str
    sig: str | None = None


def requests_by_signal() -> dict[int, Request]:
    """What each signal asks for."""
    hows = {"SIGTERM": "warm", "SIGINT": "warm", "SIGHUP": "warm", "SIGQUIT": "cold"}
    if os.environ.get(REMAP) == "SIGQUIT":
        hows["SIGTERM"] = "cold"
    # Windows has no HUP and no QUIT.
    return {int(getattr(signal, name)): Request(how, name) for name, how in hows.items() if hasattr(signal, name)}


class Shutdown:
    """The state of a worker, and the steps that end it. Used by the loop.

    `killed` says what becomes of a job whose run this worker ends itself.
    """

    def __init__(
        self, config: WorkerConfig, crew: Crew, rounds: Rounds, killed: Callable[[ClaimedJob], Outcome]
    ) -> None:
        self._config, self._crew, self._rounds, self._killed = config, crew, rounds, killed
        self.state = State.RUNNING
        self.exit_code = 0
        self._until = math.inf
        """When DRAINING or SOFT becomes ENDING, and ENDING the end of solo's process, on the monotonic clock."""

    @property
    def claims(self) -> bool:
        """Whether dead children are replaced: the worker runs, or will again."""
        return self.state in (State.RUNNING, State.FENCED, State.REGISTERING)

    @property
    def finished(self) -> bool:
        waits = self.state is State.SOFT and self._config.soft_shutdown_on_idle and time.monotonic() < self._until
        return not self.claims and not self._crew.children and not waits

    @property
    def overdue(self) -> bool:
        """Whether a shutdown in which running tasks might end has had its time."""
        return time.monotonic() >= self._until

    def ask(self, request: Request) -> None:
        """Do what a request asks for, by the table above."""
        first = self.claims
        target = State.DRAINING if first and request.how == "warm" else State.ENDING
        if target is State.ENDING and self.state not in (State.SOFT, State.ENDING) and self._may_be_soft:
            target = State.SOFT
        how = {State.DRAINING: "Warm", State.SOFT: "Soft", State.ENDING: "Cold"}[target]
        signals.worker_shutting_down.send(self._config.name, sig=request.sig, how=how, exitcode=self.exit_code)
        if target is State.DRAINING:
            log.logger.warning(
                "worker: Warm shutdown (MainProcess): waiting for running tasks; a second signal ends them"
            )
            self._drain(State.DRAINING, self._config.shutdown_seconds)
        elif target is State.SOFT:
            seconds = self._config.soft_shutdown_seconds
            log.logger.warning(
                "worker: Soft shutdown (MainProcess): running tasks have %g s to end; a further signal ends them",
                seconds,
            )
            self._drain(State.SOFT, seconds)
        else:
            self.end()

    def keep(self) -> None:
        """End what has drained for too long; called once in a turn of the loop."""
        if self.state in (State.DRAINING, State.SOFT) and time.monotonic() >= self._until:
            log.logger.warning("The tasks that run have had their time")
            self.end()
        recalled = time.monotonic() >= self._until or not any(child.recalling for child in self._crew)
        if self.state is State.ENDING and self._config.pool == "solo" and recalled:
            self._end_solo()

    def end(self) -> None:
        """Kill the children; their jobs are handed back as each is buried."""
        if self.state is State.ENDING:
            return
        log.logger.warning("worker: Cold shutdown (MainProcess): running tasks are ended and handed back")
        self.state, self.exit_code = State.ENDING, 1
        self._rounds.stop_claiming()
        self._crew.kill()
        if self._config.pool == "solo":  # first what has not begun is to go back: `keep` does the rest
            self._until = time.monotonic() + RECALL_SECONDS
            for child in self._crew:
                self._crew.recall(child)

    def abandon(self) -> None:
        """An error of the worker's own: end at once."""
        self.state, self.exit_code = State.ENDING, 1
        self._crew.kill()

    @property
    def _may_be_soft(self) -> bool:
        busy = any(child.running for child in self._crew)
        return self._config.soft_shutdown_seconds > 0 and (busy or self._config.soft_shutdown_on_idle)

    def _drain(self, state: State, seconds: float | None) -> None:
        """Let running jobs end, and take the rest back."""
        self.state = state
        self._until = math.inf if seconds is None else time.monotonic() + seconds
        self._rounds.stop_claiming()
        for child in self._crew:
            self._crew.recall(child)
            child.stop()
            self._crew.watch(child)

    def _end_solo(self) -> None:
        """The task runs in this very process: hand its job back, then end the process."""
        for child in self._crew:
            for job in child.held.values():
                self._rounds.complete(self._killed(job))
        if self._config.embedded:  # the task's thread cannot be ended: it runs on, and nobody reads its answer
            for child in self._crew:
                self._crew.remove(child, replace=False)
            return
        self._rounds.stop(GOODBYE_SECONDS)
        self.end_process()

    def end_process(self) -> NoReturn:
        """solo: end the task with the process that it runs in."""
        self._config.at_exit()
        os._exit(1)
