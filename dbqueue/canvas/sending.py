"""Sending signatures: compiled, and written in one transaction."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dbqueue.calls import follows
from dbqueue.canvas import flat_groups
from dbqueue.canvas.compiler import Compiler, Feed, Result, is_nothing
from dbqueue.canvas.primitives import chain, chord, chunks, group
from dbqueue.canvas.signatures import Signature, maybe_signature
from dbqueue.result import AsyncResult, GroupResult
from dbqueue.task.options import warn_of_unknown

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.workflows import Workflow


class Plan(NamedTuple):
    """What is to be written, and what the caller gets."""

    workflow: Workflow
    result: Result


def plan(
    app: DBQueue,
    sig: Signature,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    compiler: Compiler | None = None,
) -> Plan:
    """The workflow of a call of the signature with these arguments and options."""
    sig, feed = _with_arguments(sig, args, kwargs)
    compiler = compiler or Compiler(app)
    result = compiler.compile(sig, feed, options)
    if (
        isinstance(sig, group)
        and isinstance(result, GroupResult)
        and len(result) == 1
        and isinstance(result.results[0], GroupResult)
    ):
        result = result.results[0]  # as in Celery: a group of one chain that ends in a group
    if isinstance(sig, chord):
        _lead_to_header(result)
    _mark_sent(result)
    return Plan(compiler.workflow(), result)


def send(
    sig: Signature,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    connection: Any,
) -> Any:
    """`sig.apply_async(args, kwargs, connection=connection, **options)`."""
    options = _checked(sig, options)
    if isinstance(sig, chain) and is_nothing(sig):
        return None
    app = sig.app
    if app.conf.task_always_eager:
        from dbqueue.canvas import eager

        return eager.send(sig, args, kwargs, options)
    if is_plain(sig, options):
        args, kwargs, options = sig._merge(args, kwargs, options)
        task = sig._type or app.tasks.get(sig.name)
        if task is None:
            return app.send_task(sig.name, args, kwargs, connection=connection, **options)
        return task.apply_async(args, kwargs, connection=connection, **options)
    warn_of_unknown(options)
    if not (args or kwargs) and (flat := flat_groups.of_signature(app, sig, options)):
        return flat.result(app.database.enqueue(flat.jobs, connection))
    planned = plan(app, sig, args, kwargs, options)
    app.database.enqueue_workflow(planned.workflow, connection)
    return planned.result


async def asend(
    sig: Signature,
    args: Sequence[Any] | None,
    kwargs: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    connection: Any,
) -> Any:
    """`send` for asynchronous code."""
    options = _checked(sig, options)
    if isinstance(sig, chain) and is_nothing(sig):
        return None
    app = sig.app
    if app.conf.task_always_eager:
        import asyncio

        return await asyncio.to_thread(send, sig, args, kwargs, options, None)
    if is_plain(sig, options):
        args, kwargs, options = sig._merge(args, kwargs, options)
        task = sig._type or app.tasks.get(sig.name)
        if task is None:
            return await app.asend_task(sig.name, args, kwargs, connection=connection, **options)
        return await task.aapply_async(args, kwargs, connection=connection, **options)
    warn_of_unknown(options)
    if not (args or kwargs) and (flat := flat_groups.of_signature(app, sig, options)):
        return flat.result(await app.database.aenqueue(flat.jobs, connection))
    planned = plan(app, sig, args, kwargs, options)
    await app.database.aenqueue_workflow(planned.workflow, connection)
    return planned.result


def is_plain(sig: Signature, options: Mapping[str, Any]) -> bool:
    """Whether the call is one row."""
    return sig.subtask_type is None and not (follows(sig.options) or follows(options))


def _checked(sig: Signature, options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(sig, group) and (given.get("link") is not None or given.get("link_error") is not None):
        raise TypeError("Cannot add link to group: use a chord, or do that on individual tasks")
    return given


def _with_arguments(sig: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None) -> tuple[Any, Feed]:
    kwargs = dict(kwargs or {})
    if isinstance(sig, chord) and kwargs.get("body") is not None:
        sig = sig.clone()
        sig.body = maybe_signature(kwargs.pop("body"), app=sig._app)
    if isinstance(sig, chain | group | chord | chunks):
        return sig, Feed(args=() if sig.immutable else tuple(args or ()), kwargs={} if sig.immutable else kwargs)
    return sig.clone(args, kwargs) if args or kwargs else sig, Feed()


def _lead_to_header(result: Result) -> None:
    """The parent of a chord's result is its header's, also where its body is a chain: as in Celery."""
    node: Any = result
    while node.parent is not None and not isinstance(node.parent, GroupResult):
        node = node.parent
    if node.parent is not None:
        result.parent = node.parent


def _mark_sent(result: Any) -> None:
    """A job that waits for no other is looked for as soon as it can have ended."""
    if isinstance(result, AsyncResult) and result.parent is None:
        result.sent_at = time.monotonic()
