"""A periodic entry whose call is more than one job: each of its runs is a workflow of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from dbqueue.calls import follows
from dbqueue.canvas.compiler import Compiler, Feed, Result, Watchers
from dbqueue.canvas.sending import Plan, plan
from dbqueue.canvas.signatures import Signature
from dbqueue.jobs import new_job_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbqueue.app import DBQueue

CANVASES: Final = {
    "celery.chain": ("chain", "tasks"),
    "celery.group": ("group", "tasks"),
    "celery.chord": ("chord", "header"),
    "celery.chunks": ("chunks", "it"),
}
"""The task that an entry of a canvas names: the canvas, and the argument that makes it one."""
IDS: Final = ("task_id", "group_id", "root_id", "parent_id")
"""Options of a signature that was frozen, or was given an id: of one call, and a run is another."""


def call(app: DBQueue, task: str, args: Any, kwargs: Any, options: Any) -> Signature | None:
    """The signature that an entry calls; None where that is one job alone."""
    kind, needed = CANVASES.get(task, (None, ""))
    if needed not in kwargs:
        kind = None
    if kind is None and not follows(options):
        return None
    parts = {"task": task, "args": args, "kwargs": kwargs, "options": options, "subtask_type": kind}
    return Signature.from_dict(parts, app=app)


def firing(app: DBQueue, sig: Signature, headers: Mapping[str, Any], *, job_id: str | None = None) -> Plan:
    """The workflow of one run: its first job has the id `job_id`, each of its jobs these headers beside its own.

    By the first job's id a database tells that the run has been written. The signature is not to be used again.
    """
    planned = plan(app, sig, None, None, {}, compiler=FiringCompiler(app, job_id or new_job_id(), headers))
    if not planned.workflow.jobs:
        raise ValueError("there is nothing to call in an empty group")
    return planned


class FiringCompiler(Compiler):
    """Compiles a run."""

    def __init__(self, app: DBQueue, job_id: str, headers: Mapping[str, Any]) -> None:
        super().__init__(app)
        self._first_id, self._headers = job_id, headers

    def compile(self, sig: Any, feed: Feed, options: Mapping[str, Any], watchers: Watchers = ()) -> Result:
        for name in IDS:
            sig.options.pop(name, None)
        return super().compile(sig, feed, options, watchers)

    def _call(self, sig: Signature, feed: Feed, options: dict[str, Any], watchers: Watchers) -> Any:
        # The first that is written waits for none: what it would wait for is compiled before it.
        own = {} if self.jobs else {"task_id": self._first_id}
        return super()._call(sig, feed, {**options, **own}, watchers)

    def _write(self, sig: Signature, options: dict[str, Any], feed: Feed) -> None:
        super()._write(sig, {**options, "headers": {**(options.get("headers") or {}), **self._headers}}, feed)

    def _flat(self, tasks: Sequence[Any], options: Mapping[str, Any]) -> None:
        """Each member by itself, as above."""
