"""A real store as the machine drives it: a session for each worker, and its rows in a form that can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import psycopg
import sqlalchemy as sa

from dbqueue.errors import OperationalError
from dbqueue.jobs import (
    ClaimedJob,
    Failed,
    Outcome,
    Released,
    Retried,
    Succeeded,
)
from dbqueue.store.base import Store
from dbqueue.store.records import Claim, HeldClaim, WorkerInfo
from dbqueue.store.sessions import WorkSession
from dbqueue.store.sqlite.store import SqliteStore
from dbqueue.store.tables import Json, Time, edges, jobs, metadata
from tests.servers import libpq_url
from tests.stateful.model import ERROR, HOLD, MAX_LOSSES, PAUSE_SECONDS, RETRY_ERROR, TRACEBACK
from tests.stateful.rows import Seen, Token
from tests.stores import moment, opened, run_sql

QUEUES = ("celery", "mail")

Given = dict[str, Any]
"""A claimed job, as `shown`."""


class Workflows:
    """Names for workflows, the same in all databases: of the first job that each had when it was first seen."""

    def __init__(self) -> None:
        self._names: dict[str | None, str] = {}

    def named(self, workflows: Mapping[str, str | None]) -> Mapping[str | None, str]:
        """`workflows`: of all jobs, by their ids."""
        for job_id, workflow in sorted(workflows.items()):
            if workflow is not None:
                self._names.setdefault(workflow, job_id)
        return self._names


class Subject:
    def __init__(self, url: str, start: datetime, lease_seconds: float) -> None:
        self.url, self._start, self._lease_seconds = url, start, lease_seconds
        self._stack = ExitStack()
        self.store: Store = self._stack.enter_context(opened(url))
        self.sessions: dict[str, WorkSession] = {}
        self._claimed: dict[tuple[str, str], ClaimedJob] = {}
        self._linked: set[str] = set()
        self._workflows = Workflows()

    # workers

    def register(self, worker: str, now: datetime) -> None:
        """May be done again: one that was declared dead stays so."""
        new = worker not in self.sessions
        if new:
            self.sessions[worker] = self.store.work_session("test")
        self.sessions[worker].register(self._info(worker))
        if new:
            self.beat(worker, now)

    def open_again(self, worker: str, now: datetime) -> None:
        self.sessions[worker].register(self._info(worker))  # its process lives, as SQLite's lock of it tells
        self.sessions[worker].reopen(self._info(worker))
        self.beat(worker, now)

    def _info(self, worker: str) -> WorkerInfo:
        return WorkerInfo(worker, "worker@test", "test", 1, "solo", 1, QUEUES, "0", self._lease_seconds)

    def beat(self, worker: str, now: datetime) -> None:
        """Date the heartbeat: the database's clock is not the test's."""
        at = now.strftime("%Y-%m-%d %H:%M:%S.000") if self.store.dialect == "sqlite" else now
        run_sql(self.store, "UPDATE dbqueue_workers SET heartbeat_at = :at WHERE id = :id", at=at, id=worker)

    def heartbeat(self, worker: str, now: datetime) -> bool:
        watch = self.store.watch_session("test")
        try:
            alive = watch.heartbeat(worker)
        finally:
            watch.close()
        if alive:
            self.beat(worker, now)
        return alive

    def rescue(self, worker: str, now: datetime) -> dict[str, tuple[int, int]]:
        found = self.sessions[worker].rescue(max_losses=MAX_LOSSES, now=now)
        return {each.worker_id: (each.requeued, each.failed) for each in found}

    def lost_workers(self, worker: str) -> set[str]:
        found, more = set[str](), True
        while more:
            names, more = self.sessions[worker].lost_workers()
            found.update(names)
        return found

    def overdue(self, worker: str) -> set[str]:
        found, more = self.sessions[worker].overdue()
        return {*found, *(self.overdue(worker) if more else ())}

    def break_connection(self, worker: str) -> None:
        """From outside, where there is an outside; the next use finds it, and a new one is opened."""
        session = self.sessions[worker]
        if self.store.dialect == "postgresql":
            pid = session._driver.info.backend_pid  # type: ignore[attr-defined]
            with psycopg.connect(libpq_url(self.url), autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
            try:
                session.eldest_worker()
            except OperationalError:
                pass
            else:
                raise AssertionError("the connection was not broken")
        session.close()
        self.sessions[worker] = self.store.work_session("test")

    def reopen(self) -> None:
        self._close_sessions()
        self._stack.close()
        self.store = self._stack.enter_context(opened(self.url))
        for worker in self.sessions:
            self.sessions[worker] = self.store.work_session("test")
            self.sessions[worker].register(self._info(worker))  # its lock is held again

    def close(self) -> None:
        self._close_sessions()
        with self.store.connect() as connection:
            for table in metadata.tables:
                connection.execute(sa.text(f"DELETE FROM {table}"))
        self._stack.close()

    def _close_sessions(self) -> None:
        for worker, session in self.sessions.items():
            session.close()
            if isinstance(self.store, SqliteStore):
                self.store.worker_locks.drop(worker)  # else the lock file stays open, one for each example

    # rounds

    def round(
        self, worker: str, outcomes: Sequence[Outcome], claim: Claim | None, now: datetime
    ) -> tuple[set[str], list[Given]]:
        """Which outcomes were written, and what was claimed."""
        result = self.sessions[worker].round(outcomes, claim, linked=self._linked, now=now)
        return set(result.settled), [self._taken(job) for job in result.claimed]

    def claim_held(self, worker: str, claim: HeldClaim, now: datetime) -> list[Given]:
        return [self._taken(job) for job in self.sessions[worker].claim_held(claim, now=now).claimed]

    def _taken(self, job: ClaimedJob) -> Given:
        self._claimed[job.id, job.lease] = job
        if job.successors:
            self._linked.add(job.id)
        values = job._asdict()
        for name in ("eta", "expires_at", "ready_at"):
            values[name] = self._shown_time(values[name])
        for name in ("args", "kwargs", "headers", "options"):
            values[name] = _parsed(values[name])
        if isinstance(job.inputs, tuple):
            values["inputs"] = sorted((each[0], each[1], str(_without_text(_parsed(each[2])))) for each in job.inputs)
        return values

    def outcome(
        self, token: Token, how: str, delay: float, *, queue: str | None = None, priority: int | None = None
    ) -> Outcome:
        """As a worker makes it of what it has claimed."""
        job = self._claimed[token.job_id, token.lease]
        match how:
            case "SUCCESS":
                return Succeeded(job.id, job.lease, json.dumps(job.id), 0.0)
            case "FAILURE" | "REVOKED":
                return Failed(job.id, job.lease, json.dumps({"exc_type": ERROR}), TRACEBACK, 0.0, how)
            case "RETRY":
                retry = json.dumps({"exc_type": RETRY_ERROR})
                return Retried(job.id, job.lease, retry, None, 0.0, delay, queue=queue, priority=priority)
            case "pause":
                return Released(job.id, job.lease, job.ready_at, delay_seconds=PAUSE_SECONDS)
            case _:
                hold = HOLD if how == "hold" else None
                return Released(job.id, job.lease, job.ready_at, lost=how == "lost", hold=hold)

    # what it holds

    def rows(self) -> dict[str, dict[str, Any]]:
        """All rows, the same for both databases; but for what each dates by its own clock."""
        with self.store.connect() as connection:
            found = connection.execute(sa.select(*map(_as_text, jobs.c))).mappings().all()
        names = self._workflows.named({row["id"]: row["workflow_id"] for row in found})
        return {
            row["id"]: {column.name: self._shown(column, row[column.name]) for column in jobs.c}
            | {"workflow_id": names.get(row["workflow_id"])}
            for row in found
        }

    def edges(self) -> set[tuple[Any, ...]]:
        with self.store.connect() as connection:
            return {tuple(row) for row in connection.execute(sa.select(edges))}

    def _shown(self, column: sa.Column[Any], value: Any) -> Any:
        if column.name == "started_at":
            return value is not None
        if column.type is Time:
            return self._shown_time(value)
        if column.type is Json:
            return _without_text(_parsed(value))
        return value

    def _shown_time(self, value: Any) -> datetime | None:
        """Times on the database's own clock are all the same, and before all others."""
        found = moment(value)
        return found and max(found, self._start)


def _as_text(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """JSON as it is written, whatever the driver would make of it."""
    return sa.cast(column, sa.Text).label(column.name) if column.type is Json else column


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _without_text(value: Any) -> Any:
    """Where several headers of a chord fail at once, its error may name either."""
    if not isinstance(value, dict):
        return value
    if value.get("exc_type") == "ChordError":
        return {"exc_type": "ChordError"}
    return {name: _without_text(each) for name, each in value.items()}


def seen(row: dict[str, Any]) -> Seen:
    """What the model knows of it."""
    blocked, result = row["blocked_reason"], row["result"]
    return Seen(
        row["task"], row["status"], row["queue"], row["priority"], row["eta"], row["expires_at"], blocked,
        row["waits_for"] if blocked == "predecessors" else 0, row["ready_at"] or row["held_at"],
        row["lease"], row["worker"], row["redeliver"], row["limit_key"], row["permit"], row["state"],
        row["meta"] is not None, row["retries"], row["losses"], row["revoked_at"] is not None, row["workflow_id"],
        row["parent_id"], row["inputs"], row["successors"], row["started_at"],
        result["exc_type"] if isinstance(result, dict) else result, row["traceback"], row["finished_at"],
    )  # fmt: skip
