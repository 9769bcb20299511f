"""From a row to a call: what the row says, read and checked, and all that the task needs before it begins.

Whatever stands in a row, and whatever is missing here, comes to an outcome: a row that is no valid call ends as
FAILURE, and a job that cannot begin now goes back to where it was claimed from.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from dbqueue import codec, descriptors, signals
from dbqueue.codec import payloads
from dbqueue.context import Context
from dbqueue.errors import InvalidTaskError, NotRegistered, OperationalError, SchemaError, SerializationError
from dbqueue.jobs import ClaimedJob, Outcome, Released
from dbqueue.worker import log
from dbqueue.worker.running import inputs
from dbqueue.worker.running.runnable import Call, Runnable

if TYPE_CHECKING:
    from dbqueue.worker.running.executor import Executor

_REQUEST_OPTIONS: Final = ("shadow", "group_index", "replaced_task_nesting")
"""What a request has of the row's options, by the same names."""


def begin(executor: Executor, job: ClaimedJob, *, on_own_loop: bool) -> Call | Outcome:
    """The call that the row asks for, or the failure of a row that is none.

    `on_own_loop`: whether a coroutine is to run on this thread's own event loop.
    """
    started = time.monotonic()
    task = executor.resolve(job.task)
    if task is None:
        log.unregistered(job)
        error = NotRegistered(job.task)
        signals.task_unknown.send(executor.options.hostname, name=job.task, id=job.id, message=job, exc=error)
        return executor.failure(job, error, started)
    try:
        if job.inputs:
            inputs.refuse_unread(job)
        if executor.options.signer is not None:
            executor.options.signer.check(job)
        args, kwargs = payloads.read_call(job, executor.options.accept_content)
        if job.inputs:
            args, kwargs = inputs.placed(job, task, args, kwargs, executor.options.accept_results)
        options = (codec.loads(job.options) if job.options else None) or {}
        headers = codec.loads(job.headers) if job.headers else None
        if not isinstance(options, dict):
            raise InvalidTaskError("options must be a JSON object")
        request = _request(executor, job, task, args, kwargs, options, headers)
    except Exception as found:  # noqa: BLE001 - whatever stands in the row, it is not to end this process
        if descriptors.are_used_up(found):  # what reads it is imported when it is used
            return _not_begun(executor, job, found)
        refusal: Exception = found
        if not isinstance(found, (SerializationError, InvalidTaskError)):
            refusal = InvalidTaskError(f"the row is no valid call: {type(found).__name__} in reading it")
        log.refused(job, refusal)
        signals.task_rejected.send(executor.options.hostname, message=job, exc=refusal)
        return executor.failure(job, refusal, started)
    return _equipped(executor, Call(job, task, tuple(args), kwargs, request, started), on_own_loop=on_own_loop)


def _equipped(executor: Executor, call: Call, *, on_own_loop: bool) -> Call | Outcome:
    """The same with all that it needs before its task begins; where that cannot be had now, the job goes back."""
    try:
        if on_own_loop and call.task.is_async:
            executor.loop.have()  # which takes file descriptors
        if executor.transactions is not None and call.task.transactional:  # a process opens its SQLite file here
            call.request._unit = executor.transactions.begin(call.job, call.task.is_async)
    except (OperationalError, SchemaError, OSError) as error:
        return _not_begun(executor, call.job, error)
    return call


def _not_begun(executor: Executor, job: ClaimedJob, error: Exception) -> Released:
    """Back to where it was claimed from; nobody can take a call in place back."""
    if executor.options.eager:
        raise error
    log.not_begun(job, error)
    if executor.retire is not None and descriptors.are_used_up(error):
        executor.retire("has no file descriptor left")  # they may be what its tasks have left open
    return Released(job.id, job.lease, job.ready_at)


def _request(
    executor: Executor, job: ClaimedJob, task: Runnable, args: Any, kwargs: Any, options: Any, headers: Any
) -> Context:
    stamps = headers if isinstance(headers, dict) else {}
    job_id = job.id
    request = Context.of(
        {
            "id": job_id,
            "task": job.task,
            "args": args,
            "kwargs": kwargs,
            "retries": job.retries,
            "root_id": job.root_id or job_id,
            "parent_id": job.parent_id,
            "group": job.group_id,
            "headers": headers,
            "delivery_info": {
                "exchange": "",
                "routing_key": job.queue,
                "priority": job.priority,
                "redelivered": job.redelivered,
            },
            "hostname": executor.options.hostname,
            "called_directly": False,
            "is_eager": executor.options.eager,
            "ignore_result": bool(options.get("ignore_result", task.ignores_result)),
            "correlation_id": job_id,
            "stamps": stamps.get("stamps") or (None if executor.options.eager else {}),
            "_outlet": None if executor.report is None else (executor.report, job.lease),
            "_job": job,
            "_task": task,
            "_started": time.monotonic(),
        }
    )
    # What most calls do not have is left at the class's defaults.
    if options:
        own = {name: options[name] for name in _REQUEST_OPTIONS if name in options}
        request.update(**own)
    if stamps:
        request.stamped_headers = stamps.get("stamped_headers")
    if job.eta or job.expires_at:
        request.update(eta=_moment(executor, job.eta), expires=_moment(executor, job.expires_at))
    return request


def _moment(executor: Executor, text: str | None) -> str | None:
    try:
        return executor.options.localise(datetime.fromisoformat(text)).isoformat() if text else None
    except (ValueError, OverflowError):
        return text  # PostgreSQL's infinity, or a year that Python does not have
