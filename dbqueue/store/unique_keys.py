"""Unique keys: at most one job stands for a key. How jobs get theirs when they are enqueued, or run again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dbqueue.codec.plain import json_object
from dbqueue.jobs import MAX_NAME_LENGTH, UNIQUE_OPTION, NewJob, storable
from dbqueue.store.steps import Steps
from dbqueue.workflows import with_options

if TYPE_CHECKING:
    from dbqueue.store.inserts import Inserts

MAX_SECONDS = 1e10
"""The longest time that a call may ask for."""


def take_unique_keys(inserts: Inserts, jobs: Sequence[NewJob], *, again: bool = False) -> Steps[dict[str, str]]:
    """Take the unique keys of these jobs; for each job whose key is another's, the id of that one.

    `again`: the jobs have ended and are to run again. One that still has its key begins a new window of it.

    Two statements, because of what the first may wait for: a rival's transaction that has the key and
    is not committed yet. The snapshot of a statement is older than its wait, so the rival's job could
    not be seen by it, and the key would look like one that nobody uses.
    """
    first: dict[str, NewJob] = {}
    double: dict[str, NewJob] = {}
    for job in jobs:
        if job.unique_key is not None and first.setdefault(job.unique_key, job).id != job.id:
            double[job.id] = first[job.unique_key]
    # In the order of keys, in which all batches lock them.
    wanted = [first[key] for key in sorted(first)]
    holders: dict[str | None, str] = {row[0]: row[1] for row in (yield inserts.hold_keys(wanted)).rows}
    others = [job for job in wanted if holders[job.unique_key] != job.id]
    contested = wanted if again else others
    taken: dict[str, str] = {}
    if contested:
        found = yield inserts.take_keys(contested, [holders[job.unique_key] for job in contested])
        won = {row[0] for row in found.rows}
        taken = {job.id: holders[job.unique_key] for job in others if job.unique_key not in won}
    return taken | {job_id: taken.get(other.id, other.id) for job_id, other in double.items()}


def with_its_key(job: NewJob) -> NewJob:
    """The job as its row is to be: its key may have another job by the time when an operator retries this one."""
    if job.unique_key is None:
        return job
    return job._replace(options=with_options(job.options, **{UNIQUE_OPTION: [job.unique_key, job.unique_seconds]}))


def key_in(options: str | None) -> tuple[str, float | None] | None:
    """The unique key that a row remembers, and for how long a success stands; None where it has none that can be."""
    if options is None or f'"{UNIQUE_OPTION}"' not in options:
        return None
    match json_object(options).get(UNIQUE_OPTION):
        case [str(key), None] if _can_be_key(key):
            return key, None
        case [str(key), int() | float() as seconds] if _can_be_key(key) and 0 < seconds <= MAX_SECONDS:
            return None if isinstance(seconds, bool) else (key, float(seconds))
    return None


def _can_be_key(text: str) -> bool:
    return 0 < len(text) <= MAX_NAME_LENGTH and bool(storable([text]))
