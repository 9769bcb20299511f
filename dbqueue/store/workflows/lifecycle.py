"""Workflows in the database: written whole, released step by step, ended where they cannot go on.

Each operation is `Steps` (see `store.steps`), for it runs in whatever transaction ends a job: a
worker's round, a rescue, an operator's revoke. The success of a job is not here, since it goes with the
round's own statements: `workflows.sql.COMPLETE_POSTGRES`, and `release` on SQLite.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from uuid import uuid4

from dbqueue import failpoints
from dbqueue.codec import describe_exception, shown_exception
from dbqueue.errors import ChordError, DuplicateTaskId, TaskRevokedError
from dbqueue.jobs import FAILURE, NOT_ENQUEUED, REVOKED, ClaimedJob, Input, NewJob, Released
from dbqueue.store.base import Store
from dbqueue.store.inserts import refuse_other_content
from dbqueue.store.rows import LOST_ERROR
from dbqueue.store.statements import Statement
from dbqueue.store.steps import Steps
from dbqueue.store.workflows import sql
from dbqueue.workflows import FIRST_ARGUMENT, Edge, Workflow

NOT_JOINING: Final = (None, FIRST_ARGUMENT)
"""Places of a result that is all that its successor takes."""


def statement(store: Store, template: str, **parameters: Any) -> Statement:
    """A statement of `workflows.sql`; collections of ids become what the database takes for a list."""
    values = {name: store.listed(value) if name == "ids" else value for name, value in parameters.items()}
    return Statement(store.text(template), values)


# -- writing


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
            yield statement(store, sql.DELETE_OF_WORKFLOW, ids=[job.id for job in jobs], workflow=name)
        raise
    if count:
        yield store.inserts.link(workflow.edges)
        # Some of its ids were revoked before anybody enqueued them: what waits for these can never run. They are of the
        # workflow now, and are deleted with it: without their rows, nobody would ever delete their edges.
        yield statement(store, sql.ADOPT, ids=revoked, workflow=name)
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


# -- reading, at the claim


def inputs(store: Store, claimed: Sequence[ClaimedJob], limit: int) -> Steps[tuple[list[ClaimedJob], list[Released]]]:
    """The jobs with what their predecessors left for them, and those to be handed back: the batch is too large.

    A job of which the results are too large in all has their size in its `inputs`, and one of which a predecessor is
    gone the id of that.
    """
    ids = [job.id for job in claimed if job.inputs]
    rows = (yield statement(store, sql.INPUTS, ids=ids, limit=limit)).rows
    found: dict[str, list[Input]] = {job_id: [] for job_id in ids}
    sizes: dict[str, int] = {}
    gone: dict[str, str] = {}
    for job_id, predecessor, place, text, content, total, fits, is_gone in rows:
        if is_gone:
            gone[job_id] = predecessor
        if fits:
            found[job_id].append((predecessor, place, text, None if content is None else bytes(content)))
        else:
            sizes[job_id] = int(total)
    kept: list[ClaimedJob] = []
    released: list[Released] = []
    for job in claimed:
        if job.id in gone:
            kept.append(job._replace(inputs=gone[job.id]))
        elif job.id not in sizes:
            kept.append(job._replace(inputs=tuple(found[job.id])) if job.inputs else job)
        elif sizes[job.id] > limit:
            kept.append(job._replace(inputs=sizes[job.id]))
        else:
            released.append(Released(job.id, job.lease, job.ready_at))
    return kept, released


# -- jobs that can never run


class Ended(NamedTuple):
    """A job that is over without success: what its error is, as JSON and as text."""

    id: str
    status: str
    error: str | None
    traceback: str | None = None


def lost(rescued: Iterable[Sequence[Any]]) -> list[Ended]:
    """The jobs of dead workers that end with them, and that others wait for; rows: worker, status, id, successors."""
    return [Ended(row[2], FAILURE, LOST_ERROR) for row in rescued if row[1] == FAILURE and row[3]]


class Blocked(NamedTuple):
    """A job that waits for others, as far as it matters when these fail."""

    waits_for: int
    is_body: bool
    """Whether it is said to be a chord's body."""
    replaced: bool


