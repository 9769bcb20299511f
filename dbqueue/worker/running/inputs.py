"""What a job's predecessors left for it, put among its arguments (`workflows.Edge.place` says where)."""

from __future__ import annotations

import contextlib
import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Final

from dbqueue import codec
from dbqueue.codec import payloads
from dbqueue.context import Context
from dbqueue.errors import InvalidTaskError, SerializationError
from dbqueue.jobs import ClaimedJob
from dbqueue.workflows import ERRBACK

MAX_ITEMS: Final = 10_000_000
"""Of a list that is made of results: an edge is a row, and a row that names a higher place must not take the memory."""
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def refuse_unread(job: ClaimedJob) -> None:
    """Raise InvalidTaskError where the inputs are larger than `max_input_bytes`, or one of them is not there.

    Where no edge says what they are `placed` does, after a look at the signature: that tells of a changed edge.
    """
    if job.inputs == job.id:
        return
    if isinstance(job.inputs, str):
        raise InvalidTaskError(
            f"it takes the result of the job {job.inputs}, which has none: it was deleted, or has not succeeded"
        )
    if not isinstance(job.inputs, tuple):
        raise InvalidTaskError(
            f"the results that it takes from other jobs are {job.inputs} bytes long in all, more than max_input_bytes: "
            "let them return keys of data that is stored elsewhere, or raise the setting"
        )


def placed(
    job: ClaimedJob, task: Any, args: list[Any], kwargs: dict[str, Any], accept: Collection[str]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments with the inputs among them.

    Raises InvalidTaskError where a place is none, or no edge tells any; DecodeError and ContentDisallowed for a result
    that cannot be read.
    """
    if job.inputs == job.id:
        raise InvalidTaskError("it takes the result of another job, and no row of dbqueue_edges says of which any more")
    assert isinstance(job.inputs, tuple)
    first: list[Any] = []
    items: dict[tuple[int, ...], Any] = {}
    for _, place, text, content in job.inputs:
        if place == ERRBACK:
            call = codec.loads(text or "{}", typed=False)
            wide = takes_failed_call(task, args, kwargs)
            first = _failed_call(call, content, accept) if wide else [call.get("id")]
            continue
        where = codec.loads(place)
        value = payloads.read_result(text, content, accept)
        if isinstance(where, str):
            kwargs = kwargs | {where: value}
        elif isinstance(where, list) and all(type(index) is int and 0 <= index < MAX_ITEMS for index in where):
            if where:
                items[tuple(where)] = value
            else:
                first = [value]
        else:
            raise InvalidTaskError(f"an edge leads to the place {place!r}, which is none")
    if items:
        first = [_nested(items)]
    return [*first, *args], kwargs


def _nested(items: dict[tuple[int, ...], Any]) -> list[Any]:
    """A list of what has one index, and lists of what has more, each in its place."""
    parts: dict[int, Any] = {}
    deeper: dict[int, dict[tuple[int, ...], Any]] = {}
    for where, value in items.items():
        if len(where) == 1:
            parts[where[0]] = value
        else:
            deeper.setdefault(where[0], {})[where[1:]] = value
    parts |= {index: _nested(inner) for index, inner in deeper.items()}
    return [parts.get(index) for index in range(max(parts) + 1)]


def _failed_call(call: dict[str, Any], content: bytes | None, accept: Collection[str]) -> list[Any]:
    """Request, exception and traceback of a call that has failed."""
    exception = codec.rebuild_exception(json.dumps(call.get("error")), call.get("traceback"))
    return [_request(call, content, accept), exception, call.get("traceback")]


def takes_failed_call(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether the task's function takes more than one positional argument beside those that it has already.

    As in Celery a bound task, or one that is written as a class, is called with the id in any case.
    """
    if not isinstance(inspect.getattr_static(type(task), "run", None), staticmethod) or task.bind:
        return False
    for function in (partial(task.run, *args, **kwargs), task.run):
        with contextlib.suppress(TypeError, ValueError):
            kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
            return inspect.Parameter.VAR_POSITIONAL in kinds or sum(kind in _POSITIONAL for kind in kinds) > 1
    return False


def _request(call: dict[str, Any], content: bytes | None, accept: Collection[str]) -> Context:
    args, kwargs = call.get("args"), call.get("kwargs")
    try:
        if content is None:
            args, kwargs = codec.loads(json.dumps(args)), codec.loads(json.dumps(kwargs))
        else:
            args, kwargs = codec.decode(call.get("content_type") or "", content, accept)
    except SerializationError:
        args, kwargs = None, None  # the failure itself tells of it
    return Context(
        id=call.get("id"),
        task=call.get("task"),
        args=args,
        kwargs=kwargs,
        retries=call.get("retries") or 0,
        headers=call.get("headers"),
        parent_id=call.get("parent_id"),
        root_id=call.get("root_id") or call.get("id"),
        group=call.get("group_id"),
        delivery_info={"exchange": "", "routing_key": call.get("queue"), "priority": call.get("priority")},
        correlation_id=call.get("id"),
        called_directly=False,
    )
