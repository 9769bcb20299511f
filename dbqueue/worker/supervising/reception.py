"""What is done with claimed jobs before a child gets them: some are refused, all others are told of.

A row may hold anything. Should that be too much for this worker's own code, the job ends as a FAILURE, and not the
worker: the next one would claim the same row, and end as well.
"""

from __future__ import annotations

from collections.abc import Callable

from dbqueue import signals
from dbqueue.codec import describe_exception
from dbqueue.jobs import ClaimedJob, Failed, Outcome
from dbqueue.worker import log
from dbqueue.worker.claiming.rounds import Rounds
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.events import EventSender
from dbqueue.worker.supervising.revoker import Revoker, request_of


class Reception:
    """Used by the loop."""

    def __init__(
        self,
        config: WorkerConfig,
        rounds: Rounds,
        revoker: Revoker,
        events: EventSender,
        complete: Callable[[Outcome], None],
    ) -> None:
        self._config, self._rounds, self._revoker = config, rounds, revoker
        self._events, self._complete = events, complete

    def take(self, give_back: Callable[[ClaimedJob], None] | None) -> list[ClaimedJob]:
        """The jobs that were claimed and may run; with `give_back` none may any more, and these go back by it."""
        kept: list[ClaimedJob] = []
        for job in self._rounds.take_claimed():
            try:
                if job.expired or self._revoker.refuses(job):
                    self._revoker.refuse(job, "expired" if job.expired and not job.revoked else "revoked")
                elif give_back is not None:
                    give_back(job)
                else:
                    kept.append(job)
            except Exception as error:  # noqa: BLE001 - see the module
                self._end(job, error)
        return kept

    def announced(self, jobs: list[ClaimedJob]) -> list[ClaimedJob]:
        """Tell of the jobs that a child gets now; without those that cannot be told of, which end."""
        try:
            log.received(jobs)
            self._events.received(jobs)
            if signals.task_received.has_listeners():
                for job in jobs:
                    signals.task_received.send(self._config.name, request=request_of(job))
        except Exception as error:  # noqa: BLE001 - see the module
            if len(jobs) > 1:  # it is one of them
                return [kept for job in jobs for kept in self.announced([job])]
            self._end(jobs[0], error)
            return []
        return jobs

    def _end(self, job: ClaimedJob, error: Exception) -> None:
        log.logger.error("Job %s cannot be given to a process and ends as FAILURE", job.id, exc_info=error)
        text, _ = describe_exception(error, max_bytes=4096)
        self._complete(Failed(job.id, job.lease, text, None, 0.0))
