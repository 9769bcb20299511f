"""The worker's events for monitors: collected by the loop, written by the watch thread a few times a second.

They cost a worker that sends none one comparison per batch of jobs; with `-E` each job adds three
short texts, and a statement carries up to a thousand of them. They are written apart from the
rounds: neither waits for the other, and an event that cannot be written harms no job.

They are sent with `-E`, `worker_send_task_events` or `control.enable_events()`. (Celery sends those of the
worker always; here that would be a row every two seconds that nobody may ever read.)
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from dbqueue import task_events
from dbqueue.errors import DBQueueError
from dbqueue.jobs import ClaimedJob, Outcome
from dbqueue.store import events
from dbqueue.store.sessions import WatchSession
from dbqueue.worker import log
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.supervising.children import Child

HEARTBEAT_SECONDS: Final = 2.0
"""Celery's pace of worker-heartbeat."""
WRITE_SECONDS: Final = 0.1
MAX_WAITING: Final = 20_000
"""Events that wait for a database which is slow, or away; beyond them the oldest are dropped."""
MAX_BATCHES: Final = 5
"""Most statements between two heartbeats and looks for commands; what is left comes with the next."""
PRUNE_SECONDS: Final = 15.0
FLUSH_SECONDS: Final = 1.0
"""How long the end of the worker waits for its last events to be written."""


class EventSender:
    """`write`, `pause` are the watch thread's; the rest is the loop's."""

    def __init__(self, config: WorkerConfig) -> None:
        self.enabled = config.task_events
        """Whether events about tasks are sent."""
        self._name, self._levels = config.name, config.repr_levels
        self._waiting: deque[task_events.Event] = deque(maxlen=MAX_WAITING)
        self._began: dict[str, str] = {}
        """The leases of the jobs that are known to run."""
        self._over: dict[str, str] = {}
        """The leases of runs that were told of as revoked and go on: what becomes of them is told to nobody."""
        self._ended = 0
        self._heartbeat_at = 0.0
        self._write_at = self._prune_at = 0.0
        self._written = threading.Condition()

    # the loop

    def online(self) -> None:
        if self.enabled:
            self._put("worker-online", freq=HEARTBEAT_SECONDS, active=0, processed=0)

    def offline(self) -> None:
        """Say goodbye, and wait until that is written, but not for long."""
        if not self.enabled:
            return
        self._put("worker-offline", freq=HEARTBEAT_SECONDS, active=0, processed=self._ended)
        with self._written:
            self._written.wait_for(lambda: not self._waiting, FLUSH_SECONDS)

    def enable(self, on: bool) -> bool:
        """Send events about tasks, or none; whether that is a change."""
        changed, self.enabled = self.enabled != on, on
        if changed:
            self._put("worker-online" if on else "worker-offline", freq=HEARTBEAT_SECONDS)
        return changed

    def beat(self, active: int) -> None:
        """A heartbeat for monitors, now."""
        self._heartbeat_at = time.monotonic() + HEARTBEAT_SECONDS
        load = os.getloadavg() if hasattr(os, "getloadavg") else (0.0, 0.0, 0.0)
        self._put(
            "worker-heartbeat",
            freq=HEARTBEAT_SECONDS,
            active=active,
            processed=self._ended,
            loadavg=[round(each, 2) for each in load],
        )

    def keep(self, crew: Iterable[Child]) -> None:
        """Tell of the runs that have begun; called once in a turn of the loop."""
        if self.enabled:
            active, over = 0, {}
            for child in crew:
                running = child.running
                active += len(running)
                for job in running:
                    if self._over and self._over.get(job.id) == job.lease:
                        over[job.id] = job.lease
                    else:
                        self._begin(job.id, job.lease, child.pid)
            self._over = over
            if time.monotonic() >= self._heartbeat_at:
                self.beat(active)

    def received(self, jobs: Iterable[ClaimedJob]) -> None:
        if self.enabled:
            self._waiting.extend(task_events.received(job, self._name, levels=self._levels) for job in jobs)

    def ended(self, outcome: Outcome, pid: int | None = None) -> None:
        """A run has ended; with the process that ran it, where one did."""
        if self.enabled and self._over.get(outcome.job_id) != outcome.lease:
            told = task_events.ended(outcome, self._name, levels=self._levels)
            if told is not None:
                if pid is not None:  # a short one, which no turn of the loop has seen running
                    self._begin(outcome.job_id, outcome.lease, pid)
                self._waiting.append(told)
            self._ended += 1
            self._began.pop(outcome.job_id, None)

    def revoked(self, job: ClaimedJob, *, terminated: bool, signum: int | None, expired: bool) -> None:
        if self.enabled:
            self._put("task-revoked", uuid=job.id, terminated=terminated, signum=signum, expired=expired)
            if terminated:
                self._over[job.id] = job.lease

    def _begin(self, job_id: str, lease: str, pid: int | None) -> None:
        if self._began.get(job_id) != lease:
            self._began[job_id] = lease
            self._put("task-started", uuid=job_id, pid=pid)

    def _put(self, type: str, **fields: Any) -> None:
        software = task_events.SOFTWARE if type.startswith("worker-") else {}
        self._waiting.append(task_events.event(type, self._name, **software, **fields))

    # the watch thread

    def pause(self, limit: float) -> float:
        """How long the thread may wait for other things, at most `limit` seconds."""
        return min(limit, WRITE_SECONDS) if self.enabled or self._waiting else limit

    def write(self, session: WatchSession) -> None:
        """Write what waits, and now and then delete what is old."""
        now = time.monotonic()
        if now >= self._prune_at:
            self._prune_at = now + PRUNE_SECONDS
            events.prune(session)
        if self._waiting and now >= self._write_at:
            self._write_at = now + WRITE_SECONDS
            for _ in range(MAX_BATCHES):  # the heartbeat must come through
                if not self._waiting:
                    break
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), events.BATCH))]
                try:
                    events.write(session, batch)
                except DBQueueError:
                    log.logger.debug("%d events for monitors are dropped: the database did not take them", len(batch))
                    raise
            with self._written:
                self._written.notify_all()
