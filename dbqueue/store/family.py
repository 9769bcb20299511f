"""Which jobs a job has started."""

from __future__ import annotations

import sqlalchemy as sa

from dbqueue.codec.plain import json_object
from dbqueue.jobs import storable
from dbqueue.store.base import Store
from dbqueue.store.reading import reading
from dbqueue.store.tables import jobs
from dbqueue.workflows import JOIN


def children(store: Store, job_id: str) -> list[tuple[str, str | None]]:
    """The ids and the groups of the jobs whose parent this one is, in the order in which they were made.

    A chord's body has the group of its header and is no member of it: its group is None here.
    """
    columns = (jobs.c.id, jobs.c.group_id, sa.cast(jobs.c.options, sa.Text))
    started = jobs.c.parent_id.in_(storable([job_id]))
    query = sa.select(*columns).where(started, jobs.c.id != jobs.c.parent_id).order_by(jobs.c.id)
    with reading(store) as connection:
        found = connection.execute(query).all()
    return [(each, None if JOIN in json_object(options) else group_id) for each, group_id, options in found]
