"""The commands that tell about a worker, under Celery's names and in the shapes of its replies."""

from __future__ import annotations

import json
import os
import resource
import time
from typing import Any, Final

from dbqueue import codec
from dbqueue.codec import nesting
from dbqueue.errors import SerializationError
from dbqueue.jobs import ClaimedJob
from dbqueue.queue_patterns import is_pattern, resolve
from dbqueue.store import revoking
from dbqueue.worker.control import WorkerState, inspect_command
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.revoker import delivery_info

Reply = dict[str, Any]

IMPLEMENTATIONS: Final = {
    "prefork": "dbqueue.pools.prefork",
    "threads": "dbqueue.pools.threads",
    "asyncio": "dbqueue.pools.aio",
    "solo": "dbqueue.pools.solo",
}


@inspect_command(default_timeout=0.2)
def ping(state: WorkerState, **_: Any) -> Reply:
    """Ping workers."""
    return {"ok": "pong"}


@inspect_command(alias="dump_active")
def active(state: WorkerState, safe: bool | None = None, **_: Any) -> list[Reply]:
    """Tasks that run."""
    return [_info(state, job, child) for child in state.crew for job in child.running]


@inspect_command(alias="dump_reserved")
def reserved(state: WorkerState, **_: Any) -> list[Reply]:
    """Tasks that the worker has claimed and not started."""
    return [_info(state, job) for job in _waiting(state)]


@inspect_command(alias="dump_schedule", reads_database=True)
def scheduled(state: WorkerState, **_: Any) -> list[Reply]:
    """Tasks with an eta or a countdown that is not over, in the worker's queues: the database holds them."""
    from dbqueue.store import queries  # an idle worker shall not hold it in memory

    chosen = state.rounds.queues
    present = queries.scheduled_queues(state.store) if any(map(is_pattern, chosen)) else []
    queues = resolve(chosen, present, state.config.excluded)
    return [
        {
            "eta": row.ready_at.isoformat() if row.ready_at else None,
            "priority": row.priority,
            "request": {
                **_call(row.id, row.task, row.args, row.kwargs),
                "hostname": None,
                "time_start": None,
                "acknowledged": False,
                "delivery_info": {
                    "exchange": "",
                    "routing_key": row.queue,
                    "priority": row.priority,
                    "redelivered": row.losses > 0,
                },
                "worker_pid": None,
            },
        }
        for row in queries.scheduled_jobs(state.store, queues)
    ]


@inspect_command(alias="dump_revoked", reads_database=True)
def revoked(state: WorkerState, **_: Any) -> list[str]:
    """Ids of revoked tasks; the same for every worker, for the rows keep them."""
    return revoking.revoked_ids(state.store)


@inspect_command(alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [... [attrN]]]]")
def registered(
    state: WorkerState, taskinfoitems: list[str] | None = None, builtins: bool = False, **_: Any
) -> list[str]:
    """Tasks that the worker knows, with these attributes where they have them: by default their rate limits."""
    shown = []
    default = {"rate_limit": state.app.conf.task_default_rate_limit}
    for name, task in sorted((state.app.tasks if builtins else state.app.tasks.declared()).items()):
        values = {item: getattr(task, item, None) for item in taskinfoitems or ("rate_limit",)}
        values = {item: default.get(item) if value is None else value for item, value in values.items()}
        fields = [f"{item}={value}" for item, value in values.items() if value is not None]
        shown.append(f"{name} [{' '.join(fields)}]" if fields else name)
    return shown


@inspect_command
def stats(state: WorkerState, **_: Any) -> Reply:
    """Counts and facts about the worker."""
    config = state.config
    scaler = {}
    if state.autoscaler is not None:
        held = sum(len(child.running) for child in state.crew) + len(_waiting(state))
        scaler = {"autoscaler": state.autoscaler.info(state.crew.slots, held)}
    return {
        "total": dict(state.total),
        "pid": os.getpid(),
        "clock": str(state.clock),
        "uptime": round(time.monotonic() - state.started_at),
        "pool": {
            "implementation": IMPLEMENTATIONS[config.pool],
            "max-concurrency": state.dispatcher.slots,
            "processes": [child.pid for child in state.crew],
            "max-tasks-per-child": config.max_tasks_per_child or "N/A",
            "timeouts": [state.limits.worker.soft or 0, state.limits.worker.hard or 0],
        },
        "broker": {"transport": state.store.dialect, "hostname": state.store.url},
        "task_events": state.events.enabled,
        "prefetch_count": len(_waiting(state)),
        "rusage": _resources(),
        **scaler,
    }


