"""What monitors are told about a job or a worker: events as dicts, with the types and fields of Celery's.

    task-sent, -received, -started, -succeeded, -failed, -retried, -revoked, -rejected
    worker-online, -heartbeat, -offline

Each has `type`, `timestamp` (seconds since 1970, on the clock of the process that made it), `hostname`
(the worker's name), `pid`, `clock` (a count) and `utcoffset` (hours); those of tasks have `uuid`.
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import socket
import time
from typing import Any, Final

from dbqueue import codec
from dbqueue.errors import SerializationError
from dbqueue.jobs import REVOKED, ClaimedJob, Failed, NewJob, Outcome, Released, Retried, Settled, Succeeded
from dbqueue.shown import shown
from dbqueue.version import __version__

Event = dict[str, Any]

SOFTWARE: Final = {"sw_ident": "dbqueue", "sw_ver": __version__, "sw_sys": platform.system()}

_clock = itertools.count(1)


def event(type: str, hostname: str, **fields: Any) -> Event:
    """An event of now; `fields` may give another `timestamp`."""
    return {
        "type": type,
        "hostname": hostname,
        "utcoffset": (time.altzone if time.localtime().tm_isdst > 0 else time.timezone) // 3600,
        "pid": os.getpid(),
        "clock": next(_clock),
        "timestamp": time.time(),
    } | fields


def sender_name() -> str:
    """The `hostname` of a process that is no worker, as in Celery."""
    return f"gen{os.getpid()}@{socket.gethostname()}"


def sent(job: NewJob, *, levels: int) -> Event:
    return event(
        "task-sent",
        sender_name(),
        uuid=job.id,
        name=job.shown_name,
        **_arguments(job, levels),
        retries=0,
        eta=job.eta.isoformat() if job.eta else None,
        expires=job.expires_at.isoformat() if job.expires_at else None,
        queue=job.queue,
        exchange="",
        routing_key=job.queue,
        root_id=job.root_id or job.id,
        parent_id=job.parent_id,
    )


def received(job: ClaimedJob, hostname: str, *, levels: int) -> Event:
    return event(
        "task-received",
        hostname,
        uuid=job.id,
        name=job.shown_name,
        **_arguments(job, levels),
        retries=job.retries,
        eta=job.eta,
        expires=job.expires_at,
        root_id=job.root_id or job.id,
        parent_id=job.parent_id,
    )


def ended(outcome: Outcome, hostname: str, *, levels: int) -> Event | None:
    """What the end of a run is to monitors; None for a job that only went back to its queue.

    A job that was revoked is told of by whoever ended it: the outcome does not know the signal.
    """
    match outcome:
        case Succeeded(job_id, _, result, seconds, content):
            text = "<another serializer>" if content is not None else shown(_loaded(result), levels=levels)
            return event("task-succeeded", hostname, uuid=job_id, result=text, runtime=seconds)
        case Settled(job_id, _, seconds, True, result):
            text = shown(_loaded(result), levels=levels)
            return event("task-succeeded", hostname, uuid=job_id, result=text, runtime=seconds)
        case Failed(job_id, _, error, traceback, _, status):
            if status == REVOKED:
                return None
            return event("task-failed", hostname, uuid=job_id, exception=exception(error), traceback=traceback)
        case Retried(job_id=job_id, error=error, traceback=traceback):
            return event("task-retried", hostname, uuid=job_id, exception=exception(error), traceback=traceback)
        case Released(rejected=True):
            return event("task-rejected", hostname, uuid=outcome.job_id, requeue=True)
    return None


def exception(error: str) -> str:
    """An exception as its `repr`, from the JSON that a row keeps of it."""
    stored = _loaded(error)
    if not isinstance(stored, dict):
        return str(error)
    arguments = stored.get("exc_message")
    inside = ", ".join(map(shown, arguments)) if isinstance(arguments, list) else shown(arguments)
    return f"{stored.get('exc_type')}({inside})"


def _arguments(job: NewJob | ClaimedJob, levels: int) -> Event:
    """`args` and `kwargs` as text: as the call says itself (`argsrepr`, `kwargsrepr`), or as they are."""
    options = _loaded(job.options) if job.options and "repr" in job.options else None
    own = options if isinstance(options, dict) else {}
    if job.content_type is not None:
        args, kwargs = f"<{job.content_type}>", ""
    else:
        given = _loaded(job.args)
        args = shown(tuple(given) if isinstance(given, list) else given, levels=levels)
        kwargs = shown(_loaded(job.kwargs), levels=levels)
    given_as = {"args": own.get("argsrepr"), "kwargs": own.get("kwargsrepr")}
    return {"args": args, "kwargs": kwargs} | {name: text for name, text in given_as.items() if isinstance(text, str)}


def _loaded(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return codec.loads(text)
    except (SerializationError, json.JSONDecodeError):
        return text
