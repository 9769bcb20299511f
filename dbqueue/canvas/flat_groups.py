"""Groups of calls of one task with nothing linked to them: the largest canvases, and the simplest.

Their rows are made by `calls.batches`, at a fifth of the cost of compiling each member by itself; and
where such a group is all that is sent, the database writes its first rows while the last are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dbqueue.bulk import Batch, collector_paused
from dbqueue.calls import follows, row_options
from dbqueue.calls.batches import new_jobs
from dbqueue.canvas.primitives import group
from dbqueue.canvas.signatures import Signature
from dbqueue.jobs import new_job_id
from dbqueue.result import AsyncResult, GroupResult

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

LINKS: Final = ("link", "link_error")
MAPS: Final = ("celery.map", "celery.starmap")
FEWEST: Final = 20
"""In smaller groups there is little to save."""


class FlatGroup(NamedTuple):
    """What is to be written, and what the caller gets."""

    app: DBQueue
    group_id: str
    jobs: Batch
    ignored: bool
    """Whether no results are kept."""

    def result(self, ids: Sequence[str], parent: Any = None) -> GroupResult:
        app, ignored = self.app, self.ignored
        with collector_paused():
            results: list[Any] = [AsyncResult(job_id, app=app, ignored=ignored) for job_id in ids]
        return GroupResult(self.group_id, results, parent=parent, app=app)


def of_signature(app: DBQueue, sig: Signature, options: Mapping[str, Any]) -> FlatGroup | None:
    """The group that a signature is, called with these options; None if it is no such group."""
    if type(sig) is not group or sig.args or len(sig.kwargs) > 1:
        return None
    tasks = sig.tasks
    return of_members(app, tasks, sig._merge(options=options)[2]) if isinstance(tasks, list | tuple) else None


def of_members(app: DBQueue, tasks: Sequence[Any], options: Mapping[str, Any]) -> FlatGroup | None:
    """The group of these members, `options` being the group's own; None where they are not alike."""
    if len(tasks) < FEWEST or any(options.get(kind) for kind in LINKS) or not _alike(tasks):
        return None
    first = tasks[0]
    group_id, for_all = member_options(options)
    merged = first._merge(options={**for_all, "group_index": 0})[2]
    if follows(merged) or merged.get("task_id") or merged["group_index"] != 0:
        return None
    task = first._type or app.tasks.get(first.name)
    with collector_paused():
        calls = [(each["args"], each["kwargs"]) for each in tasks]
    jobs = new_jobs(app.conf, first.name, task, calls, merged, in_row=_in_row(merged, app.conf.max_payload_bytes))
    ignored = merged.get("ignore_result")
    if ignored is None:
        ignored = task is not None and task.ignores_result
    return FlatGroup(app, group_id, jobs, bool(ignored))


def member_options(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The id of a group that is called with these options, and what each of its members is called with."""
    group_id = options.get("task_id") or new_job_id()
    own = {name: value for name, value in options.items() if name not in ("task_id", *LINKS)}
    return group_id, {**own, "group_id": options.get("group_id") or group_id}


def _alike(tasks: Sequence[Any]) -> bool:
    first = tasks[0]
    if type(first) is not Signature or first["task"] in MAPS:
        return False
    name, options, task = first["task"], first["options"], first._type
    return all(
        type(each) is Signature
        and each["task"] == name
        and each["options"] == options
        and each["subtask_type"] is None
        and each._type is task
        for each in tasks
    )


def _in_row(options: Mapping[str, Any], max_bytes: int) -> Callable[[int], str | None]:
    """Of what a member's row has in its `options`, only the index differs."""
    if row_options(options, max_bytes=max_bytes) == '{"group_index": 0}':
        return lambda index: f'{{"group_index": {index}}}'
    return lambda index: row_options({**options, "group_index": index}, max_bytes=max_bytes)
