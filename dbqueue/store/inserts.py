"""How a job becomes a row: what an enqueue says, and in which order, on every database and every connection.

An enqueue is a row of statements (`steps`), so that it runs the same on the pool's own connection and on any
connection of the caller's. Their SQL is in `postgres/inserts.py` and `sqlite/inserts.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from dbqueue.errors import DuplicateTaskId, OperationalError
from dbqueue.jobs import NOT_ENQUEUED, RETRIES_OPTION, NewJob
from dbqueue.store.statements import Statement
from dbqueue.store.steps import Steps
from dbqueue.store.unique_keys import take_unique_keys, with_its_key
from dbqueue.workflows import REPLACED, Edge

PLAIN = ("id", "task", "queue", "priority", "parent_id", "root_id", "group_id", "content_type", "content")
JSON = ("args", "kwargs", "headers", "options")
TIMES = ("eta", "delay_seconds", "expires_at", "expires_seconds")
FIELDS = PLAIN + JSON + TIMES
BLOCKS = ("blocked_reason", "waits_for", "inputs", "successors", "limit_key")
ALL_FIELDS = FIELDS + BLOCKS
"""Most jobs are plain (`NewJob.is_plain`), and their statements carry `FIELDS` alone: a parameter costs time."""
COLUMNS = ", ".join((*PLAIN, *JSON, "eta", "expires_at", "ready_at"))
ALL_COLUMNS = ", ".join((COLUMNS, *BLOCKS, "held_at"))
JOB_COLUMNS = tuple(ALL_COLUMNS.split(", "))
"""All columns that an enqueue of a job writes."""
EDGE_COLUMNS: Final = ("predecessor", "successor", "event", "place")

# An operator's `jobs retry` sets the number of retries to zero, and leaves the arguments of the last one.
CHANGES: Final = f"""retries > 0 OR options ->> '{RETRIES_OPTION}' IS NOT NULL, options ->> '{REPLACED}' IS NOT NULL"""


def in_workflow(select: str) -> str:
    """An INSERT of jobs that writes their workflow too."""
    columns, rest = select.split(")\nSELECT", 1)
    values, source = rest.split("\nFROM {source}", 1)
    return f"{columns}, workflow_id)\nSELECT{values},\n       :workflow_id\nFROM {{source}}{source}"


class Inserts(ABC):
    """The enqueue statements of one dialect, for one schema's tables."""

    def __init__(self, names: Mapping[str, str], *, one: str, many: str, all_fields: str, same: str) -> None:
        """`one` and `many` write plain jobs, `all_fields` any number of any kind; `names` are those of the tables."""
        self._names = names
        self.one, self.many, self.all_fields, self.same = map(self.text, (one, many, all_fields, same))

    def text(self, template: str) -> str:
        return template.format(**self._names)

    def statements(self, jobs: Sequence[NewJob]) -> list[Statement]:
        """One INSERT for all of these jobs; ids that exist already are left as they are."""
        if not jobs:
            return []
        if not all(job.is_plain for job in jobs):
            return [Statement(self.all_fields, self.rows(jobs, ALL_FIELDS))]
        if len(jobs) == 1:
            return [Statement(self.one, self.row(jobs[0]))]
        return [Statement(self.many, self.rows(jobs))]

    @abstractmethod
    def row(self, job: NewJob, fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        """The parameters that stand for one job."""

    @abstractmethod
    def rows(self, jobs: Sequence[NewJob], fields: Sequence[str] = FIELDS) -> dict[str, Any]:
        """The parameters that stand for any number of jobs."""

    @abstractmethod
    def duplicates(self, jobs: Sequence[NewJob]) -> Statement:
        """Reads what `refuse_other_content` compares, of the rows that stood in the way of an INSERT."""

    @abstractmethod
    def hold_keys(self, jobs: Sequence[NewJob]) -> Statement:
        """Takes the unique keys of these jobs that nobody has, locks the others; reads each key and its holder."""

    @abstractmethod
    def take_keys(self, jobs: Sequence[NewJob], holders: Sequence[str]) -> Statement:
        """Takes those of these jobs' keys whose holders stand for nothing any more; reads the keys."""

    @abstractmethod
    def workflow(self, jobs: Sequence[NewJob], edges: Sequence[Edge], *, first: NewJob, workflow: str) -> Steps[int]:
        """Write the jobs as rows of this workflow; how many are new: none, where `first` was there before.

        The first job goes before all others, and they are written only if it was: who finds it there already knows
        that the workflow was written before, whatever has become of its other jobs since (an errback that cannot run
        any more is deleted, and must not come back). The edges are written with them if all are new, and else not at
        all (see `link`): between jobs that were there before they would be somebody else's.
        """

    @abstractmethod
    def link(self, edges: Sequence[Edge]) -> Statement:
        """Writes edges alone."""

    def steps(self, jobs: Sequence[NewJob], *, check: bool = True) -> Steps[dict[str, str]]:
        """Enqueue the jobs; returns, for those not written for their unique keys, the ids that stand for them.

        Raises DuplicateTaskId for an id in use by other content, OperationalError where one has no row, unless `check`
        is off.
        """
        taken: dict[str, str] = {}
        if any(job.unique_key is not None for job in jobs):
            taken = yield from take_unique_keys(self, jobs)
            jobs = [with_its_key(job) for job in jobs if job.id not in taken]
        inserted = 0
        for statement in self.statements(jobs):
            inserted += (yield statement).changed
        if inserted < len(jobs) and check:
            found = (yield self.duplicates(jobs)).rows
            refuse_other_content(jobs, found)
            refuse_unwritten(jobs, found)
        return taken


def refuse_unwritten(jobs: Sequence[NewJob], rows: Iterable[Sequence[Any]]) -> None:
    """Raise OperationalError where a job has no row though the database has refused nothing: nobody would run it."""
    there = {row[0] for row in rows}
    if missing := [job.id for job in jobs if job.id not in there]:
        raise OperationalError(
            f"the database has not written job {missing[0]!r}, and says nothing of it: has its table a trigger, or a "
            "rule, that leaves rows out?"
        )


def refuse_other_content(jobs: Sequence[NewJob], rows: Iterable[Sequence[Any]]) -> None:
    """Raise DuplicateTaskId where a row of the same id is another call; the same call is no error.

    Nor is a job that was revoked before it was enqueued: its row keeps it from running. What a job may have changed
    since it was enqueued is not compared: its arguments once it was retried, and all of it once it was replaced.
    """
    wanted = {job.id: job for job in jobs}
    for job_id, task, args, kwargs, content, retried, replaced in rows:
        job = wanted[job_id]
        same = (args, kwargs, None if content is None else bytes(content)) == (job.args, job.kwargs, job.content)
        if not (task == NOT_ENQUEUED or replaced or (task == job.task and (same or retried))):
            raise DuplicateTaskId(
                f"task id {job_id!r} is in use by a job of {task} with other content: "
                "leave task_id out, or choose one that is unique for each call"
            )
