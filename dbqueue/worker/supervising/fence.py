"""Keeps the worker from running jobs that may be another's: its lease, and single claims that are void.

A worker whose heartbeat may have come too late ends its runs before a rival may start, and claims nothing until the
database has answered again: it is FENCED. One that was declared dead does so too, and registers as another: it is
REGISTERING.

Runs end with their pool process. In the pool solo the worker's own process ends, where it may.
"""

from __future__ import annotations

from dbqueue.jobs import ClaimedJob
from dbqueue.worker import log
from dbqueue.worker.claiming.rounds import Rounds
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.crew import Crew
from dbqueue.worker.supervising.dispatch import Dispatcher
from dbqueue.worker.supervising.shutdown import Shutdown, State
from dbqueue.worker.watch import Watch, boot_clock


class Fence:
    """Used by the loop."""

    def __init__(
        self, config: WorkerConfig, crew: Crew, dispatcher: Dispatcher, rounds: Rounds, watch: Watch, ending: Shutdown
    ) -> None:
        self._config, self._crew, self._dispatcher = config, crew, dispatcher
        self._rounds, self._watch, self._ending = rounds, watch, ending
        self._void: set[tuple[str, str]] = set()
        """Jobs, each with the lease that is void; as long as any is in a child."""

    def keep(self) -> None:
        """Look at the lease; called once in a turn of the loop, before it receives what was claimed."""
        while self._rounds.lost_leases:
            self._void.add(self._rounds.lost_leases.popleft())
        registering = self._rounds.registering  # first: when that has ended, no death is that of the former identity
        state, dead, late = self._ending.state, self._watch.declared_dead, boot_clock() > self._watch.deadline
        if state in (State.DRAINING, State.SOFT):
            if late or dead:
                self._end_with_the_run("The lease ended during the shutdown")
                log.logger.error("The lease ended during the shutdown: others may run these jobs, so they end here")
                self._ending.end()
        elif dead and self._ending.claims:
            if not registering:
                seconds = self._config.lease_seconds
                why = f"This worker was declared dead, because its heartbeat did not come for {seconds:g} s"
                if not late:  # so that was no other worker's doing
                    why = "This worker's row was deleted or closed, though its heartbeats had come in time"
                self._close(State.REGISTERING, why, "other workers have its jobs, and it registers anew")
                self._rounds.register_anew(self._config.new_info())
        elif late and state in (State.RUNNING, State.REGISTERING):
            why = f"No heartbeat reached the database for {self._config.own_seconds:g} s"
            self._close(State.FENCED, why, "others may take its jobs, and no job is claimed until it answers")
        elif not late and state in (State.FENCED, State.REGISTERING) and not self._holds_jobs:
            what = "The heartbeat is back" if state is State.FENCED else "Registered anew"
            log.logger.warning("%s: claiming again", what)
            self._ending.state = State.RUNNING
            self._rounds.resume_claiming()

    def drop_lost_leases(self) -> None:
        """Drop the claims that the server has forgotten: those jobs wait again, for any worker.

        Called when what was claimed is received, before it is given out. What waits in a child behind a run is recalled
        first; should it begin meanwhile, it is a run to be ended.
        """
        if not self._void:
            return
        self._dispatcher.drop(self._void)
        for child in self._crew:
            for job in child.running:
                if self._is_void(job):
                    self._end_run(child, job)
            if any(self._is_void(job) for job in child.held.values()):
                self._crew.recall(child)
        self._void &= {(job.id, job.lease) for child in self._crew for job in child.held.values()}

    def _is_void(self, job: ClaimedJob) -> bool:
        return (job.id, job.lease) in self._void

    def _end_run(self, child: Child, job: ClaimedJob) -> None:
        child.write_off(job)
        child.kill()
        what = "its run is ended" if child.killed else "its run cannot be ended here, and its outcome will be dropped"
        log.logger.warning("Job %s lost its lease in a crash of the database: %s", job.id, what)

    def _close(self, state: State, why: str, consequence: str) -> None:
        """Claim nothing and end all runs, and say so in one line."""
        self._end_with_the_run(why)
        self._rounds.stop_claiming()
        log.logger.error("%s: %s, %s", why, self._end_runs(), consequence)
        self._ending.state = state

    def _end_runs(self) -> str:
        """What that comes to, in words."""
        in_place = self._crew.place is not None
        if in_place and self._holds_jobs:
            return "the task that runs in this program cannot be ended"
        if in_place or all(child.killed for child in self._crew):
            return "nothing runs here"
        self._crew.kill()
        return "its pool processes are killed"

    def _end_with_the_run(self, why: str) -> None:
        """End this process where a task runs in it, and it is the worker's own: nothing else ends the task."""
        if self._crew.place is not None and self._holds_jobs and not self._config.embedded:
            log.logger.error("%s: this process ends, and with it the task that it runs, before others may run it", why)
            self._ending.end_process()

    @property
    def _holds_jobs(self) -> bool:
        return any(child.held for child in self._crew)
