"""From a call in Python to a job's row: checking, encoding, routing. Nothing here knows a database."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from dbqueue import codec, signals
from dbqueue.calls import keys, routes
from dbqueue.codec import payloads
from dbqueue.context import current_request
from dbqueue.jobs import (
    A_NAME,
    BLOCKED_BY_LIMIT,
    MAX_PRIORITY,
    MIN_PRIORITY,
    UNIQUE_OPTION,
    NewJob,
    is_name,
    new_job_id,
)
from dbqueue.shown import shown
from dbqueue.workflows import JOIN

if TYPE_CHECKING:
    from dbqueue.conf import Settings
    from dbqueue.task import Task

OPTIONS_IN_ROW: Final = (
    "ignore_result",
    "time_limit",
    "soft_time_limit",
    "shadow",
    "argsrepr",
    "kwargsrepr",
    "group_index",
    "replaced_task_nesting",
    JOIN,
)
FOLLOWED: Final = ("link", "link_error", "chain", "chord")
"""Options by which a call is more than one job."""
_FOLLOWED: Final = frozenset(FOLLOWED)
KEPT_BY_RETRIES: Final = (
    "limit_key", "unique", "unique_for", "serializer", "compression", "group_index", "retries",
)  # fmt: skip
"""Options of the row that no retry changes, beside its ids."""
_IDS: Final = {"task_id": "id", "parent_id": "parent_id", "root_id": "root_id", "group_id": "group"}
"""By option the attribute of a request."""
STAMPED_HEADERS: Final = "stamped_headers"
STAMPS: Final = "stamps"
"""Headers that hold the names of the stamps, and the stamps themselves by name."""

SOFT_ABOVE_HARD: Final = "soft_time_limit must be less than or equal to time_limit"
"""Celery's words."""


def follows(options: Mapping[str, Any]) -> bool:
    """Whether other jobs are to follow the call: then it is a workflow, see `dbqueue.canvas`."""
    return not _FOLLOWED.isdisjoint(options) and any(options.get(name) for name in FOLLOWED)


