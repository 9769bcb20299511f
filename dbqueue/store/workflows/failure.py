"""What can never run after a job that has failed or was called off ends with it, and errbacks run."""

from __future__ import annotations

import json
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from dbqueue import failpoints
from dbqueue.codec import describe_exception, shown_exception
from dbqueue.errors import ChordError
from dbqueue.jobs import FAILURE
from dbqueue.store.base import Store
from dbqueue.store.rows import LOST_ERROR
from dbqueue.store.steps import Steps
from dbqueue.store.workflows.removing import BLOCKED_BELOW, drop
from dbqueue.store.workflows.success import FREE, TO_RUN
from dbqueue.store.workflows.words import flag, statement
from dbqueue.workflows import FIRST_ARGUMENT, Edge

WITH_SUCCESSORS: Final = "SELECT id FROM {jobs} WHERE id {among} AND successors"

LOCK_TOGETHER: Final = "SELECT id FROM {jobs} WHERE id {among} ORDER BY status <> 'STARTED', id {lock}"

LOCK_BLOCKED: Final = """
SELECT id, waits_for, {options} ->> 'join', {options} ->> 'replaced' FROM {jobs}
WHERE id {among} AND blocked_reason = 'predecessors' ORDER BY id {lock}"""

EDGES_INTO: Final = "SELECT e.predecessor, e.successor, e.event, e.place FROM {given} {each}{edges} {into_b}"

END: Final = """
UPDATE {jobs}
SET status = :status, result = {json_from}:error{json_to}, traceback = :traceback,
    finished_at = {moment}, ready_at = NULL, blocked_reason = NULL, waits_for = 0
WHERE id {among}"""

# The failed job is the errback's parent: its claim reads what to tell it of from there.
FIRE: Final = f"""
UPDATE {{jobs}} SET parent_id = p.value, {TO_RUN}
FROM {{pairs}} WHERE {{jobs}}.id = p.key{{c}}"""

LOWER: Final = """
UPDATE {jobs} SET waits_for = waits_for - CAST(p.value AS integer)
FROM {pairs} WHERE {jobs}.id = p.key{c}"""


NOT_JOINING: Final = (None, FIRST_ARGUMENT)
"""Places of a result that is all that its successor takes."""


class Ended(NamedTuple):
    """A job that is over without success: what its error is, as JSON and as text."""

    id: str
    status: str
    error: str | None
    traceback: str | None = None


def lost(rescued: Iterable[Sequence[Any]]) -> list[Ended]:
    """The jobs of dead workers that end with them, and that others wait for; rows: worker, status, id, successors."""
    found = (row[2] for row in rescued if row[1] == FAILURE and row[3])
    return [Ended(job_id, FAILURE, LOST_ERROR) for job_id in found if isinstance(job_id, str)]  # bytes on SQLite


class Blocked(NamedTuple):
    """A job that waits for others, as far as it matters when these fail."""

    waits_for: int
    is_body: bool
    """Whether it is said to be a chord's body."""
    replaced: bool


class Graph:
    """What hangs below jobs that have failed, and what becomes of it."""

    def __init__(self, blocked: Mapping[str, Blocked], edges: Iterable[Edge]) -> None:
        self.blocked = blocked
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

    def follow(self, causes: Iterable[Ended], *, told: bool = True, into: Collection[str] | None = None) -> None:
        """Let these failures take their course; `told`: their errbacks hear of them.

        `into`: only these of the jobs that wait for the causes themselves; others have been seen to.
        """
        todo = deque((cause, told, into) for cause in causes)
        while todo:
            cause, real, only = todo.popleft()
            for edge in self._from[cause.id]:
                job_id = edge.successor
                if job_id not in self.blocked or (only is not None and job_id not in only):
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
                    todo.append((self.ended[job_id], told and (joins or self.blocked[job_id].replaced), None))
        for job_id in self.fired:
            self.lost.pop(job_id, None)

    def _joins(self, job_id: str) -> bool:
        edges = self._into[job_id]
        return len(edges) > 1 or edges[0].place not in NOT_JOINING or self.blocked[job_id].is_body

    def freed(self) -> list[str]:
        """Jobs whose wait for ends is over."""
        return [job_id for job_id, number in self.over.items() if self.blocked[job_id].waits_for <= number]

    def dropped(self) -> set[str]:
        """Errbacks that nothing can reach any more, with all that waits for them."""
        found = {job_id for job_id, number in self.lost.items() if self.blocked[job_id].waits_for <= number}
        todo = list(found)
        while todo:
            below = {edge.successor for edge in self._from[todo.pop()]} & self.blocked.keys()
            todo += below - found
            found |= below
        return found


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
    graph = yield from graph_below(store, [cause.id for cause in causes])
    if not graph.blocked:
        return False
    graph.follow(causes, told=told)
    yield from apply(store, graph, now)
    return bool(graph.fired or graph.freed())


def graph_below(store: Store, job_ids: Collection[str]) -> Steps[Graph]:
    """What of these jobs, and below them, waits for others, locked."""
    locked: Sequence[Sequence[Any]] = ()
    known: set[str] = set()
    # Asked again with the locks: an operator may have let more of it wait meanwhile, further down.
    while not known >= (below := (yield from _blocked_below(store, job_ids))):
        known |= below
        locked = (yield statement(store, LOCK_BLOCKED, ids=known)).rows
        if not locked:
            return Graph({}, ())
    blocked = {
        job_id: Blocked(waits_for, flag(is_body), flag(replaced)) for job_id, waits_for, is_body, replaced in locked
    }
    edges = (yield statement(store, EDGES_INTO, ids=list(blocked))).rows
    return Graph(blocked, [Edge(*edge) for edge in edges])


def _blocked_below(store: Store, job_ids: Collection[str]) -> Steps[set[str]]:
    return {row[0] for row in (yield statement(store, BLOCKED_BELOW, ids=list(job_ids))).rows}


def apply(store: Store, graph: Graph, now: Any = None) -> Steps[None]:
    """Write what has become of them."""
    alike: defaultdict[tuple[str, str | None, str | None], list[str]] = defaultdict(list)
    for job_id, status, error, traceback in graph.ended.values():
        alike[status, error, traceback].append(job_id)
    for (status, error, traceback), ids in alike.items():
        yield statement(store, END, ids=ids, status=status, error=error, traceback=traceback, now=now)
    failpoints.hit("release.between")
    if graph.fired:
        yield statement(store, FIRE, pairs=json.dumps(graph.fired), now=now)
    freed, dropped = graph.freed(), graph.dropped()
    if freed:
        yield statement(store, FREE, ids=freed, now=now)
    settled = dropped.union(freed)
    lowered = {job_id: number for job_id, number in (graph.lost + graph.over).items() if job_id not in settled}
    if lowered:
        yield statement(store, LOWER, pairs=json.dumps(lowered))
    if dropped:
        yield from drop(store, dropped)


def lock_with_below(store: Store, job_ids: Collection[str]) -> Steps[None]:
    """Lock these rows, and with them those that cannot run without them: in the order in which rounds lock rows."""
    linked = [row[0] for row in (yield statement(store, WITH_SUCCESSORS, ids=job_ids)).rows]
    below = (yield statement(store, BLOCKED_BELOW, ids=linked)).rows if linked else ()
    yield statement(store, LOCK_TOGETHER, ids={*job_ids, *(row[0] for row in below)})
