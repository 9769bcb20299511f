"""Helpers for an application's own tests: run what was enqueued, look at what was enqueued, move the clock.

    from dbqueue import testing

    def test_orders_are_packed(app):
        place_order(7)
        testing.assert_enqueued(app, task="shop.pack", args=[7])
        assert testing.drain(app).counts == {"SUCCESS": 1}

They work on the application's real database, which for tests may be one in memory (`sqlite://`).
Fixtures with a worker are in `dbqueue.contrib.pytest`.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from dbqueue import codec
from dbqueue.calls import aware, new_job
from dbqueue.codec import payloads
from dbqueue.errors import TaskRevokedError
from dbqueue.jobs import (
    FAILURE,
    PENDING,
    RETRY,
    REVOKED,
    SUCCESS,
    WAITING,
    ClaimedJob,
    Failed,
    NewJob,
    Outcome,
    Released,
    Replaced,
    Retried,
    Settled,
    Succeeded,
)
from dbqueue.limits import Policies
from dbqueue.queue_patterns import matches, resolve
from dbqueue.services.workers import make_executor
from dbqueue.store.records import Claim, HeldClaim
from dbqueue.store.sessions import WorkSession
from dbqueue.task.eager import claimed
from dbqueue.worker.claiming.settling import explain
from dbqueue.worker.config import WorkerConfig

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.store.queries import JobRow
    from dbqueue.store.records import JobRecord
    from dbqueue.task import Task
    from dbqueue.worker.running.executor import Executor

MAX_JOBS: Final = 10_000
"""After so many jobs in one drain it is taken for a task that enqueues itself without end."""
MAX_LISTED: Final = 100_000


# -- running


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one job: `state` is SUCCESS, FAILURE, RETRY, REVOKED, or PENDING of a job that was given back."""

    task_id: str
    task: str
    queue: str
    state: str
    result: Any
    """What the task returned; the exception that it raised."""


