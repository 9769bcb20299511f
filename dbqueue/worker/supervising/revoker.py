"""Ends jobs that were revoked while this worker held them.

    waiting here, or behind another job in a child   taken back, REVOKED `revoked`
    running                                          goes on; with `terminate` it is ended, REVOKED `terminated`

How a run is ended depends on the pool. prefork: the process gets the signal, and another takes its
place. threads and asyncio, and prefork with the signal of soft limits (SIGUSR1, as in Celery): the
exception of a soft time limit is raised in the task; the job is REVOKED whatever it makes of it.
solo: not at all.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Collection
from typing import Any, Final

from dbqueue import codec, signals, stamped
from dbqueue.codec import describe_exception
from dbqueue.context import Context
from dbqueue.errors import SerializationError, TaskRevokedError
from dbqueue.jobs import REVOKED, ClaimedJob, Failed, Outcome
from dbqueue.pools import interrupts, wire
from dbqueue.worker import log
from dbqueue.worker.claiming.handover import Handover
from dbqueue.worker.events import EventSender
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.crew import Crew
from dbqueue.worker.supervising.dispatch import Dispatcher
from dbqueue.worker.supervising.limits import TimeLimits

MAX_STAMPS: Final = 10_000
"""Most revoked values of one stamp that are remembered: the newest."""


class Revoker:
    """Used by the loop. `complete` takes outcomes; `tasks` are the application's, for the signal's sender."""

    def __init__(
        self, pool: str, crew: Crew, dispatcher: Dispatcher, limits: TimeLimits, complete: Callable[[Outcome], None],
        tasks: Any, events: EventSender, claims: Handover,
    ) -> None:  # fmt: skip
        self._pool, self._crew, self._dispatcher, self._limits = pool, crew, dispatcher, limits
        self._complete, self._tasks, self._events, self._claims = complete, tasks, events, claims
        self._orders: dict[str, int | None] = {}
        """Jobs to see to: the signal that ends a run; None leaves a run alone."""
        self._late: dict[str, int] = {}
        """Jobs that are not here, but may be found by the claims that were under way, of which this was the last."""
        self._stamps: dict[str, list[Any]] = {}
        """Stamps by name whose jobs are not to run, as long as this worker lives."""
        self._ended: dict[str, tuple[Child, ClaimedJob]] = {}
        """Where runs were told to end whose rows have, for a second and harder signal."""
        self._told: dict[tuple[str, str], Child] = {}
        """Runs, by job and lease, whose end others know of though they go on in their processes."""

    def revoke(self, job_ids: Collection[str], signum: int | None = None) -> None:
        """See to these jobs; with a signal, to those that run as well."""
        for job_id in job_ids:
            # One without a signal takes none back that has not been sent yet: commands come several at a time.
            self._orders[job_id] = self._orders.get(job_id) if signum is None else signum

    def revoke_stamped(self, wanted: stamped.Wanted) -> None:
        """Run no job that has one of these stamps, from now on."""
        for name, values in wanted.items():
            known = self._stamps.setdefault(name, [])
            known.extend(value for value in values if value not in known)
            del known[:-MAX_STAMPS]

    def having(self, wanted: stamped.Wanted) -> set[str]:
        """Ids of the jobs here that have one of these stamps, those too whose rows have ended and that run on."""
        here = [job for child in self._crew for job in child.held.values()]
        here += [*self._dispatcher.behind, *self._dispatcher.suspects, *self._dispatcher.waiting]
        here += [job for _, job in self._ended.values()]
        return {job.id for job in here if stamped.matches(job.headers, wanted)}

    @property
    def going_on(self) -> set[str]:
        """Jobs whose runs were told to end, and have not."""
        return {job_id for job_id, _ in self._told}

    def refuses(self, job: ClaimedJob) -> bool:
        """Whether a job that was just claimed is not to run."""
        return (
            job.revoked
            or (bool(self._late) and self._late.pop(job.id, None) is not None)
            or (bool(self._stamps) and stamped.matches(job.headers, self._stamps))
        )

    def keep(self) -> None:
        """Do what can be done now; called once in a turn of the loop."""
        if self._late:
            taken = self._claims.taken
            self._late = {job_id: claim for job_id, claim in self._late.items() if claim > taken}
        if self._ended:
            self._ended = {job_id: run for job_id, run in self._ended.items() if not run[0].closed}
        if self._told:
            self._told = {run: child for run, child in self._told.items() if not child.closed and run[0] in child.held}
        if self._orders:
            for job in self._dispatcher.take(self._orders.keys()):
                del self._orders[job.id]
                self.refuse(job, "revoked")
            done = [job_id for job_id, signum in self._orders.items() if self._see_to(job_id, signum)]
            for job_id in done:
                del self._orders[job_id]

    def refuse(self, job: ClaimedJob, why: str) -> None:
        """End a job that has not started: `why` is `revoked` or `expired`."""
        log.discarded(job, why)
        self._end(job, why, 0.0, signum=None)

    def _see_to(self, job_id: str, signum: int | None) -> bool:
        """End the job where it is; False where it must come back from a child first."""
        for child in self._crew:
            job = child.held.get(job_id)
            if job is None:
                continue
            if job not in child.running:
                self._crew.recall(child)
                return False
            if signum is not None:
                self._terminate(child, job, signum)
            return True
        ended = self._ended.get(job_id)
        if ended is None:
            if self._claims.begun > self._claims.taken:
                self._late[job_id] = self._claims.begun
        elif signum is not None:
            ended[0].doom(signum)
        return True

    def _terminate(self, child: Child, job: ClaimedJob, signum: int) -> None:
        if self._pool == "solo":
            log.logger.warning(
                "Task %s[%s] cannot be terminated: the pool solo runs it in the worker itself; it goes on",
                job.task,
                job.id,
            )
            return
        if (job.id, job.lease) not in self._told:
            self._told[job.id, job.lease] = child
            log.terminated(job, signal.Signals(signum).name)
            self._end(job, "terminated", self._limits.ran_seconds(child, job), signum=signum)
        if self._pool == "prefork" and signum != interrupts.SIGNAL:
            child.write_off(job)
            child.doom(signum)
            self._ended[job.id] = child, job
        else:
            child.send(wire.frame(wire.INTERRUPT, job.id))
            self._crew.watch(child)

    def _end(self, job: ClaimedJob, why: str, seconds: float, *, signum: int | None) -> None:
        error, _ = describe_exception(TaskRevokedError(why), max_bytes=4096)
        self._complete(Failed(job.id, job.lease, error, None, seconds, status=REVOKED))
        self._events.revoked(job, terminated=why == "terminated", signum=signum, expired=why == "expired")
        signals.task_revoked.send(
            self._tasks.get(job.task) or job.task,
            request=request_of(job),
            terminated=why == "terminated",
            signum=signum,
            expired=why == "expired",
        )


def request_of(job: ClaimedJob) -> Context:
    """The job as receivers of signals know it from `self.request`, and by the names of Celery's worker requests."""
    headers = _loaded(job.headers)
    stamped = headers if isinstance(headers, dict) else {}
    return Context(
        id=job.id,
        task_id=job.id,
        task=job.task,
        name=job.task,
        task_name=job.task,
        args=_loaded(job.args),
        kwargs=_loaded(job.kwargs),
        retries=job.retries,
        root_id=job.root_id or job.id,
        parent_id=job.parent_id,
        group=job.group_id,
        headers=headers,
        stamps=stamped.get("stamps") or {},
        stamped_headers=stamped.get("stamped_headers"),
        delivery_info=delivery_info(job),
        eta=job.eta,
        expires=job.expires_at,
        called_directly=False,
        correlation_id=job.id,
    )


def delivery_info(job: ClaimedJob) -> dict[str, Any]:
    """Where the job came from, in Celery's shape."""
    return {"exchange": "", "routing_key": job.queue, "priority": job.priority, "redelivered": job.redelivered}


def _loaded(text: str | None) -> Any:
    try:
        return None if text is None else codec.loads(text)
    except SerializationError:  # the row's own fault, which its run would tell
        return None
