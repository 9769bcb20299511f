"""What predecessors have left for a job, read when it is claimed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dbqueue.jobs import ClaimedJob, Input, Released
from dbqueue.store.base import Store
from dbqueue.store.steps import Steps
from dbqueue.store.workflows.words import statement

_FAILED_CALL: Final = """{object}('id', p.id, 'task', p.task, 'queue', p.queue, 'priority', p.priority,
    'args', {args}, 'kwargs', {kwargs}, 'content_type', p.content_type, 'headers', {headers},
    'retries', p.retries, 'parent_id', p.parent_id, 'root_id', p.root_id,
    'group_id', p.group_id, 'error', {result}, 'traceback', p.traceback)"""

# No more than `:limit` bytes for one job, nor for the batch: a supervisor holds them all. Of others only the size is
# told.
#
# Whoever may insert edges can have a job released before its time, by the end of a job of his own: what it takes is not
# there yet then, and would be read as None.
INPUTS: Final = f"""
SELECT successor, predecessor, place, CASE WHEN fits THEN input END, CASE WHEN fits THEN content END, total, fits, gone
FROM (
    SELECT *, total <= :limit AND so_far <= :limit AS fits
    FROM (
        SELECT *, sum(CASE WHEN total <= :limit THEN size ELSE 0 END) OVER (ORDER BY successor) AS so_far
        FROM (
            SELECT *, sum(size) OVER (PARTITION BY successor) AS total
            FROM (
                SELECT successor, predecessor, place, input, content, gone,
                    coalesce({{bytes_of_input}}, 0) + coalesce({{bytes_of_content}}, 0) AS size
                FROM (
                    SELECT e.successor, e.predecessor, e.place,
                        p.id IS NULL OR (e.event = 'success' AND p.status <> 'SUCCESS') AS gone,
                        CASE e.event WHEN 'success' THEN CAST(p.result AS text)
                            ELSE CAST({_FAILED_CALL} AS text) END AS input,
                        CASE e.event WHEN 'success' THEN p.result_content ELSE p.content END AS content
                    FROM {{given}} {{each}}{{edges}} {{into_b}} {{each_or_none}}{{jobs}} {{at_start_or_none}}
                    WHERE e.place IS NOT NULL AND (e.event = 'success'
                        OR e.predecessor = (SELECT s.parent_id FROM {{jobs}} s WHERE s.id = e.successor))
                ) AS read_from_rows) AS sized
            ) AS summed
        ) AS running
    ) AS marked
ORDER BY successor"""


def read(store: Store, claimed: Sequence[ClaimedJob], limit: int) -> Steps[tuple[list[ClaimedJob], list[Released]]]:
    """The jobs with what their predecessors left for them, and those to be handed back: the batch is too large.

    A job of which the results are too large in all has their size in its `inputs`, and one of which a predecessor is
    gone, or has no result, the id of that; its own, where no edge says what it takes: they were deleted, or are hidden.
    """
    ids = [job.id for job in claimed if job.inputs]
    rows = (yield statement(store, INPUTS, ids=ids, limit=limit)).rows
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
            kept.append(job._replace(inputs=tuple(found[job.id]) or job.id) if job.inputs else job)
        elif sizes[job.id] > limit:
            kept.append(job._replace(inputs=sizes[job.id]))
        else:
            released.append(Released(job.id, job.lease, job.ready_at))
    return kept, released
