"""Beat: enqueues what is due by the table of schedules. Any number may run, on any hosts; none is the leader.

A turn reads the table, takes the steps that are due (`steps.py`), each in a transaction of its
own, and sleeps until the next due time. It sleeps no longer than `max_interval`, to see
edits of the table. Every beat that is awake tries every due row, and the first to lock one does it;
so a beat that dies costs no delay, and there is nothing to elect or to time out.

An entry whose firing waits for somebody's lock (a transaction that has its unique key, and is open) is put off, for
others are due behind it. So the turn ends with it: in the next one it comes last.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from dbqueue.errors import DBQueueError, LockTimeout
from dbqueue.jobs import NewJob
from dbqueue.shown import clean
from dbqueue.store import schedules
from dbqueue.store.base import Store
from dbqueue.store.schedules import ScheduleRow, Step
from dbqueue.store.trouble import BRIEF_LOCK_SECONDS, BRIEFEST_LOCK_SECONDS
from dbqueue.worker.beat.steps import SKIP_GRACE_SECONDS, Steps, wanted
from dbqueue.workflows import Workflow

MAX_INTERVAL_SECONDS: Final = 2.0
"""How soon an edit of the table is seen, by default. A look costs one small query."""
BUSY_SECONDS: Final = 0.02
"""How long to wait for another beat that has locked a due row, before looking again."""
PUT_OFF_SECONDS: Final = 5.0
"""When to try an entry again whose firing waited for somebody's lock, in vain."""
STOP_SECONDS: Final = 10.0
"""How long a stop waits for a turn that is under way; what it has not committed then does not happen."""
FIRST_RETRY_SECONDS: Final = 0.1
LAST_RETRY_SECONDS: Final = 5.0

logger: Final = logging.getLogger("dbqueue.beat")
logger.addFilter(clean)