@dataclass(frozen=True, slots=True)
class Drained:
    """What a drain did, in the order in which it was done."""

    runs: tuple[Run, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many runs ended in each state."""
        return dict(Counter(run.state for run in self.runs))

    def of(self, task: Task[Any, Any] | str) -> list[Run]:
        """The runs of one task."""
        return [run for run in self.runs if run.task == _name(task)]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)


def drain(
    app: DBQueue,
    queues: str | Iterable[str] | None = None,
    now: datetime | None = None,
    *,
    propagate: bool = False,
) -> Drained:
    """Run all jobs that are due, here and now, as a worker would: through the database, one after the other.

    What they enqueue in their turn is run too. `queues` are names or patterns, by default all
    queues; paused ones are left out. `now` is the time by which jobs are due, by default that of
    `clock`, or else the database's: a retry or a countdown that is due later stays where it is.
    A time without a zone is in the application's. With `propagate` the first exception of a task is
    raised, after it was written.

    Raises RuntimeError after 10,000 jobs. On an event loop use `adrain`.
    """
    app.import_tasks()
    now = None if now is None else aware(app.conf, now, "now")
    seen: list[Any] = []
    executor = make_executor(app, hostname=f"drain@{socket.gethostname()}", observe=seen.append)
    session = app.database.store.work_session("drain")
    try:
        return _Drain(app, session, executor, seen).run(queues, now, propagate=propagate)
    finally:
        session.close()
        executor.close()


async def adrain(app: DBQueue, queues: str | Iterable[str] | None = None, now: datetime | None = None) -> Drained:
    """`drain` for asynchronous code: it runs in a thread, and asynchronous tasks on an event loop of that thread."""
    return await asyncio.to_thread(drain, app, queues, now)


class _Drain:
    def __init__(self, app: DBQueue, session: WorkSession, executor: Executor, seen: list[Any]) -> None:
        self._app, self._session, self._executor, self._seen = app, session, executor, seen
        config = WorkerConfig(name=f"drain@{socket.gethostname()}", queues=(), pool="solo", concurrency=1)
        # It sends no heartbeats: a worker that runs beside it must not take it for dead.
        self._worker = replace(config, lease_seconds=86_400.0).new_info()
        self._policies = Policies({name: task.limit for name, task in app.tasks.items() if task.limit is not None})

    def run(self, queues: str | Iterable[str] | None, now: datetime | None, *, propagate: bool) -> Drained:
        runs: list[Run] = []
        given_back: set[str] = set()
        self._session.register(self._worker)
        try:
            while (job := self._claim(_names(queues), self._time(now))) is not None:
                if len(runs) >= MAX_JOBS:
                    self._settle(job, Released(job.id, job.lease, job.ready_at), now)
                    raise RuntimeError(f"drain has run {MAX_JOBS} jobs and more are due: does a task enqueue itself?")
                if job.id in given_back:
                    self._settle(job, Released(job.id, job.lease, job.ready_at), now)
                    break  # it stands before all others, and would come again for ever
                run, outcome = self._perform(job)
                self._settle(job, outcome, now)
                runs.append(run)
                if isinstance(outcome, Released):
                    given_back.add(job.id)
                if propagate and run.state == FAILURE:
                    raise run.result
        finally:
            self._session.close_worker(self._worker.id)
        return Drained(tuple(runs))

    def _time(self, now: datetime | None) -> datetime | None:
        moved = self._app.database.test_clock
        return now if now is not None or moved is None else moved.now()

    def _claim(self, chosen: list[str] | None, now: datetime | None) -> ClaimedJob | None:
        present, paused = self._session.waiting_queues(), self._session.paused_queues()
        names = [name for name in resolve(["*"] if chosen is None else chosen, present) if name not in paused]
        if not names:
            return None
        claim = Claim(self._worker.id, str(uuid4()), names, 1)
        held = HeldClaim(self._worker.id, claim.lease, names, 1, policies=self._policies)
        first = [*self._session.round([], claim, now=now).claimed] or self._session.claim_held(held, now=now).claimed
        return next(iter(first), None)

    def _settle(self, job: ClaimedJob, outcome: Outcome, now: datetime | None) -> None:
        linked = {job.id} if job.successors else frozenset[str]()
        explain(self._session, [outcome], self._session.round([outcome], None, linked=linked, now=self._time(now)))

    def _perform(self, job: ClaimedJob) -> tuple[Run, Outcome]:
        if job.expired:
            error: BaseException = TaskRevokedError("expired")
            text, _ = codec.describe_exception(error, max_bytes=4096)
            outcome: Outcome = Failed(job.id, job.lease, text, None, 0.0, status=REVOKED)
            return Run(job.id, job.task, job.queue, REVOKED, error), outcome
        self._seen.clear()
        outcome = self._executor.run(job)
        return Run(job.id, job.task, job.queue, _state(outcome), _value(outcome, self._seen)), outcome


@dataclass(frozen=True, slots=True)
class Performed:
    """What one run of a call came to: `state` is SUCCESS, FAILURE, RETRY, or PENDING after Reject(requeue=True)."""

    state: str
    result: Any
    """What the task returned, as `AsyncResult` would give it; or the exception that it raised (Retry, too)."""
    retry_in: float | None = None
    """After RETRY: the pause in seconds, if it was not given as an `eta`."""


def perform_job(task: Task[Any, Any], *args: Any, **kwargs: Any) -> Performed:
    """Run one call of the task as a worker would, without a database: once, hooks and signals included.

    Arguments and result go through the serializer. Raises what `delay` raises for arguments that
    do not fit or cannot be stored; what the task raises is in the result.
    """
    app = task.app
    seen: list[Any] = []
    job = new_job(app.conf, task.name, task, args, kwargs, {}, published=False)
    executor = make_executor(app, hostname=socket.gethostname(), observe=seen.append)
    try:
        outcome = executor.run(claimed(app.database.signed(job)))
    finally:
        executor.close()
    if isinstance(outcome, Succeeded):
        return Performed(SUCCESS, None if outcome.result is None else codec.loads(outcome.result))
    pause = outcome.delay_seconds if isinstance(outcome, Retried) and outcome.eta is None else None
    return Performed(_state(outcome), _value(outcome, seen), pause)


def _state(outcome: Outcome) -> str:
    match outcome:
        case Succeeded() | Settled(succeeded=True):
            return SUCCESS
        case Retried():
            return RETRY
        case Released() | Replaced() | Settled():
            return PENDING
        case Failed():
            return outcome.status
    raise AssertionError(outcome)


def _value(outcome: Outcome, seen: Sequence[Any]) -> Any:
    """The task's own object; where it is none that was stored, what was stored instead."""
    value = seen[-1] if seen else None
    if isinstance(outcome, Failed) and not isinstance(value, BaseException):
        return codec.rebuild_exception(outcome.error, outcome.traceback)
    return value


# -- looking


@dataclass(frozen=True, slots=True)
class EnqueuedJob:
    """A job that waits."""

    id: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    queue: str
    priority: int
    state: str
    """PENDING, or RETRY."""
    eta: datetime | None
    expires: datetime | None


def all_enqueued(
    app: DBQueue,
    *,
    task: Task[Any, Any] | str | None = None,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    queue: str | None = None,
) -> list[EnqueuedJob]:
    """The jobs that wait, due or not, and fit all that is given; the oldest first.

    `args` and `kwargs` are the whole of them, as the task will get them: a tuple in them is a list.
    `queue` is a name or a pattern.
    """
    from dbqueue.store import queries

    rows = queries.find_jobs(app.database.store, statuses=WAITING, limit=MAX_LISTED)
    rows = [row for row in reversed(rows) if task is None or row.task == _name(task)]
    calls = app.database.store.fetch([row.id for row in rows if row.content_type is not None])
    found = [
        EnqueuedJob(
            row.id,
            row.task,
            *call,
            row.queue,
            row.priority,
            row.status,
            row.eta,
            row.expires_at,
        )
        for row in rows
        for call in (_call(row, calls.get(row.id), app.conf.accept_content),)
    ]
    return [
        job
        for job in found
        if (args is None or job.args == list(args))
        and (kwargs is None or job.kwargs == dict(kwargs))
        and (queue is None or matches(job.queue, [queue]))
    ]


def _call(row: JobRow, record: JobRecord | None, accepted: Collection[str]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments; those in another serializer than JSON are in the `record`."""
    return (codec.loads(row.args), codec.loads(row.kwargs)) if record is None else payloads.read_call(record, accepted)


def assert_enqueued(app: DBQueue, *, count: int | None = None, **wanted: Any) -> list[EnqueuedJob]:
    """Fail unless jobs wait that fit all that is given: `count` of them, or at least one; returns them.

    `wanted` is what `all_enqueued` takes: `task`, `args`, `kwargs`, `queue`.
    """
    __tracebackhide__ = True
    found = all_enqueued(app, **wanted)
    if count is None and not found:
        raise AssertionError(f"no job waits that is {_shown(wanted)}; {_listing(app)}")
    if count is not None and len(found) != count:
        raise AssertionError(f"{len(found)} jobs wait that are {_shown(wanted)}, not {count}; {_listing(app)}")
    return found


def refute_enqueued(app: DBQueue, **unwanted: Any) -> None:
    """Fail if a job waits that fits all that is given; takes what `all_enqueued` takes."""
    __tracebackhide__ = True
    found = all_enqueued(app, **unwanted)
    if found:
        raise AssertionError(f"{len(found)} jobs wait that are {_shown(unwanted)}; {_listing(app)}")


def _shown(wanted: Mapping[str, Any]) -> str:
    given = {name: _name(value) if name == "task" else value for name, value in wanted.items() if value is not None}
    return ", ".join(f"{name}={value!r}" for name, value in given.items()) or "of any kind"


def _listing(app: DBQueue) -> str:
    waiting = all_enqueued(app)
    lines = [f"\n    {job.task} args={job.args!r} kwargs={job.kwargs!r} queue={job.queue!r}" for job in waiting[:20]]
    return "these wait:" + "".join(lines) if lines else "none waits at all"


# -- time


class Clock:
    """The time of the tests: the real one, moved ahead."""

    def __init__(self) -> None:
        self._ahead = timedelta()

    def now(self) -> datetime:
        """An aware datetime in UTC."""
        return datetime.now(UTC) + self._ahead

    def advance(self, delta: timedelta | None = None, **units: float) -> datetime:
        """Move ahead by a timedelta, or by what one takes: `advance(hours=1)`; returns the new time.

        Raises ValueError for a step back: what is enqueued meanwhile is due by the database's own clock.
        """
        step = timedelta(**units) if delta is None else delta
        if step < timedelta():
            raise ValueError("the clock moves ahead only")
        self._ahead += step
        return self.now()

    def move_to(self, moment: datetime) -> datetime:
        """Move ahead to an aware datetime; TypeError for one without a zone, for a clock is no application's."""
        if moment.tzinfo is None:
            raise TypeError(f"{moment!r} needs a time zone, such as datetime.UTC")
        return self.advance(moment - self.now())

    def dated(self, job: NewJob) -> NewJob:
        """The job with its countdown, and the seconds to its expiry, reckoned by this clock."""
        now = self.now()
        changes: dict[str, Any] = {}
        if job.delay_seconds is not None:
            changes |= {"eta": now + timedelta(seconds=job.delay_seconds), "delay_seconds": None}
        if job.expires_seconds is not None:
            changes |= {"expires_at": now + timedelta(seconds=job.expires_seconds), "expires_seconds": None}
        return job._replace(**changes) if changes else job


@contextmanager
def clock(app: DBQueue) -> Iterator[Clock]:
    """A clock that the test moves, for what is enqueued through this application and for `drain`.

    A worker, in this process or another, goes by the database's clock all the same.
    """
    before, moved = app.database.test_clock, Clock()
    app.database.test_clock = moved
    try:
        yield moved
    finally:
        app.database.test_clock = before


def _name(task: Task[Any, Any] | str) -> str:
    return task if isinstance(task, str) else task.name


def _names(queues: str | Iterable[str] | None) -> list[str] | None:
    return [queues] if isinstance(queues, str) else None if queues is None else list(queues)
