"""The indexes of the tables, and an option of SQLite's: what makes them complete for alembic's comparison.

Apart from the tables, since SQLAlchemy loads the dialects that options name: with these a worker on PostgreSQL would
load SQLite's, too, of almost a megabyte.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from dbqueue.store.tables import CLAIM_INDEX, PREFIX, edges, events, jobs, metadata

__all__ = ["OF_JOBS", "metadata"]

claim_index = sa.Index(
    CLAIM_INDEX,
    jobs.c.queue,
    jobs.c.priority.desc(),
    jobs.c.ready_at,
    jobs.c.id,
    postgresql_where=jobs.c.ready_at.is_not(None),
    sqlite_where=jobs.c.ready_at.is_not(None),
)

# Of the jobs that wait for permits, and of the permits in use. Jobs without a limit are in neither; and a
# completion changes neither column of theirs, so that it stays a heap-only update.
held_index = sa.Index(
    f"{PREFIX}jobs_held",
    jobs.c.limit_key,
    jobs.c.queue,
    jobs.c.priority,
    jobs.c.held_at,
    jobs.c.id,
    postgresql_where=jobs.c.held_at.is_not(None),
    sqlite_where=jobs.c.held_at.is_not(None),
)
permit_index = sa.Index(
    f"{PREFIX}jobs_permit",
    jobs.c.permit,
    postgresql_where=jobs.c.permit.is_not(None),
    sqlite_where=jobs.c.permit.is_not(None),
)

# Both hold what most rows have not, and what no completion changes.
workflow_index = sa.Index(
    f"{PREFIX}jobs_workflow",
    jobs.c.workflow_id,
    postgresql_where=jobs.c.workflow_id.is_not(None),
    sqlite_where=jobs.c.workflow_id.is_not(None),
)
parent_index = sa.Index(
    f"{PREFIX}jobs_parent",
    jobs.c.parent_id,
    postgresql_where=jobs.c.parent_id.is_not(None),
    sqlite_where=jobs.c.parent_id.is_not(None),
)

OF_JOBS: Final = frozenset(str(index.name) for index in jobs.indexes)
"""Their names."""

successor_index = sa.Index(f"{PREFIX}edges_successor", edges.c.successor)

# No number is given out twice, though its row was deleted: readers count on.
events.dialect_kwargs["sqlite_autoincrement"] = True