class _Graph:
    """What hangs below jobs that have failed, and what becomes of it."""

    def __init__(self, blocked: Mapping[str, Blocked], edges: Iterable[Edge]) -> None:
        self._blocked = blocked
        self._into: defaultdict[str, list[Edge]] = defaultdict(list)
        self._from: defaultdict[str, list[Edge]] = defaultdict(list)
        for edge in edges:
            self._into[edge.successor].append(edge)
            self._from[edge.predecessor].append(edge)
        self.ended: dict[str, Ended] = {}
        """Jobs that end as well."""
        self.fired: dict[str, str] = {}
        """Errbacks, and the job whose failure each is told of."""
        self.lost: Counter[str] = Counter()
        """Errbacks, and how many of the failures that they wait for cannot come any more."""
        self.over: Counter[str] = Counter()
        """Jobs that wait for ends, and how many of these have come."""

    def follow(self, causes: Iterable[Ended], *, told: bool = True) -> None:
        """Let these failures take their course; `told`: their errbacks hear of them."""
        todo = deque((cause, told) for cause in causes)
        while todo:
            cause, real = todo.popleft()
            for edge in self._from[cause.id]:
                job_id = edge.successor
                if job_id not in self._blocked:
                    continue
                if edge.on == "end":
                    self.over[job_id] += 1
                elif edge.on == "error":
                    if real:
                        self.fired.setdefault(job_id, cause.id)
                    else:
                        self.lost[job_id] += 1
                elif job_id not in self.ended:
                    joins = self._joins(job_id)
                    self.ended[job_id] = _chord_error(job_id, cause) if joins else cause._replace(id=job_id)
                    # Errbacks hear of the failure itself, of a chord's, and of that of a workflow which stands for
                    # their job; not of each job that a failure kept from running.
                    todo.append((self.ended[job_id], told and (joins or self._blocked[job_id].replaced)))
        for job_id in self.fired:
            self.lost.pop(job_id, None)

    def _joins(self, job_id: str) -> bool:
        edges = self._into[job_id]
        return len(edges) > 1 or edges[0].place not in NOT_JOINING or self._blocked[job_id].is_body

    def freed(self) -> list[str]:
        """Jobs whose wait for ends is over."""
        return [job_id for job_id, number in self.over.items() if self._blocked[job_id].waits_for <= number]

    def dropped(self) -> set[str]:
        """Errbacks that nothing can reach any more, with all that waits for them."""
        found = {job_id for job_id, number in self.lost.items() if self._blocked[job_id].waits_for <= number}
        todo = list(found)
        while todo:
            below = {edge.successor for edge in self._from[todo.pop()]} & self._blocked.keys()
            todo += below - found
            found |= below
        return found


def flag(option: Any) -> bool:
    """A boolean that `->>` read from JSON: a text on PostgreSQL, a number on SQLite."""
    return bool(option) and option != "false"


def _chord_error(job_id: str, cause: Ended) -> Ended:
    text = f"Dependency {cause.id} raised {shown_exception(cause.error)}"
    # The traceback is that of the header's error, as in Celery.
    return Ended(job_id, FAILURE, describe_exception(ChordError(text), max_bytes=4096)[0], cause.traceback)


def propagate(store: Store, causes: Collection[Ended], now: Any = None, *, told: bool = True) -> Steps[bool]:
    """End what can never run after these jobs, which have ended just now, and let their errbacks run.

    True if any job may run now. Reads before it locks: edges do not change, and which of these rows
    are blocked still is asked again with the locks held. Without `told` errbacks do not run.
    """
    if not causes:
        return False
    locked: Sequence[Sequence[Any]] = ()
    known: set[str] = set()
    # Asked again with the locks: an operator may have let more of it wait meanwhile, further down.
    while not known >= (below := (yield from _blocked_below(store, causes))):
        known |= below
        locked = (yield statement(store, sql.LOCK_BLOCKED, ids=known)).rows
        if not locked:
            return False
    blocked = {
        job_id: Blocked(waits_for, flag(is_body), flag(replaced)) for job_id, waits_for, is_body, replaced in locked
    }
    edges = (yield statement(store, sql.EDGES_INTO, ids=list(blocked))).rows
    graph = _Graph(blocked, [Edge(*edge) for edge in edges])
    graph.follow(causes, told=told)
    yield from _apply(store, graph, now)
    return bool(graph.fired or graph.freed())


