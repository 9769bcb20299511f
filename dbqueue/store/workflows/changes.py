"""Changes of workflows that have begun, by their own jobs: one is replaced, or adds to its chord."""

from __future__ import annotations

from typing import Any, Final

from dbqueue.errors import DuplicateTaskId
from dbqueue.jobs import NOT_ENQUEUED, NewJob, Replaced
from dbqueue.store.base import Store
from dbqueue.store.inserts import refuse_other_content
from dbqueue.store.steps import Steps
from dbqueue.store.workflows.failure import LOCK_BLOCKED, NOT_JOINING
from dbqueue.store.workflows.removing import UNLINK
from dbqueue.store.workflows.words import flag, statement
from dbqueue.workflows import APPEND, BODY, REPLACED, Edge, Workflow, with_options

_REWRITTEN: Final = (
    "task", "queue", "priority", "args", "kwargs", "headers", "options", "content_type", "content",
    "eta", "delay_seconds", "expires_at", "expires_seconds", "limit_key", "blocked_reason", "waits_for", "inputs",
    "successors",
)  # fmt: skip

# A replacement begins anew, as Celery's does: no retries and no losses count.
REPLACE: Final = """
UPDATE {jobs}
SET status = 'PENDING', lease = NULL, worker = NULL, started_at = NULL, state = NULL, meta = NULL, permit = NULL,
    retries = 0, losses = 0, result = NULL, result_content = NULL, traceback = NULL,
    task = :task, queue = :queue, priority = :priority, args = {json_from}:args{json_to},
    kwargs = {json_from}:kwargs{json_to}, headers = {json_from}:headers{json_to},
    options = {json_from}:options{json_to}, content_type = :content_type, content = :content,
    limit_key = :limit_key, waits_for = :waits_for, inputs = :inputs, successors = successors OR :successors,
    blocked_reason = :blocked_reason, eta = {asked}, expires_at = {expiry},
    ready_at = CASE WHEN CAST(:blocked_reason AS text) IS NULL
        THEN {greatest}(coalesce({asked}, {clock}), {clock}) END,
    held_at = CASE WHEN CAST(:blocked_reason AS text) = 'limit'
        THEN {greatest}(coalesce({asked}, {clock}), {clock}) END,
    workflow_id = CASE WHEN :in_workflow THEN coalesce(workflow_id, id) ELSE workflow_id END
WHERE id = :id AND lease = {lease} AND status = 'STARTED'
RETURNING workflow_id"""

LOCK_RUNNING: Final = """
SELECT id FROM {jobs} WHERE id = :id AND lease = {lease} AND status = 'STARTED' {lock}"""

SUCCESSORS: Final = """
SELECT e.successor, e.place, {options} ->> 'join',
    (SELECT count(*) FROM {edges} i WHERE i.successor = s.id AND i.event = 'success')
FROM {given} {each}{edges} {out_of_b} {each}{jobs} {at_end}
WHERE e.event = 'success'"""

IS_RUNNING: Final = LOCK_RUNNING.removesuffix(" {lock}")

IS_BLOCKED: Final = "SELECT id FROM {jobs} WHERE id = :id AND blocked_reason = 'predecessors'"

LAST_PLACE: Final = """
SELECT workflow_id, (
    SELECT max({index}) FROM {edges}
    WHERE successor = s.id AND event = 'success' AND substr(place, 1, 1) = '[' AND place <> '[]'),
    finished_at IS NOT NULL
FROM {jobs} s WHERE s.id = :id"""

IS_MEMBER: Final = "SELECT id FROM {jobs} WHERE id = :id AND workflow_id = :workflow"

RAISE_COUNT: Final = "UPDATE {jobs} SET waits_for = waits_for + :more WHERE id = :id"


