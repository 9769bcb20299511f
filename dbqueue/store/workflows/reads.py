"""Workflows as they stand: all jobs and edges of one, for people and for drawings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import sqlalchemy as sa

from dbqueue.codec import shown_exception
from dbqueue.jobs import FAILURE, REVOKED, storable
from dbqueue.store.base import Store
from dbqueue.store.reading import reading
from dbqueue.store.tables import edges, jobs
from dbqueue.workflows import Edge

_ENDED_BADLY: Final = frozenset({FAILURE, REVOKED})


@dataclass(frozen=True, slots=True)
class Member:
    """One job of a workflow."""

    id: str
    task: str
    queue: str
    status: str
    blocked_reason: str | None
    waits_for: int
    parent_id: str | None
    error: str | None
    """How it ended, if badly: `ValueError('bad')`."""


@dataclass(frozen=True, slots=True)
class Graph:
    """The jobs in the order in which they were enqueued, and the edges between them."""

    jobs: tuple[Member, ...]
    edges: tuple[Edge, ...]


def workflow_of(store: Store, job_id: str) -> Graph | None:
    """The workflow that the job belongs to; the job alone where it belongs to none, None where there is no such job."""
    itself = jobs.c.id.in_(storable([job_id]))
    whose = sa.select(jobs.c.workflow_id).where(itself).scalar_subquery()
    member = sa.or_(itself, jobs.c.workflow_id == whose)
    columns = (
        *(jobs.c[name] for name in ("id", "task", "queue", "status", "blocked_reason", "waits_for", "parent_id")),
        sa.cast(jobs.c.result, sa.Text),
    )
    lines = sa.select(edges.c.predecessor, edges.c.successor, edges.c.event, edges.c.place)
    members = sa.select(jobs.c.id).where(member)
    lines = lines.where(edges.c.predecessor.in_(members), edges.c.successor.in_(members))
    with reading(store) as connection:
        rows = connection.execute(sa.select(*columns).where(member).order_by(jobs.c.created_at, jobs.c.id)).all()
        found = connection.execute(lines.order_by(edges.c.successor, edges.c.predecessor)).all()
    if not rows:
        return None
    return Graph(tuple(_member(*row) for row in rows), tuple(Edge(*line) for line in found))


def _member(*columns: Any) -> Member:
    member = Member(*columns)
    return replace(member, error=shown_exception(member.error) if member.status in _ENDED_BADLY else None)