def _blocked_below(store: Store, causes: Collection[Ended]) -> Steps[set[str]]:
    return {row[0] for row in (yield statement(store, sql.BLOCKED_BELOW, ids=[cause.id for cause in causes])).rows}


def _apply(store: Store, graph: _Graph, now: Any) -> Steps[None]:
    alike: defaultdict[tuple[str, str | None, str | None], list[str]] = defaultdict(list)
    for job_id, status, error, traceback in graph.ended.values():
        alike[status, error, traceback].append(job_id)
    for (status, error, traceback), ids in alike.items():
        yield statement(store, sql.END, ids=ids, status=status, error=error, traceback=traceback, now=now)
    failpoints.hit("release.between")
    if graph.fired:
        yield statement(store, sql.FIRE, pairs=json.dumps(graph.fired), now=now)
    freed, dropped = graph.freed(), graph.dropped()
    if freed:
        yield statement(store, sql.FREE, ids=freed, now=now)
    settled = dropped.union(freed)
    lowered = {job_id: number for job_id, number in (graph.lost + graph.over).items() if job_id not in settled}
    if lowered:
        yield statement(store, sql.LOWER, pairs=json.dumps(lowered))
    if dropped:
        yield from drop(store, dropped)


def drop(store: Store, job_ids: Collection[str]) -> Steps[None]:
    """Delete these rows and the edges that lead to them; what waits for them is among them."""
    yield statement(store, sql.UNLINK, ids=list(job_ids))
    yield statement(store, sql.DELETE, ids=list(job_ids))


def unlink(store: Store, job_ids: Collection[str]) -> Steps[None]:
    """Delete the edges of rows that are gone, but for those by which jobs that have ended took something of them.

    Such an edge tells that its successor cannot run again (`sql.NEVER`), and goes with the successor.
    """
    if job_ids:
        yield statement(store, sql.UNLINK, ids=job_ids)
        yield statement(store, sql.UNLINK_FROM, ids=job_ids)


def release_sqlite(store: Store, job_ids: Sequence[str], now: Any) -> Steps[bool]:
    """Move what waits for these jobs, which have succeeded just now; whether any of it may run."""
    rows = (yield statement(store, sql.LOWER_SQLITE, ids=job_ids)).rows
    failpoints.hit("release.between")
    at_zero = [(job_id, errback) for job_id, waits_for, errback in rows if waits_for <= 0]
    free = [job_id for job_id, errback in at_zero if not errback]
    if free:
        yield statement(store, sql.FREE, ids=free, now=now)
    dropped = [job_id for job_id, errback in at_zero if errback]
    if dropped:
        below = (yield statement(store, sql.BLOCKED_BELOW, ids=dropped)).rows
        yield from drop(store, [row[0] for row in below])
    return bool(free)


# -- locks, for what ends many jobs at once


def lock_with_below(store: Store, job_ids: Collection[str]) -> Steps[None]:
    """Lock these rows, and with them those that cannot run without them: in the order in which rounds lock rows."""
    linked = [row[0] for row in (yield statement(store, sql.WITH_SUCCESSORS, ids=job_ids)).rows]
    below = (yield statement(store, sql.BLOCKED_BELOW, ids=linked)).rows if linked else ()
    yield statement(store, sql.LOCK_TOGETHER, ids={*job_ids, *(row[0] for row in below)})


# -- an operator's changes


def to_repeat(store: Store, job_ids: Collection[str]) -> Steps[set[str]]:
    """These jobs, the failed ones that they wait for, and those that ended because they could not run without them.

    But for those that can not, or must not, run again (`sql.NEVER`), and for what waits for another that has failed,
    such as a chord's body.

    They are locked with what they wait for, and what waits for them: whatever ends, begins or is deleted meanwhile is
    seen here, or sees what becomes of them.
    """
    locked: set[str] = set()
    found = yield from _to_repeat(store, job_ids)
    while not found <= locked:
        locked |= found
        yield from _lock_with_neighbours(store, locked)
        found = yield from _to_repeat(store, job_ids)
    return found


def _lock_with_neighbours(store: Store, job_ids: Collection[str]) -> Steps[None]:
    below = {row[0] for row in (yield statement(store, sql.ALL_SUCCESSORS, ids=job_ids)).rows}
    edges = (yield statement(store, sql.EDGES_INTO, ids=below.union(job_ids))).rows
    yield statement(store, sql.LOCK_TOGETHER, ids=below.union(job_ids, (row[0] for row in edges)))