def replace(store: Store, outcome: Replaced) -> Steps[bool]:
    """Let the running job's row become the last job of the workflow, and write the others before it.

    The lease is given up with it: False where it was lost, and then nothing is written.
    """
    tail = next(job for job in outcome.workflow.jobs if job.id == outcome.job_id)
    tail = tail._replace(options=with_options(tail.options, **{REPLACED: outcome.lease}))
    others = [job for job in outcome.workflow.jobs if job.id != tail.id]
    values = store.inserts.row(tail, ("id", *_REWRITTEN)) | {"lease": outcome.lease, "in_workflow": bool(others)}
    rows = (yield statement(store, REPLACE, **values)).rows
    if not rows:
        return False
    # What led to it has been taken up by the run that ends here.
    yield statement(store, UNLINK, ids=[tail.id])
    if others:
        yield from _insert(store, others, outcome.workflow.edges, workflow=rows[0][0], again=False)
    return True


def _insert(store: Store, jobs: list[NewJob], edges: tuple[Edge, ...], *, workflow: str, again: bool) -> Steps[bool]:
    """Write jobs and edges of a workflow that is there; whether they are new.

    `again`: they may be there, from an earlier try. Those of another workflow have no edges to this one, which would
    wait for them for ever, or go on without them.
    """
    first = next((job for job in jobs if not job.waits_for), jobs[0])  # callbacks alone wait all
    count = yield from store.inserts.workflow(jobs, edges, first=first, workflow=workflow)
    if count < len(jobs):
        there = (yield store.inserts.duplicates(jobs)).rows
        refuse_other_content(jobs, there)
        known = again and (yield statement(store, IS_MEMBER, id=first.id, workflow=workflow)).rows
        if count or not known or any(row[1] == NOT_ENQUEUED for row in there):
            raise DuplicateTaskId("some of these jobs were revoked before they were enqueued, or exist already")
    return count > 0


def can_add_header(store: Store, job_id: str, lease: str) -> Steps[bool]:
    """Whether `add_header` could add something now; nothing is locked."""
    if not (yield statement(store, IS_RUNNING, id=job_id, lease=lease)).rows:
        return False
    body = yield from _body_of(store, job_id)
    return body is not None and bool((yield statement(store, IS_BLOCKED, id=body)).rows)


def add_header(store: Store, workflow: Workflow, job_id: str, lease: str, *, promised: bool = False) -> Steps[bool]:
    """Add jobs to the header of the chord that this running job belongs to.

    Edges to the body are written with the successor `BODY`, and the place `APPEND` (after the last
    result so far) or another. The same jobs again are added once. False, and nothing is written, where the job
    has lost its lease, or no body waits for it; but where it was `promised` (`can_add_header`), a body may have
    ended since: as it would have with these jobs among its headers, for one of the others has failed.
    """
    if not (yield statement(store, LOCK_RUNNING, id=job_id, lease=lease)).rows:
        return False
    body = yield from _body_of(store, job_id)
    if body is None:
        return False
    waits = bool((yield statement(store, LOCK_BLOCKED, ids=[body])).rows)
    if not (waits or promised):
        return False
    found = (yield statement(store, LAST_PLACE, id=body)).rows
    if not waits and not (found and found[0][2]):
        return False
    workflow_id, last = found[0][:2]
    edges: list[Edge] = []
    for edge in workflow.edges:
        if edge.successor == BODY:
            edge = edge._replace(successor=body)  # noqa: PLW2901
            if edge.place == APPEND:
                # A body that is passed nothing is not passed this either.
                last = None if last is None else last + 1
                edge = edge._replace(place=None if last is None else f"[{last}]")  # noqa: PLW2901
        edges.append(edge)
    leading = {edge.predecessor for edge in edges}
    jobs = [job._replace(successors=True) if job.id in leading else job for job in workflow.jobs]
    if (yield from _insert(store, jobs, tuple(edges), workflow=workflow_id, again=True)) and waits:
        more = sum(edge.successor == body for edge in edges)
        yield statement(store, RAISE_COUNT, id=body, more=more)
    return True


def _body_of(store: Store, job_id: str) -> Steps[str | None]:
    """The first job down from this one where several come together."""
    seen: set[str] = set()
    todo = [job_id]
    while todo:
        rows: Any = (yield statement(store, SUCCESSORS, ids=todo)).rows
        for successor, place, joins, predecessors in rows:
            if place not in NOT_JOINING or predecessors > 1 or flag(joins):
                return str(successor)
        todo = [row[0] for row in rows if row[0] not in seen]
        seen.update(todo)
    return None
