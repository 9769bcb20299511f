"""Outcomes as rows: how each kind of outcome changes a job, the same for every database.

Two statements carry them all. `finish` ends a job (SUCCESS, FAILURE, REVOKED); `requeue` puts it
back, as a retry that counts, a release that does not, or a loss. Rows are sorted by id, so that
two batches which share rows always lock them in one order.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from operator import itemgetter
from typing import Final, NamedTuple

from dbqueue.jobs import PENDING, RETRY, SUCCESS, Failed, Outcome, Released, Replaced, Retried, Succeeded

_ID: Final = itemgetter(0)


class Finish(NamedTuple):
    id: str
    lease: str
    status: str
    result: str | None
    traceback: str | None
    seconds: float


class Requeue(NamedTuple):
    """`ready_at` is the text that the claim returned; `eta` and `delay_seconds` come from a retry."""

    id: str
    lease: str
    status: str
    retried: int
    lost: int
    ready_at: str | None = None
    eta: str | None = None
    delay_seconds: float = 0.0
    error: str | None = None
    traceback: str | None = None
    args: str | None = None
    kwargs: str | None = None
    options: str | None = None
    queue: str | None = None
    priority: int | None = None
    expires_at: str | None = None
    content: bytes | None = None
    hold: str | None = None
    headers: str | None = None


class Content(NamedTuple):
    """A result in another serializer than JSON."""

    id: str
    lease: str
    content: bytes


def contents(outcomes: Iterable[Outcome]) -> list[Content]:
    """The results whose bytes a statement of their own writes, before the one that ends their jobs.

    Most results are JSON: the statement that ends every job does not carry a column for the others.
    """
    return sorted(
        Content(outcome.job_id, outcome.lease, outcome.content)
        for outcome in outcomes
        if type(outcome) is Succeeded and outcome.content is not None
    )


def split(outcomes: Iterable[Outcome]) -> tuple[list[Finish], list[Requeue]]:
    """The rows of both statements for these outcomes, each list in the order of ids."""
    finish: list[Finish] = []
    requeue: list[Requeue] = []
    for outcome in outcomes:
        if isinstance(outcome, Succeeded):  # nearly all: a `match` on the class takes three times as long
            job_id, lease, result, seconds, _ = outcome
            finish.append(Finish(job_id, lease, SUCCESS, result, None, seconds))
        elif isinstance(outcome, Failed):
            job_id, lease, error, traceback, seconds, status, _ = outcome
            finish.append(Finish(job_id, lease, status, error, traceback, seconds))
        elif isinstance(outcome, Released):
            requeue.append(_release(outcome))
        elif isinstance(outcome, Retried):
            requeue.append(_retry(outcome))
    finish.sort(key=_ID)
    requeue.sort(key=_ID)
    return finish, requeue


def _release(outcome: Released) -> Requeue:
    pause = outcome.delay_seconds
    ready_at = outcome.ready_at if pause is None else None
    return Requeue(
        outcome.job_id, outcome.lease, PENDING, 0, int(outcome.lost), ready_at,
        delay_seconds=pause or 0.0, options=outcome.options, hold=outcome.hold,
    )  # fmt: skip


def replacements(outcomes: Iterable[Outcome]) -> list[Replaced]:
    """Those that put a workflow in the place of a job, in the order of ids."""
    return sorted((each for each in outcomes if type(each) is Replaced), key=lambda each: each.job_id)


def part(rows: Iterable[Finish], linked: Collection[str]) -> tuple[list[Finish], list[Finish], list[Finish]]:
    """The rows of jobs that nothing waits for, those of others that have succeeded, and those that have not."""
    parts: tuple[list[Finish], list[Finish], list[Finish]] = ([], [], [])
    for row in rows:
        parts[0 if row.id not in linked else 1 if row.status == SUCCESS else 2].append(row)
    return parts


def _retry(outcome: Retried) -> Requeue:
    return Requeue(
        outcome.job_id,
        outcome.lease,
        RETRY,
        retried=1,
        lost=0,
        eta=outcome.eta,
        delay_seconds=float(outcome.delay_seconds),
        error=outcome.error,
        traceback=outcome.traceback,
        args=outcome.args,
        kwargs=outcome.kwargs,
        options=outcome.options,
        queue=outcome.queue,
        priority=outcome.priority,
        expires_at=outcome.expires_at,
        content=outcome.content,
        headers=outcome.headers,
    )


LOST_ERROR: Final = json.dumps(
    {
        "exc_type": "WorkerLostError",
        "exc_message": ["the worker that ran this job died, and the job may not run again"],
        "exc_module": "dbqueue.errors",
    }
)
"""The result of a job that ends because of its dead worker."""
