"""Workflows by hand: their shapes, what comes of a claimed job, and how the rows look then."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from dbqueue.jobs import ClaimedJob, Failed, Succeeded
from dbqueue.store.base import Store
from dbqueue.workflows import FIRST_ARGUMENT, Edge, Workflow
from tests.stores import TestWorker, new_job, row


def chain(*ids: str, place: str | None = FIRST_ARGUMENT, **fields: Any) -> Workflow:
    edges = [Edge(before, after, place=place) for before, after in pairwise(ids)]
    return Workflow.of([new_job(job_id, **fields) for job_id in ids], edges)


def chord(headers: Sequence[str], body: str, **fields: Any) -> Workflow:
    edges = [Edge(header, body, place=f"[{index}]") for index, header in enumerate(headers)]
    return Workflow.of([new_job(job_id, **fields) for job_id in [*headers, body]], edges)


def edges(store: Store) -> int:
    with store.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM dbqueue_edges").scalar_one())


def done(job: ClaimedJob, result: str | None = "1", content: bytes | None = None) -> Succeeded:
    return Succeeded(job.id, job.lease, result, 0.0, content)


def claimed_ids(worker: TestWorker) -> list[str]:
    return [job.id for job in worker.claim()]


def overdue(worker: TestWorker) -> dict[str, bool]:
    """What a look through all of the table finds, part by part."""
    found, more = worker.session.overdue()
    while more:
        others, more = worker.session.overdue()
        found |= others
    return found


ERROR = json.dumps({"exc_type": "ValueError", "exc_message": ["bad", 3], "exc_module": "builtins"})


def failed(job: ClaimedJob, status: str = "FAILURE") -> Failed:
    return Failed(job.id, job.lease, ERROR, "Traceback: ...", 0.0, status=status)


def statuses(store: Store, *ids: str) -> list[str]:
    return [row(store, job_id)["status"] for job_id in ids]


def error_of(store: Store, job_id: str) -> tuple[str, list[Any]]:
    value = row(store, job_id)["result"]
    value = json.loads(value) if isinstance(value, str) else value
    return value["exc_type"], value["exc_message"]