def _to_repeat(store: Store, job_ids: Collection[str]) -> Steps[set[str]]:
    found = {*job_ids, *(row[0] for row in (yield statement(store, sql.TO_REPEAT, ids=job_ids)).rows)}
    # What ended because of these may wait for others too, such as a chord's body for its other headers.
    above = {row[0] for row in (yield statement(store, sql.TO_REPEAT, ids=found)).rows}
    never = {row[0] for row in (yield statement(store, sql.NEVER, ids=found | above)).rows}
    if never:
        wanted = set(job_ids) - never
        found = {*wanted, *(row[0] for row in (yield statement(store, sql.TO_REPEAT, ids=wanted)).rows)} - never
    failed = (yield statement(store, sql.FAILED_BEFORE, ids=found)).rows
    while still_blocked := {successor for predecessor, successor in failed if predecessor not in found} & found:
        found -= still_blocked  # they would wait for ever; they are taken along when the other is repeated
    return found


def not_succeeded(store: Store, workflow_id: str) -> Steps[set[str]]:
    """The jobs of the workflow that ended without success, but for errbacks."""
    return {row[0] for row in (yield statement(store, sql.NOT_SUCCEEDED, workflow=workflow_id)).rows}


def recount(store: Store, job_ids: Collection[str]) -> Steps[None]:
    """Let jobs that were put back, and what waits for them, wait for as many as have not succeeded."""
    if job_ids:
        rows = (yield statement(store, sql.WAITING_SUCCESSORS, ids=job_ids)).rows
        yield statement(store, sql.RECOUNT, ids={*job_ids, *(row[0] for row in rows)})


def cancel(store: Store, workflow_id: str) -> Steps[tuple[dict[str, str], frozenset[str]]]:
    """Revoke all jobs of the workflow that have not ended: the tasks of those that waited, and those that run."""
    yield statement(store, sql.LOCK_WORKFLOWS, ids=[workflow_id])  # an operator may be letting more of it run again
    ids = [row[0] for row in (yield statement(store, sql.UNFINISHED, workflow=workflow_id)).rows]
    error, _ = describe_exception(TaskRevokedError("revoked"), max_bytes=4096)
    ended = (yield statement(store, sql.REVOKE_WAITING, ids=ids, error=error)).rows
    running = (yield statement(store, sql.REVOKE_RUNNING, ids=ids)).rows
    return {row[0]: row[1] for row in ended}, frozenset(row[0] for row in running)


# -- rows that have served


def forget(store: Store, job_ids: Collection[str]) -> Steps[set[str]]:
    """Delete finished jobs whose results no other job has still to read; which."""
    yield statement(store, sql.LOCK_READ, ids=job_ids)  # an operator may be about to let their readers run again
    rows = (yield statement(store, sql.FORGET, ids=job_ids)).rows
    yield from unlink(store, [job_id for job_id, is_member in rows if is_member])
    return {row[0] for row in rows}


def prune(
    store: Store,
    ripe: deque[tuple[str, int]],
    *,
    older_than_seconds: float | None,
    surplus_at: Any,
    limit: int,
    now: Any,
) -> Steps[int]:
    """Delete whole workflows that ended longer ago than this or by `surplus_at`, until `limit` rows are gone.

    Returns how many are.

    `ripe` is what an earlier call has found and not deleted yet.
    """
    age = {"seconds": older_than_seconds, "surplus_at": surplus_at, "now": now}
    if not ripe:
        ripe.extend((row[0], row[1]) for row in (yield statement(store, sql.RIPE_WORKFLOWS, **age)).rows)
    chosen: list[str] = []
    while ripe and limit > 0:
        workflow_id, size = ripe.popleft()
        chosen.append(workflow_id)
        limit -= size
    if not chosen:
        return 0
    yield statement(store, sql.LOCK_WORKFLOWS, ids=chosen)
    still = [row[0] for row in (yield statement(store, sql.STILL_RIPE, ids=chosen, **age)).rows]
    gone = [row[0] for row in (yield statement(store, sql.DELETE_WORKFLOWS, ids=still)).rows]
    yield from unlink(store, gone)
    return len(gone)
