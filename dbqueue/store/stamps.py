"""Finding jobs by their stamps: headers that canvases put on them."""

from __future__ import annotations

import sqlalchemy as sa

from dbqueue import stamped
from dbqueue.jobs import STARTED, WAITING
from dbqueue.store.base import Store
from dbqueue.store.reading import reading
from dbqueue.store.tables import jobs


def find(store: Store, wanted: stamped.Wanted) -> list[str]:
    """The ids of the jobs that have not ended and have, under one of these names, one of the values wanted for it.

    Reads the headers of all jobs that have not ended and have any: an operator's command, not a hot path.
    """
    query = sa.select(jobs.c.id, sa.cast(jobs.c.headers, sa.Text)).where(
        jobs.c.status.in_((*WAITING, STARTED)),
        jobs.c.headers.is_not(None),
        sa.cast(jobs.c.headers, sa.Text).like('%"stamped_headers"%'),
    )
    with reading(store) as connection:
        return [job_id for job_id, headers in connection.execute(query) if stamped.matches(headers, wanted)]
