"""Workflows are written whole, or not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Final
from uuid import uuid4

from dbqueue.codec import describe_exception
from dbqueue.errors import DuplicateTaskId, TaskRevokedError
from dbqueue.jobs import NOT_ENQUEUED, REVOKED, NewJob
from dbqueue.store.base import Store
from dbqueue.store.inserts import refuse_other_content
from dbqueue.store.steps import Steps
from dbqueue.store.workflows.failure import Ended, propagate
from dbqueue.store.workflows.words import statement
from dbqueue.workflows import Workflow

DELETE_OF_WORKFLOW: Final = "DELETE FROM {jobs} WHERE id {among} AND workflow_id = :workflow"

# After the edges were written: who forgets or deletes the row has to see to those that begin at it.
ADOPT: Final = """
UPDATE {jobs}
SET workflow_id = :workflow,
    successors = (SELECT 1 FROM {edges} e WHERE e.predecessor = {jobs}.id LIMIT 1) IS NOT NULL
WHERE id {among} AND workflow_id IS NULL"""


def write(store: Store, workflow: Workflow, *, check: bool = True) -> Steps[None]:
    """Write the workflow; the same one again is no error and changes nothing.

    With `check` off, one whose first job's id exists is taken for the same one, whatever it is.

    Raises DuplicateTaskId where one of its ids is another job's, or a part of its jobs is there already, as
    that of another workflow: nothing that this call has written is left then, for the transaction may be that of a
    caller, who goes on and commits. What an earlier enqueue of the same workflow wrote stays.
    """
    name = uuid4().hex  # of this enqueue alone
    jobs, first = workflow.jobs, workflow.first
    while True:
        count = yield from store.inserts.workflow(jobs, workflow.edges, first=first, workflow=name)
        if count == len(jobs) or not (count or check):
            return
        found = (yield store.inserts.duplicates(jobs)).rows
        revoked = [row[0] for row in found if row[1] == NOT_ENQUEUED]
        # The row of one that was revoked before anybody enqueued it does not tell that the workflow was written.
        another = _next_first(workflow, revoked) if not count and first.id in revoked else None
        if another is None:
            break
        first = another
    try:
        refuse_other_content(jobs, found)
        _refuse_part(workflow, count, found)
    except DuplicateTaskId:
        if count:
            yield statement(store, DELETE_OF_WORKFLOW, ids=[job.id for job in jobs], workflow=name)
        raise
    if count:
        yield store.inserts.link(workflow.edges)
        # Some of its ids were revoked before anybody enqueued them: what waits for these can never run. They are of the
        # workflow now, and are deleted with it: without their rows, nobody would ever delete their edges.
        yield statement(store, ADOPT, ids=revoked, workflow=name)
        error, _ = describe_exception(TaskRevokedError("revoked"), max_bytes=4096)
        yield from propagate(store, [Ended(job_id, REVOKED, error) for job_id in revoked])


def _next_first(workflow: Workflow, revoked: Collection[str]) -> NewJob | None:
    """A job that is never dropped, as errbacks are: it waits for none, or for such alone as will never run."""
    waiting = {edge.successor for edge in workflow.edges if edge.predecessor not in revoked}
    return next((job for job in workflow.jobs if job.id not in waiting and job.id not in revoked), None)


def _refuse_part(workflow: Workflow, count: int, found: Sequence[Sequence[Any]]) -> None:
    """Raise DuplicateTaskId where some jobs are there, and others are not: these would wait for what has been."""
    if count:
        known = len(workflow.jobs) - count > sum(row[1] == NOT_ENQUEUED for row in found)
    else:
        # Errbacks that cannot run any more were deleted, with all that waits for them.
        below: defaultdict[str, list[str]] = defaultdict(list)
        for edge in workflow.edges:
            below[edge.predecessor].append(edge.successor)
        todo = [edge.successor for edge in workflow.edges if edge.on == "error"]
        there = {row[0] for row in found}
        while todo:
            if (job_id := todo.pop()) not in there:
                there.add(job_id)
                todo += below[job_id]
        known = any(job.id not in there for job in workflow.jobs)
    if known:
        raise DuplicateTaskId(
            "some jobs of this workflow were enqueued before, with another workflow: the ids that `freeze` gives are"
            " for one call, so freeze a signature anew, or leave task_id out"
        )
