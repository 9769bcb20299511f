"""A running task that changes its workflow: `self.replace(sig)` and `self.add_to_chord(sig)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbqueue.canvas.compiler import Compiler, Feed
from dbqueue.canvas.primitives import chain, chunks, group
from dbqueue.canvas.signatures import Signature
from dbqueue.errors import ImproperlyConfigured, ReplaceTask
from dbqueue.result import AsyncResult
from dbqueue.workflows import APPEND, BODY, NO_CHORD, Edge, Workflow

if TYPE_CHECKING:
    from dbqueue.context import Context
    from dbqueue.task.canvas import CanvasTask


def replacement(task: CanvasTask, sig: Any) -> Any:
    """The signature that is to stand in the place of the running task: one whose result is a single value.

    Raises ImproperlyConfigured for an empty chain, and for a member of a chord.
    """
    if "chord" in sig.options:
        raise ImproperlyConfigured("A signature replacing a task must not be part of a chord")
    if isinstance(sig, chain) and not sig.tasks:
        raise ImproperlyConfigured("Cannot replace with an empty chain")
    if _ends_in_group(sig):
        # The results of a group as one: a list.
        sig = sig | Signature("celery.accumulate", kwargs={"index": 0}, app=task.app)
    return sig


def replace(task: CanvasTask, sig: Any) -> Any:
    """What `Task.on_replace` does: run in place where the task does, else give its worker the workflow."""
    request = task.request
    if request.is_eager or request.called_directly or request.id is None:
        return sig.apply().get(disable_sync_subtasks=False)
    raise ReplaceTask(_workflow(task, sig, request))


def _workflow(task: CanvasTask, sig: Any, request: Context) -> Workflow:
    """The rows of the signature; the last of them has the running job's id, and takes its place."""
    compiler = Compiler(task.app)
    options = {"task_id": request.id, "group_id": request.group, "group_index": request.group_index}
    given = {name: value for name, value in options.items() if value is not None}
    compiler.compile(sig.clone(), Feed(), {**given, "replaced_task_nesting": request.replaced_task_nesting + 1})
    # Of what it is replaced by, all was sent by this job: but not itself.
    own = (job._replace(parent_id=request.parent_id) if job.parent_id == job.id else job for job in compiler.jobs)
    return task.app.database.signed_workflow(Workflow.of(own, compiler.edges))


def add_to_chord(task: CanvasTask, sig: Any, *, lazy: bool) -> Any:
    """Add a call to the header of the chord that the running task is in; its result.

    Raises ValueError where the task is in no chord.
    """
    request = task.request
    compiler = Compiler(task.app)
    sig = sig.clone()
    options = {"group_id": request.group}
    result = compiler.compile(sig, Feed(), {name: value for name, value in options.items() if value is not None})
    if request._outlet is None or request.id is None:
        raise ValueError(NO_CHORD)
    last = result if isinstance(result, AsyncResult) else compiler.collected(result)
    added = Workflow.of(compiler.jobs, [*compiler.edges, Edge(last.id, BODY, place=APPEND)])
    if not task.app.database.add_header(added, request.id, request._outlet[1]):
        raise ValueError(NO_CHORD)
    return result


def _ends_in_group(sig: Any) -> bool:
    if isinstance(sig, chain):
        return _ends_in_group(sig.tasks[-1])
    return isinstance(sig, group | chunks) or (sig.subtask_type == "chord" and _ends_in_group(sig.body))
