"""Canvases in place, in this process: `apply` of each, and `apply_async` with `task_always_eager`.

A chain runs its steps in turn, a group its members, a chord its header and then its body: as
Celery's eager mode, where the first error ends a chain or a chord at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dbqueue.canvas.compiler import OF_THE_LAST, STARTS, of_each, unrolled
from dbqueue.canvas.flat_groups import LINKS
from dbqueue.canvas.primitives import chain, chord, chunks, group, links, members
from dbqueue.canvas.signatures import Signature, as_list, maybe_signature
from dbqueue.context import Context
from dbqueue.jobs import SUCCESS, new_job_id
from dbqueue.result import GroupResult, allow_join_result
from dbqueue.states import IGNORED, PROPAGATE_STATES, REJECTED
from dbqueue.task.eager import EagerResult
from dbqueue.worker.running.inputs import takes_failed_call

if TYPE_CHECKING:
    from dbqueue.app import DBQueue


def send(
    sig: Signature, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> Any:
    """`apply_async` with `task_always_eager`."""
    if sig.subtask_type is None:
        args, kwargs, options = sig._merge(args, kwargs, options)
        return sig.type.apply_async(args, kwargs, **options)
    return apply(sig, args, kwargs, options)


def apply(sig: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Mapping[str, Any]) -> Any:
    """Run the signature here, with these arguments before its own; its result, which has ended."""
    if isinstance(sig, chunks):
        sig = sig.group()
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(sig, chain):
        args, kwargs = _own(sig, args, kwargs, "tasks")
        return _chain(sig, args, kwargs, sig._merge(options=options)[2])
    if isinstance(sig, group):
        args, kwargs = _own(sig, args, kwargs, "tasks")
        return _group(sig, args, kwargs, sig._merge(options=options)[2])
    if isinstance(sig, chord):
        body = maybe_signature((kwargs or {}).get("body")) or sig.body
        args, kwargs = _own(sig, args, kwargs, "header", "body", "kwargs")
        return _chord(sig, body, args, kwargs, sig._merge(options=options)[2])
    args, kwargs, options = sig._merge(args, kwargs, options)
    return sig.type.apply(args, kwargs, **options)


def _chain(sig: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]) -> Any:
    steps = list(unrolled(sig))
    callbacks = options.pop("link", None)
    last = None
    for number, step in enumerate(steps, start=1):
        own = {name: value for name, value in options.items() if number == len(steps) or name not in OF_THE_LAST}
        if callbacks and number == len(steps) and not isinstance(step, group):
            own["link"] = [*as_list(step.options.get("link")), *as_list(callbacks)]
        if last is not None:
            with allow_join_result():
                args, kwargs = (last.get(),), {}
        result = apply(step, args, kwargs, own)
        result.parent, last = last, result
        if getattr(result, "state", None) in (IGNORED, REJECTED):
            break
    if callbacks and isinstance(steps[-1], group):
        _call_with_list(callbacks, last, sig.app)
    return last


def _group(sig: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]) -> GroupResult:
    group_id = options.pop("task_id", None) or new_job_id()
    own = {name: value for name, value in options.items() if name not in LINKS}
    tasks = members(sig, sig._app)
    results = [
        apply(
            task,
            args,
            kwargs,
            {**own, **of_each(task, options), "group_id": own.get("group_id") or group_id, "group_index": index},
        )
        for index, task in enumerate(tasks)
    ]
    return GroupResult(group_id, results, app=sig.app)


def _chord(sig: Any, body: Any, args: Sequence[Any], kwargs: Mapping[str, Any], options: dict[str, Any]) -> Any:
    if body is None:
        raise TypeError(f"a chord needs a body, to be called with the results of its header: {sig!r}")
    header = sig.tasks if isinstance(sig.tasks, group) else group(sig.tasks, app=sig._app)
    of_header = {name: value for name, value in options.items() if name not in (*OF_THE_LAST, *LINKS)}
    header_result = apply(header, args, kwargs, of_header)
    of_body = {name: value for name, value in options.items() if name not in STARTS}
    callbacks = of_body.pop("link", None) if isinstance(body, group) else None
    for kind in LINKS:
        if kind in of_body:
            of_body[kind] = [*as_list(body.options.get(kind)), *as_list(of_body[kind])]
    with allow_join_result():
        values = header_result.get()
    result = apply(body, (values,), {}, of_body)
    if callbacks:
        _call_with_list(callbacks, result, sig.app)
    if getattr(result, "parent", None) is None:
        result.parent = header_result
    return result


def _call_with_list(callbacks: Any, result: Any, app: DBQueue) -> None:
    """What is linked to a canvas that ends in a group gets the list of its results."""
    if result.successful():
        with allow_join_result():
            values = result.get()
        for callback in as_list(callbacks):
            apply(maybe_signature(callback, app=app), (values,), {}, {})


def _own(
    sig: Signature, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, *not_arguments: str
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the first tasks of a canvas are called with."""
    own = {name: value for name, value in sig.kwargs.items() if name not in not_arguments}
    if isinstance(sig, chord):
        own |= sig.kwargs.get("kwargs") or {}
    if sig.immutable:
        return tuple(sig.args), own
    given = {name: value for name, value in (kwargs or {}).items() if not (isinstance(sig, chord) and name == "body")}
    return (*(args or ()), *sig.args), {**own, **given}


def run_links(app: DBQueue, options: Mapping[str, Any], result: EagerResult[Any], request: Any) -> None:
    """What is linked to a call that ran in place, run in place too."""
    carrier = Signature(options=dict(options), app=app)
    if result.state == SUCCESS:
        for callback in links(carrier, options, "link"):
            apply(callback, (result.result,), {}, {})
        for step in reversed(as_list(options.get("chain"))):
            result = apply(maybe_signature(step, app=app), (result.result,), {}, {})
    elif result.state in PROPAGATE_STATES:
        for errback in links(carrier, options, "link_error"):
            run_errback(errback, result, request)


def run_errback(errback: Any, failed: Any, request: Any = None) -> Any:
    """Call an errback for a call that failed in place, in the form that its function has."""
    task = errback._type or errback.app.tasks.get(errback.name)
    if task is None or not takes_failed_call(task, errback.args, errback.kwargs):
        return apply(errback, (failed.id,), {}, {})
    # Called as a function: no JSON carries an exception.
    request = Context(id=failed.id, task=failed.name, is_eager=True) if request is None else request
    value = errback(request, failed.result, failed.traceback)
    return EagerResult(new_job_id(), value, SUCCESS, name=errback.name, app=errback.app)