@inspect_command
def active_queues(state: WorkerState, **_: Any) -> list[Reply]:
    """The queues that the worker takes jobs from."""
    return [_queue(name) for name in state.rounds.queues]


OF_A_BROKER: Final = (
    "alias",
    "binding_arguments",
    "consumer_arguments",
    "expires",
    "max_length",
    "max_length_bytes",
    "max_priority",
    "message_ttl",
    "no_declare",
    "queue_arguments",
)
"""What a broker's queue has and a queue here has not."""


def _queue(name: str) -> Reply:
    """A queue, in the shape that Celery gives it."""
    flags = {"durable": True, "exclusive": False, "auto_delete": False, "no_ack": False}
    exchange = {
        "name": "",
        "type": "direct",
        "durable": True,
        "auto_delete": False,
        "passive": False,
        "no_declare": False,
        "arguments": None,
        "delivery_mode": None,
    }
    return {
        "name": name,
        "routing_key": name,
        "exchange": exchange,
        "bindings": [],
        **flags,
        **dict.fromkeys(OF_A_BROKER),
    }


@inspect_command(variadic="ids", signature="[id1 [id2 [... [idN]]]]")
def query_task(state: WorkerState, ids: str | list[str], **_: Any) -> dict[str, list[Any]]:
    """Whether the worker runs these tasks (active) or holds them (reserved), and what they are."""
    wanted = {ids} if isinstance(ids, str) else set(ids)
    found = {
        job.id: ["active", _info(state, job, child)]
        for child in state.crew
        for job in child.running
        if job.id in wanted
    }
    return found | {job.id: ["reserved", _info(state, job)] for job in _waiting(state) if job.id in wanted}


@inspect_command(args=[("with_defaults", lambda text: text.lower() in ("1", "true", "yes", "on"))])
def conf(state: WorkerState, with_defaults: bool = False, **_: Any) -> Reply:
    """Settings that are not at their defaults; passwords are masked."""
    table = state.app.conf.table(with_defaults=with_defaults)
    plain: Reply = json.loads(json.dumps(table, default=repr))
    return plain


@inspect_command
def report(state: WorkerState, **_: Any) -> Reply:
    """Versions and settings, for bug reports."""
    return {"ok": state.app.bugreport()}


@inspect_command
def clock(state: WorkerState, **_: Any) -> Reply:
    """The worker's logical clock: how many commands it has carried out."""
    return {"clock": state.clock}


def _waiting(state: WorkerState) -> list[ClaimedJob]:
    """The jobs that are claimed and not running."""
    behind = [job for child in state.crew for job in list(child.held.values())[len(child.running) :]]
    return [*behind, *state.dispatcher.behind, *state.dispatcher.suspects, *state.dispatcher.waiting]


def _info(state: WorkerState, job: ClaimedJob, child: Child | None = None) -> Reply:
    """A job in the shape of Celery's requests; with the child that runs it, if one does."""
    return {
        **_call(job.id, job.task, job.args, job.kwargs),
        "hostname": state.hostname,
        "time_start": None if child is None else time.time() - state.limits.ran_seconds(child, job),
        "acknowledged": child is not None and not job.redeliver,
        "delivery_info": delivery_info(job),
        "worker_pid": None if child is None else child.pid,
    }


def _call(job_id: str, task: str, args: str, kwargs: str) -> Reply:
    return {"id": job_id, "name": task, "args": _loaded(args), "kwargs": _loaded(kwargs), "type": task}


def _loaded(text: str) -> Any:
    """The arguments; their text where they cannot be read, or are nested so deeply that the reply could not be."""
    try:
        return text if nesting.is_deeper(text, nesting.DEEPEST_KEPT) else codec.loads(text)
    except SerializationError:
        return text


def _resources() -> Reply:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {name.removeprefix("ru_"): getattr(used, name) for name in dir(used) if name.startswith("ru_")}
