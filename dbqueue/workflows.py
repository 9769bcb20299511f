"""Workflows as values: jobs, and edges that say which waits for which.

chain, group and chord compile to these (`canvas`), and the store writes them in one transaction
(`store.workflows`). A job with a predecessor is a row that is blocked until its `waits_for` comes
to zero; the results of its predecessors are read when it is claimed, not copied into it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, TypeAlias

from dbqueue import codec
from dbqueue.jobs import BLOCKED_BY_PREDECESSORS, NewJob

Event: TypeAlias = Literal["success", "error", "end"]

FIRST_ARGUMENT: Final = "[]"
"""The place of a result that is the successor's first positional argument, as in a chain."""

ERRBACK: Final = "errback"
"""The place on an edge of the kind error: the successor is told of the failure in one of Celery's two forms,
`errback(request, exc, traceback)` or `errback(task_id)`. Without a place (null) it is told nothing."""

NO_CHORD: Final = "Current task is not member of any chord"
"""Celery's words for an `add_to_chord` that cannot be."""

BODY: Final = ""
"""In `add_header`: the successor of an edge that leads to the chord's body, whatever its id."""

APPEND: Final = "[+]"
"""In `add_header`: the place after the last of the chord's results."""

JOIN: Final = "join"
"""In a job's `options`: it is a chord's body, even where its places do not tell (one header, nothing passed)."""


class Edge(NamedTuple):
    """`successor` waits for `predecessor`: for its success, its failure (an errback), or its end, well or not.

    A job with several edges of the kind success waits for all of them (a chord's body), and so does one with
    edges of the kind end, which no failure keeps from running; one with several edges of the kind error runs at
    the first, once, and is deleted when none can come. All edges that lead to a job are of one kind.
    """

    predecessor: str
    successor: str
    on: Event = "success"
    place: str | None = None
    """Where the predecessor's result goes among the successor's arguments, as JSON: null, not at
    all; `[]`, it is the first positional argument; `[2]`, it is the third item of a list that is
    the first positional argument; `[2, 0]`, an item of a list in that list; `"name"`, it is that
    keyword argument. On an edge of the kind error: null or `ERRBACK`; of the kind end: null."""


Source: TypeAlias = tuple[str | None, str]
"""Whose result a job takes, and its place. None with `ERRBACK`: it is told of one failure, the first of several."""

REPLACED: Final = "replaced"
"""In a job's `options`: it has stood for a workflow once, and its errbacks hear of that workflow's failure.

Its value is the lease of the run that has put the workflow there: nothing else on the row tells of that run."""

DELAY: Final = "delay_seconds"
EXPIRY: Final = "expires_seconds"
"""In the `options` of a job that waits for others: its countdown and its expiry count from the end of that wait."""


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph of jobs to be written whole, or not at all.

    The jobs' fields `waits_for`, `inputs`, `successors` and `blocked_reason` agree with the edges:
    `of` sets them. A job that waits has its countdown and its expiry in `options`.
    """

    jobs: tuple[NewJob, ...]
    edges: tuple[Edge, ...] = field(default=())

    @classmethod
    def of(cls, jobs: Iterable[NewJob], edges: Iterable[Edge]) -> Workflow:
        """The workflow of these jobs, each with the fields that follow from the edges.

        Raises ValueError for a job whose edges are of more than one kind.
        """
        edges = tuple(edges)
        waits = Counter(edge.successor for edge in edges)
        kinds = Counter(successor for successor, _ in {(edge.successor, edge.on) for edge in edges})
        if mixed := [job_id for job_id, number in kinds.items() if number > 1]:
            raise ValueError(f"a job can wait for one kind of event alone: {', '.join(sorted(mixed))}")
        taking = {edge.successor for edge in edges if edge.place is not None}
        leading = {edge.predecessor for edge in edges}
        return cls(
            tuple(
                _linked(job, waits[job.id], inputs=job.id in taking, successors=job.id in leading)
                if job.id in waits or job.id in leading
                else job
                for job in jobs
            ),
            edges,
        )

    def sources(self) -> dict[str, list[Source]]:
        """Of each job that takes results: whose, and where they go."""
        found: defaultdict[str, list[Source]] = defaultdict(list)
        for edge in self.edges:
            if edge.place == ERRBACK:
                found[edge.successor] = [(None, ERRBACK)]
            elif edge.place is not None:
                found[edge.successor].append((edge.predecessor, edge.place))
        return found

    @property
    def first(self) -> NewJob:
        """The first job that waits for nothing: its row tells that the workflow has been written."""
        return next(job for job in self.jobs if not job.waits_for)


def _linked(job: NewJob, waits_for: int, *, inputs: bool, successors: bool) -> NewJob:
    if not waits_for:
        return job._replace(successors=successors)
    later = {DELAY: job.delay_seconds, EXPIRY: job.expires_seconds}
    later = {name: seconds for name, seconds in later.items() if seconds is not None}
    return job._replace(
        waits_for=waits_for,
        inputs=inputs,
        successors=successors,
        blocked_reason=BLOCKED_BY_PREDECESSORS,
        delay_seconds=None,
        expires_seconds=None,
        options=with_options(job.options, **later) if later else job.options,
    )


def with_options(options: str | None, **more: object) -> str:
    """The JSON of a job's options with these among them."""
    return json.dumps((codec.loads(options, typed=False) if options else {}) | more, ensure_ascii=False)
