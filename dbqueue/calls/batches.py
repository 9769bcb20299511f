"""Many calls of one task: what does not depend on a call's arguments is worked out once for all of them.

The first job is made as any (`calls.new_job`), which takes 20 µs; the others are that job with
another id and other arguments, 5 µs each. Where an option, a route or a receiver looks at each
call by itself, each job is made by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dbqueue import codec, signals
from dbqueue.bulk import AlikeJobs, Batch
from dbqueue.calls import new_job, routes
from dbqueue.jobs import NewJob, new_job_ids

if TYPE_CHECKING:
    from dbqueue.conf import Settings
    from dbqueue.task import Task

Call = tuple[Sequence[Any] | None, Mapping[str, Any] | None]

FEW: Final = 100
"""Up to so many jobs are made before the first is written: there is little to be written meanwhile."""
_OPTIONS: Final = NewJob._fields.index("options")
_PRIORITY: Final = NewJob._fields.index("priority")


def arguments_of(call: Sequence[Any] | Mapping[str, Any]) -> Call:
    """A call of `enqueue_many`: its positional arguments, or a mapping of its keyword arguments."""
    return ((), call) if isinstance(call, Mapping) else (call, None)


def new_jobs(
    conf: Settings,
    name: str,
    task: Task[Any, Any] | None,
    calls: Sequence[Call],
    options: Mapping[str, Any],
    *,
    in_row: Callable[[int], str | None] | None = None,
) -> Batch:
    """The jobs of these calls, each as `calls.new_job` makes it, and raising what it raises.

    `in_row` gives, for a call's number, the JSON of what its row has in `options`: for the members of a group, where
    that differs. It agrees with what `options` make of the first call.
    """
    if not calls:
        return []
    first = new_job(conf, name, task, *calls[0], options)
    if not _alike(conf, task, options) or first.content_type is not None:
        others = (new_job(conf, name, task, *call, options) for call in calls[1:])
        if in_row is not None:
            others = (job._replace(options=in_row(number)) for number, job in enumerate(others, start=1))
        return [first, *others]
    jobs = AlikeJobs(_like(first, conf, task, calls, in_row), len(calls))
    return jobs if len(calls) > FEW else list(jobs)


def _alike(conf: Settings, task: Task[Any, Any] | None, options: Mapping[str, Any]) -> bool:
    """Whether nothing but its own columns depends on a call's arguments or id."""
    keys = (options.get("limit_key"), options.get("unique"), options.get("unique_for"))
    own = (None, None, None) if task is None else (task.limit, task.unique, task.unique_for)
    return (
        not options.get("task_id")
        and all(key is None or key is False for key in (*keys, *own))
        and not routes.look_at_calls(conf)
        and not signals.before_task_publish.has_listeners()
    )


def _like(
    first: NewJob,
    conf: Settings,
    task: Task[Any, Any] | None,
    calls: Sequence[Call],
    in_row: Callable[[int], str | None] | None,
) -> Iterator[NewJob]:
    yield first
    name, queue, limit = first.task, first.queue, conf.max_payload_bytes
    what, what_by_name = f"the arguments of {name}", f"the keyword arguments of {name}"
    before, options, after = first[_PRIORITY:_OPTIONS], first.options, first[_OPTIONS + 1 :]
    ids = new_job_ids(len(calls))
    for number in range(1, len(calls)):
        args, kwargs = calls[number]
        args, kwargs = _sequence(args), kwargs or {}
        if task is not None:
            task.check_arguments(args, kwargs)
            if task.validation is not None:
                args, kwargs = list(args), dict(kwargs)
                task.validation.dump_models(args, kwargs)
        if in_row is not None:
            options = in_row(number)
        yield NewJob._make(
            (
                ids[number],
                name,
                queue,
                codec.dumps(args, what=what, max_bytes=limit) if args else "[]",
                codec.dumps(dict(kwargs), what=what_by_name, max_bytes=limit) if kwargs else "{}",
                *before,
                options,
                *after,
            )
        )


def _sequence(args: Iterable[Any] | None) -> Sequence[Any]:
    if type(args) is tuple or type(args) is list:
        return args
    if isinstance(args, str | bytes | Mapping):
        raise TypeError(f"task args must be a list or tuple, not {type(args).__name__}")
    return list(args or ())
