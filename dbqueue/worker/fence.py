"""Keeps the worker from running jobs that may be another's: its lease, and single claims that are void.

A worker whose heartbeat may have come too late kills its children before a rival may start, and
claims nothing until the database has answered again: it is FENCED.
"""

from __future__ import annotations

from dbqueue.worker import log
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.crew import Crew
from dbqueue.worker.dispatch import Dispatcher
from dbqueue.worker.rounds import Rounds
from dbqueue.worker.shutdown import Shutdown, State
from dbqueue.worker.watch import Watch, boot_clock


class Fence:
    """Used by the loop; `declared_dead` may be set by any thread."""

    def __init__(
        self, config: WorkerConfig, crew: Crew, dispatcher: Dispatcher, rounds: Rounds, watch: Watch, ending: Shutdown
    ) -> None:
        self._config, self._crew, self._dispatcher = config, crew, dispatcher
        self._rounds, self._watch, self._ending = rounds, watch, ending
        self.declared_dead = False
        """Whether the database has closed this worker's row."""

    def keep(self) -> None:
        """Look at the lease; called once in a turn of the loop."""
        ending = self._ending
        if self.declared_dead and ending.claims:
            self.declared_dead = False
            log.logger.error(
                "This worker was declared dead, because its heartbeat did not come for %g s: its pool processes are "
                "killed, other workers have its jobs, and it registers anew",
                self._config.lease_seconds,
            )
            self._close()
            self._rounds.register_anew(self._config.new_info())
        late = boot_clock() > self._watch.deadline
        if ending.state in (State.DRAINING, State.SOFT) and (late or self.declared_dead):
            log.logger.error("The lease ended during the shutdown: others may run these jobs, so they end here")
            ending.end()
        if late and ending.state is State.RUNNING:
            log.logger.error(
                "No heartbeat reached the database for %g s: pool processes are killed before others may take their "
                "jobs, and no job is claimed until it answers",
                0.9 * self._config.lease_seconds,
            )
            self._close()
        elif not late and ending.state is State.FENCED and not any(child.held for child in self._crew):
            log.logger.warning("The heartbeat is back: claiming again")
            ending.state = State.RUNNING
            self._rounds.resume_claiming()

    def drop_lost_leases(self) -> None:
        """End the runs whose claims the server has forgotten: those jobs wait again, for any worker."""
        while self._rounds.lost_leases:
            job_id = self._rounds.lost_leases.popleft()
            self._dispatcher.drop(job_id)
            for child in self._crew:
                if any(job.id == job_id for job in child.running):
                    log.logger.warning("Job %s lost its lease in a crash of the database: its run is ended", job_id)
                    child.kill()

    def _close(self) -> None:
        self._ending.state = State.FENCED
        self._rounds.stop_claiming()
        self._crew.kill()