def alone(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options without what is to follow the call, for who sees to that himself: `new_job` refuses it."""
    if not follows(options):
        return options
    return {name: value for name, value in options.items() if name not in FOLLOWED}


def new_job(
    conf: Settings,
    name: str,
    task: Task[Any, Any] | None,
    args: Iterable[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    published: bool = True,
    checked: bool = True,
) -> NewJob:
    """The job for a call of the task `name`; `options` are those of `Task.apply_async`.

    With `published=False` no signal is sent: the job is to run in place. With `checked=False` the
    arguments may be too few: results of other jobs will stand before them.

    Raises TypeError for arguments that are no sequence and no mapping, EncodeError for arguments
    that cannot be stored, ValueError or ImproperlyConfigured for an option that cannot work; so for what is to follow
    the call, which is not this job's: see `dbqueue.canvas`, and `alone`.
    """
    if isinstance(args, str | bytes | Mapping) or not (args is None or isinstance(args, Iterable)):
        raise TypeError(f"task args must be a list or tuple, not {type(args).__name__}")
    if not (kwargs is None or isinstance(kwargs, Mapping)):
        raise TypeError(f"task keyword arguments must be a mapping, not {type(kwargs).__name__}")
    args, kwargs = list(args or ()), dict(kwargs or {})
    if task is not None:
        routes.annotate(conf, task)
        if checked:
            task.check_arguments(args, kwargs)
        if task.validation is not None:
            task.validation.dump_models(args, kwargs)
        if task.soft_time_limit and task.time_limit and task.soft_time_limit > task.time_limit:
            raise ValueError(SOFT_ABOVE_HARD)
    options = routes.route(conf, name, task, args, kwargs, options)
    if follows(options):
        given = " and ".join(option for option in FOLLOWED if options.get(option))
        raise ValueError(
            f"{given} would never be called: this makes a single job of {name}. Send a signature that has it, for many "
            "calls a group of them; a route cannot give it"
        )
    limit = conf.max_payload_bytes
    task_id = _checked(options["task_id"], "task_id") if options.get("task_id") else new_job_id()
    queue = options["queue"]
    headers = _stamped(options)
    if published:
        headers = _announced(name, task_id, args, kwargs, queue, headers)
    columns = payloads.written(
        name,
        args,
        kwargs,
        serializer=options.get("serializer") or (task and task.serializer) or conf.task_serializer,
        compression=options.get("compression") or (task and task.compression) or conf.task_compression,
        max_bytes=limit,
    )
    limit_key = keys.limit_key(task, options.get("limit_key"), args, kwargs)
    unique_key, unique_seconds = _unique(task, name, args, kwargs, options)
    eta, delay = _start(conf, options)
    expires_at, expires_seconds = _end(conf, task, options)
    parent = current_request.get()
    return NewJob(
        id=task_id,
        task=_checked(name, "task name"),
        queue=_checked(queue, "queue"),
        **columns,
        priority=_priority(conf, task, options),
        eta=eta,
        delay_seconds=delay,
        expires_at=expires_at,
        expires_seconds=expires_seconds,
        headers=codec.dumps(headers, what=f"the headers of {name}", max_bytes=limit) if headers else None,
        options=row_options(options, max_bytes=limit),
        parent_id=_own_id(options, "parent_id") or (parent.id if parent else None),
        root_id=_own_id(options, "root_id") or (parent.root_id if parent else None),
        group_id=_own_id(options, "group_id"),
        blocked_reason=BLOCKED_BY_LIMIT if limit_key else None,
        limit_key=limit_key,
        unique_key=unique_key,
        unique_seconds=unique_seconds,
    )


def _stamped(options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The call's headers, and its stamps among them."""
    headers: Any = options.get("headers")
    names: Any = options.get("stamped_headers")
    if headers is not None and not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of names to values, not {headers!r}")
    if not names:
        return headers
    if not isinstance(names, Collection):
        raise TypeError(f"stamped_headers must be a name or a list of names, not {names!r}")
    names = [names] if isinstance(names, str) else list(names)
    stamps = {name: options[name] for name in names if name in options}
    return {**(headers or {}), STAMPED_HEADERS: names, STAMPS: stamps}


def _announced(
    name: str, task_id: str, args: list[Any], kwargs: dict[str, Any], queue: Any, headers: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The call's own headers, with those that receivers of `before_task_publish` add (tracing does)."""
    own = dict(headers or {})
    if not signals.before_task_publish.has_listeners():
        return own
    shown = {"lang": "py", "task": name, "id": task_id, "retries": 0, "root_id": task_id, **own}
    standard = shown.keys() - own.keys()
    signals.before_task_publish.send(
        name,
        body=(args, kwargs, {}),
        exchange="",
        routing_key=str(queue),
        headers=shown,
        properties={"correlation_id": task_id},
        declare=[],
        retry_policy={},
    )
    return {key: value for key, value in shown.items() if key not in standard}


def announce_published(jobs: Iterable[NewJob]) -> None:
    """Tell receivers of `after_task_publish` about jobs that were written."""
    if signals.after_task_publish.has_listeners():
        for job in jobs:
            signals.after_task_publish.send(
                job.task,
                body=(*payloads.read_call(job, codec.SERIALIZERS), {}),
                exchange="",
                routing_key=job.queue,
                headers={"lang": "py", "task": job.task, "id": job.id},
            )


def _checked(value: Any, what: str) -> str:
    text = routes.queue_name(value)
    if not is_name(text):
        raise ValueError(f"{what} must be {A_NAME}, not {shown(value)}")
    return text


def _own_id(options: Mapping[str, Any], name: str) -> str | None:
    given = options.get(name)
    return _checked(given, name) if given else None


def _priority(conf: Settings, task: Task[Any, Any] | None, options: Mapping[str, Any]) -> int:
    priority = options.get("priority")
    if priority is None and task is not None:
        priority = task.priority
    if priority is None and conf.task_inherit_parent_priority and (parent := current_request.get()) is not None:
        priority = (parent.delivery_info or {}).get("priority")
    if priority is None:
        priority = conf.task_default_priority or 0
    if isinstance(priority, bool) or not isinstance(priority, int) or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
        raise ValueError(f"priority must be a whole number from {MIN_PRIORITY} to {MAX_PRIORITY}, not {priority!r}")
    return int(priority)  # of an enumeration's member: its number, which is all that drivers and pipes carry


def _start(conf: Settings, options: Mapping[str, Any]) -> tuple[datetime | None, float | None]:
    """`eta` or `countdown`; a countdown runs on the database's clock."""
    eta, countdown = options.get("eta"), options.get("countdown")
    if eta is not None:
        return aware(conf, eta, "eta"), None
    if countdown is None:
        return None, None
    return None, _seconds(countdown, "countdown")


def _end(
    conf: Settings, task: Task[Any, Any] | None, options: Mapping[str, Any]
) -> tuple[datetime | None, float | None]:
    expires = options.get("expires")
    if expires is None and task is not None:
        expires = task.expires
    if expires is None:
        return None, None
    if isinstance(expires, datetime | str):
        return aware(conf, expires, "expires"), None
    return None, _seconds(expires, "expires")


def _unique(
    task: Task[Any, Any] | None, name: str, args: list[Any], kwargs: dict[str, Any], options: Mapping[str, Any]
) -> tuple[str | None, float | None]:
    """The key that the call may not be enqueued twice for, and for how many seconds its success stands."""
    asked, window = options.get("unique"), options.get("unique_for")
    key = asked if asked is not None or task is None else task.unique
    window = window if window is not None or task is None else task.unique_for
    if key is None:
        key = window is not None
    if key is False:
        return None, None
    seconds = None if window is None else _seconds(window, "unique_for")
    if seconds is not None and seconds <= 0:
        raise ValueError(f"unique_for must be more than 0 seconds, not {window!r}")
    return keys.unique_key(task, name, key, args, kwargs, given=asked is not None), seconds


def retry_terms(
    conf: Settings, task: Task[Any, Any], *, eta: datetime | None, countdown: Any, options: Mapping[str, Any]
) -> tuple[float | datetime, dict[str, Any]]:
    """When a retry is to run, and what it changes of the call; checked as for an enqueue.

    Raises ValueError for callbacks. In Celery a retry's take the place of the call's; here these are edges of the row,
    which do not tell a callback from what comes next in a chain. So for what the row keeps; QueueNotFound.
    """
    if given := " and ".join(option for option in FOLLOWED if options.get(option) is not None):
        raise ValueError(
            f"a retry cannot change what follows the job, as {given} would: give it to the call, or enqueue it in the "
            "task when that has done its work"
        )
    _refuse_what_stays(task, options)
    changes: dict[str, Any] = {}
    key = options.get("routing_key")
    queue = options.get("queue") if options.get("queue") is not None else key and routes.bound_to(conf, key)
    if queue is not None:
        changes["queue"] = _checked(queue, "queue")
        if not conf.task_create_missing_queues:
            routes.check_known(conf, changes["queue"])
    if options.get("priority") is not None:
        changes["priority"] = _priority(conf, task, options)
    if options.get("expires") is not None:
        expires_at, seconds = _end(conf, task, options)
        changes["expires_at"] = (expires_at or datetime.now(UTC) + timedelta(seconds=seconds or 0.0)).isoformat()
    if text := row_options(options, max_bytes=conf.max_payload_bytes):
        changes["options"] = json.loads(text)
    if headers := _stamped(options):
        changes["headers"] = dict(headers)
    return aware(conf, eta, "eta") if eta is not None else _seconds(countdown, "countdown"), changes


def _refuse_what_stays(task: Task[Any, Any], options: Mapping[str, Any]) -> None:
    """Raise ValueError for options that a retry cannot change, unless they say what the job is already."""
    request = task.request
    given = [option for option in KEPT_BY_RETRIES if options.get(option) is not None]
    if options.get("unique") is False and UNIQUE_OPTION not in request._call_options:
        given.remove("unique")
    given += [name for name, own in _IDS.items() if options.get(name) not in (None, getattr(request, own))]
    if given:
        raise ValueError(
            f"a retry is the same job and keeps its {', '.join(given)}: give it to the call, or enqueue another"
        )


def _seconds(value: Any, what: str) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e10:
        raise ValueError(f"{what} must be a number of seconds, not {value!r}")
    return float(value)


def aware(conf: Settings, moment: datetime | str, what: str) -> datetime:
    """A time with a zone: one without is in the setting `timezone`, as in Celery."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise ValueError(f"{what} must be a datetime or its ISO 8601 text, not {moment!r}") from None
    if not isinstance(moment, datetime):
        raise TypeError(f"{what} must be a datetime, not {moment!r}")
    found = moment if moment.tzinfo is not None else moment.replace(tzinfo=ZoneInfo(conf.timezone))
    try:
        found.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{what} must be in the years 1 to 9999 of UTC, not {found.isoformat()}") from None
    return found


def row_options(options: Mapping[str, Any], *, max_bytes: int) -> str | None:
    """What the worker must know of this call, and no column holds; JSON of at most `max_bytes`.

    Raises ValueError for a limit or a name that is none, EncodeError for what cannot be stored.
    """
    chosen = {name: options[name] for name in OPTIONS_IN_ROW if options.get(name) is not None}
    if len(chosen) == 1 and (index := chosen.get("group_index")) is not None:
        return f'{{"group_index": {int(index)}}}'  # a group's members have nothing else, mostly, and are many
    soft, hard = chosen.get("soft_time_limit"), chosen.get("time_limit")
    for limit in (soft, hard):
        if limit is not None and (_seconds(limit, "a time limit") <= 0 or isinstance(limit, timedelta)):
            raise ValueError(f"a time limit is a positive number of seconds, not {limit!r}")
    if soft and hard and soft > hard:
        raise ValueError(SOFT_ABOVE_HARD)
    if chosen.get("shadow"):
        chosen["shadow"] = _checked(chosen["shadow"], "shadow")
    return codec.dumps(chosen, what="the options of the call", max_bytes=max_bytes) if chosen else None