class Beat:
    """One beat: `run` in this thread, or `start` and `stop` for one of its own.

    `prepare` is called once the database answers, before the first turn, `published` with the jobs
    that were enqueued. `max_interval` is in seconds.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        steps: Steps,
        *,
        prepare: Callable[[Store], None] = lambda store: None,
        published: Callable[[Sequence[NewJob]], None] = lambda jobs: None,
        max_interval: float = MAX_INTERVAL_SECONDS,
    ) -> None:
        self._store, self._steps, self._prepare, self._published = store, steps, prepare, published
        self.max_interval = max_interval
        self._prepared = False
        self._put_off: dict[str, float] = {}
        """Entries that wait for somebody's lock, and when to try each again, on the monotonic clock."""
        self._stopped = False
        # Not an Event: its lock may be in hand when a signal comes, whose handler would wait for it for ever.
        self._woken = queue.SimpleQueue[None]()
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Serve until `stop`. A database that does not answer is asked again and again."""
        retry = FIRST_RETRY_SECONDS
        while not self._stopped:
            try:
                pause = self.turn()
                if retry != FIRST_RETRY_SECONDS:
                    logger.warning("beat: The database answers again; what was missed is made up for by each policy")
                retry = FIRST_RETRY_SECONDS
            except Exception as error:  # a beat that ended in silence would be noticed days later
                if retry == FIRST_RETRY_SECONDS:
                    unexpected = None if isinstance(error, DBQueueError) else error
                    logger.error(  # noqa: TRY400 - a traceback is for bugs
                        "beat: Nothing is sent now: %s. Trying again.", error, exc_info=unexpected
                    )
                pause, retry = retry * random.uniform(0.5, 1.0), min(retry * 2, LAST_RETRY_SECONDS)
            self._sleep(pause)

    def start(self) -> None:
        """Run in a thread of its own. Does nothing if it runs already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self.run, name="beat", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the run, and the thread if there is one. May be called again, and from a signal handler of `run`."""
        self._stopped = True
        self._woken.put(None)
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)
            self._thread = None

    def _sleep(self, seconds: float) -> None:
        """Until `stop`, or for so long."""
        with contextlib.suppress(queue.Empty):
            self._woken.get(timeout=seconds)

    def turn(self, *, now: datetime | None = None) -> float:
        """Do what is due; the seconds until there may be more to do, at most `max_interval`."""
        store = self._store()
        if not self._prepared:
            self._prepare(store)
            self._prepared = True
        began = time.monotonic()
        clock, rows = schedules.read(store, now=now)
        due = [row for row in rows if wanted(row, clock)]
        self._put_off = {row.name: self._put_off[row.name] for row in due if row.name in self._put_off}
        rows = [row for row in rows if self._put_off.get(row.name, began) <= began]
        due = [row for row in due if self._put_off.get(row.name, began) <= began]
        # In any order: beats that wake together share the rows, and one that always fails delays no other for ever.
        random.shuffle(due)
        due.sort(key=lambda row: row.name in self._put_off)
        fired = False
        for row in due:
            try:
                fired |= self._advance(store, row, now)
            except LockTimeout as error:
                self._put_it_off(row, error)
                return 0.0  # others may be due by now
        if due:
            return 0.0 if fired else BUSY_SECONDS
        waits = [(row.next_due_at - clock).total_seconds() for row in rows if row.next_due_at]
        again = [at - began for at in self._put_off.values()]
        return max(0.0, min([self.max_interval, *waits, *again]) - (time.monotonic() - began))

    def _advance(self, store: Store, row: ScheduleRow, now: datetime | None) -> bool:
        """Take the row's step, unless another beat has it; whether there was one. Raises LockTimeout."""
        seen: list[tuple[ScheduleRow, datetime]] = []

        def decide(locked: ScheduleRow, clock: datetime) -> Step | None:
            seen.append((locked, clock))
            return self._steps.step(locked, clock)

        patience = BRIEFEST_LOCK_SECONDS if self._put_off.keys() - {row.name} else BRIEF_LOCK_SECONDS
        step = schedules.advance(store, row.name, decide, lock_seconds=patience, now=now)
        if seen:  # else another beat has it, which may be waiting as well
            self._put_off.pop(row.name, None)
        if step is not None:
            _tell(*seen[-1], step)
            if step.jobs:
                self._published([job for each in step.jobs for job in _jobs_of(each)])
        return step is not None

    def _put_it_off(self, row: ScheduleRow, error: LockTimeout) -> None:
        """Put the row off."""
        if row.name not in self._put_off:
            logger.warning(
                "Scheduler: Entry %s waits for what somebody's transaction has locked (%s); it is tried again each "
                "%g s, and all others go on",
                row.name,
                error,
                PUT_OFF_SECONDS,
            )
        self._put_off[row.name] = time.monotonic() + PUT_OFF_SECONDS


def _tell(row: ScheduleRow, now: datetime, step: Step) -> None:
    """Say what was done with a row."""
    if step.problem:
        logger.error("Scheduler: Entry %s does not fire: %s. Correct its row, or the settings.", row.name, step.problem)
    elif not row.enabled:
        logger.info("Scheduler: Entry %s is paused", row.name)
    elif row.planned_from != step.planned_from or row.next_due_at is None:
        logger.info("Scheduler: Entry %s (%s) is due next at %s", row.name, row.schedule, step.next_due_at)
    elif not step.jobs and step.next_due_at is not None and step.next_due_at < row.next_due_at:
        logger.warning(
            "Scheduler: Entry %s was to wait until %s, for the database's clock was put back; it is due next at %s",
            row.name,
            row.next_due_at,
            step.next_due_at,
        )
    late = (now - row.next_due_at).total_seconds() if row.next_due_at else 0.0
    fires = row.next_due_at is not None and row.enabled and row.planned_from == step.planned_from
    if fires and late > SKIP_GRACE_SECONDS:
        logger.warning(
            "Scheduler: Entry %s was due %.0f s ago; by its policy (%s) what was missed is sent so many times: %d",
            row.name,
            late,
            row.misfire,
            len(step.jobs),
        )
    for each in step.jobs:
        first = each.first if isinstance(each, Workflow) else each
        logger.info("Scheduler: Sending due task %s (%s)", row.name, row.task, extra={"task_id": first.id})


def _jobs_of(each: NewJob | Workflow) -> Sequence[NewJob]:
    return each.jobs if isinstance(each, Workflow) else (each,)
