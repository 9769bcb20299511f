"""A job's end in the same transaction as its work: `@app.task(transactional=True)`, and `dbqueue.complete`.

At-least-once execution, exactly-once effects for writes in the same transaction: the SUCCESS of the job and
what the run wrote commit together or not at all, and both are fenced by the lease of the run.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from dbqueue import codec
from dbqueue.codec import payloads
from dbqueue.context import Context, current_request
from dbqueue.errors import LeaseLost
from dbqueue.jobs import STARTED, ClaimedJob, Outcome, Replaced, Settled, Succeeded

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.store.base import Store

NOT_COMMITTED: Final = (
    "dbqueue.complete() wrote the job's success in a transaction that was not committed before the task returned: "
    "it is rolled back, and the job has failed"
)


class TransactionPart:
    """`Task.session` and `Task.connection`: what the running job's transaction has of this name.

    A subclass or an instance of Task may have an attribute of its own in its place.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, task: Any, owner: type | None = None) -> Any:
        if task is None:
            return self
        request = current_request.get()
        unit = None if request is None else request._unit
        if unit is None or not hasattr(unit, self._name):
            raise AttributeError(
                f"{task.name}.{self._name} is there while a job of a task with transactional=True runs; call the task "
                "with apply() to run it in place"
            )
        return getattr(unit, self._name)


def begin(app: DBQueue, job: ClaimedJob, *, is_async: bool) -> Any:
    """The transaction for a run of a transactional task: nothing is opened yet."""
    from dbqueue.store.transactions.async_tasks import AsyncTaskTransaction
    from dbqueue.store.transactions.inner import InnerTransaction
    from dbqueue.store.transactions.tasks import TaskTransaction

    store = app.database.store
    around = current_request.get()
    if around is not None and not is_async and isinstance(around._unit, TaskTransaction):
        outer = around._unit
        if outer.store is store and not outer.is_async and not job.lease:
            return InnerTransaction(outer)
    kind = AsyncTaskTransaction if is_async else TaskTransaction
    return kind(store, job, idle_seconds=app.conf.task_transaction_idle_timeout)


async def leave_loop(app: DBQueue) -> None:
    """Close the connections of the running event loop, if there are any."""
    store = app.database.opened
    if store is not None and "task_engines" in store.__dict__:
        await store.task_engines.aclose()


def complete(connection: Any, result: Any = None) -> None:
    """Write the SUCCESS of the job that runs here, with this result, in the transaction of `connection`.

    For a task that has a session of its own: commit, and the job's success is as durable as what else was
    written. `connection` is what `using` takes, to the queue's own database. The task then returns; what it
    returns is not kept. Where the transaction was not committed by then, it is rolled back and the job fails.

    Raises LeaseLost where the job is another worker's by now: do not catch it, nor commit. RuntimeError
    outside of a job and in a task with `transactional=True`, EncodeError for a result that cannot be stored,
    ForeignConnection. In eager mode nothing is written: there is no row.
    """
    app, request, completion = _completion(connection, result)
    if completion.job.lease:
        from dbqueue.store.transactions.joining import run_in

        run_in(app.database.store, connection, completion.steps())
    request._unit = completion


async def acomplete(connection: Any, result: Any = None) -> None:
    """`complete` for asynchronous code, and for asynchronous connections."""
    app, request, completion = _completion(connection, result)
    if completion.job.lease:
        from dbqueue.store.transactions.joining import arun_in

        await arun_in(app.database.store, connection, completion.steps())
    request._unit = completion


def _completion(connection: Any, result: Any) -> tuple[DBQueue, Context, Completion]:
    request = current_request.get()
    if request is None or request._job is None:
        raise RuntimeError("dbqueue.complete() is for a task that runs as a job: there is none here")
    if request._unit is not None:
        raise RuntimeError(
            "this job is completed already"
            if isinstance(request._unit, Completion)
            else "the transaction of a task with transactional=True completes its job by itself: return the result"
        )
    app, job = request._task.app, request._job
    text, content = None, None
    if job.successors or not request.ignore_result:
        text, content = payloads.written_result(
            result,
            codec.serializer(app.conf.result_serializer),
            what=f"the result of {job.task}",
            max_bytes=app.conf.max_payload_bytes,
            compression=app.conf.result_compression,
        )
    seconds = time.monotonic() - request._started
    outcome = Succeeded(job.id, job.lease, text, seconds, content)
    return app, request, Completion(app.database.store, job, connection, outcome, result)


class Completion:
    """A job that its own task has completed, in a transaction of which it is to be seen whether it was committed."""

    def __init__(self, store: Store, job: ClaimedJob, connection: Any, outcome: Succeeded, value: Any) -> None:
        from dbqueue.store.transactions.joining import is_async

        self.job, self.outcome, self.value = job, outcome, value
        self._store, self._connection = store, connection
        self.is_async = is_async(connection)

    def steps(self) -> Any:
        from dbqueue.store.transactions.completing import complete as write

        return write(self._store, self.outcome, linked=self.job.successors)

    def open(self) -> None:
        """The caller has opened it."""

    def commit(self, outcome: Succeeded | Replaced) -> Any:
        """The caller has committed it; or else it is rolled back, and the job fails. Awaitable where it has to wait."""
        if not self.job.lease:
            return _given(outcome) if self.is_async else outcome
        return self._acommit() if self.is_async else self._commit()

    def rollback(self, error: BaseException | None = None) -> Any:
        """What the task has left open is not to hold its locks any longer."""
        return self._connection.rollback()

    def _commit(self) -> Outcome:
        error = self._error()
        if error is not None:
            with contextlib.suppress(Exception):  # the task has closed it, which says the same
                self._connection.rollback()
            raise error
        return self._settled()

    async def _acommit(self) -> Outcome:
        import asyncio

        error = await asyncio.to_thread(self._error)
        if error is not None:
            with contextlib.suppress(Exception):
                await self._connection.rollback()
            raise error
        return self._settled()

    def _error(self) -> Exception | None:
        """What is wrong, as another connection sees the row."""
        from dbqueue.store.transactions.completing import recorded_now

        found = recorded_now(self._store, self.job.id)
        if found.tells(self.outcome):
            return None
        if (found.status, found.lease) == (STARTED, self.job.lease):
            return RuntimeError(NOT_COMMITTED)
        return LeaseLost(f"job {self.job.id} is not this run's any more")

    def _settled(self) -> Settled:
        outcome = self.outcome
        return Settled(outcome.job_id, outcome.lease, outcome.seconds, succeeded=True, result=outcome.result)


async def _given(outcome: Outcome) -> Outcome:
    return outcome
