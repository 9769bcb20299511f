"""A trigger that records each change of a job's state, and the rows as they are in the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dbqueue.store.base import Store
from tests.stores import moment

_COLUMNS = "job, old_status, new_status, old_lease, new_lease, worker, loss"
_TABLE = f"""
CREATE TABLE chaos_transitions (
    seq {{serial}} PRIMARY KEY, {_COLUMNS.replace(", ", " text, ")} text, at double precision NOT NULL)"""

_POSTGRES = (
    _TABLE.format(serial="bigserial"),
    f"""
CREATE FUNCTION chaos_record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.status = NEW.status AND OLD.lease IS NOT DISTINCT FROM NEW.lease THEN
        RETURN NULL;
    END IF;
    INSERT INTO chaos_transitions ({_COLUMNS}, at) VALUES (
        CASE WHEN TG_OP = 'DELETE' THEN OLD.id ELSE NEW.id END,
        CASE WHEN TG_OP <> 'INSERT' THEN OLD.status END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.status END,
        CASE WHEN TG_OP <> 'INSERT' THEN OLD.lease END, CASE WHEN TG_OP <> 'DELETE' THEN NEW.lease END,
        CASE WHEN TG_OP = 'INSERT' THEN NEW.worker ELSE coalesce(OLD.worker, NEW.worker) END,
        CASE WHEN TG_OP = 'UPDATE' AND NEW.losses > OLD.losses THEN 'lost' END,
        extract(epoch FROM clock_timestamp()));
    RETURN NULL;
END $$""",
    """
CREATE TRIGGER chaos_record AFTER INSERT OR UPDATE OR DELETE ON dbqueue_jobs
FOR EACH ROW EXECUTE FUNCTION chaos_record()""",
)

_NOW = "(julianday('now') - 2440587.5) * 86400.0"


def _sqlite(event: str, when: str, values: str) -> str:
    return f"""
CREATE TRIGGER chaos_{event.lower()} AFTER {event} ON dbqueue_jobs {when}
BEGIN INSERT INTO chaos_transitions ({_COLUMNS}, at) VALUES ({values}, {_NOW}); END"""


_SQLITE = (
    _TABLE.format(serial="integer"),
    _sqlite("INSERT", "", "new.id, NULL, new.status, NULL, new.lease, new.worker, NULL"),
    _sqlite(
        "UPDATE",
        "WHEN old.status <> new.status OR old.lease IS NOT new.lease",
        "new.id, old.status, new.status, old.lease, new.lease, coalesce(old.worker, new.worker), "
        "CASE WHEN new.losses > old.losses THEN 'lost' END",
    ),
    _sqlite("DELETE", "", "old.id, old.status, NULL, old.lease, NULL, old.worker, NULL"),
)


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of a row; None as a status: there was no row, or is none any more. `at` is the database's clock."""

    job: str
    old_status: str | None
    new_status: str | None
    old_lease: str | None
    new_lease: str | None
    worker: str | None
    lost: bool
    at: float


@dataclass(frozen=True, slots=True)
class FinalRow:
    """A job in the end; `value` is its result, read from JSON."""

    status: str
    lease: str | None
    value: object


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker's registration in the end; times in seconds since 1970."""

    pid: int
    lease_seconds: float
    heartbeat_at: float
    closed_at: float | None

    @property
    def stale_when_closed(self) -> bool:
        """Whether whoever closed it saw a heartbeat that was too old; half a lease for clocks that read apart."""
        return self.closed_at is not None and self.closed_at - self.heartbeat_at > 0.95 * self.lease_seconds


def install(store: Store) -> None:
    """Before the first job."""
    with store.connect() as connection:
        for statement in _POSTGRES if store.dialect == "postgresql" else _SQLITE:
            connection.exec_driver_sql(statement)


def read_transitions(store: Store) -> list[Transition]:
    with store.connect() as connection:
        rows = connection.execute(sa.text(f"SELECT {_COLUMNS}, at FROM chaos_transitions ORDER BY seq")).all()
    return [_transition(*row) for row in rows]


def _transition(*values: Any) -> Transition:
    job, old_status, new_status, old_lease, new_lease, worker, loss, at = values
    return Transition(job, old_status, new_status, old_lease, new_lease, worker, loss is not None, at)


def read_rows(store: Store) -> dict[str, FinalRow]:
    query = f"SELECT id, status, lease, {_text(store, 'result')} FROM dbqueue_jobs"
    with store.connect() as connection:
        rows = connection.execute(sa.text(query)).all()
    return {row[0]: FinalRow(row[1], row[2] and str(row[2]), row[3] and json.loads(row[3])) for row in rows}


def read_workers(store: Store) -> dict[str, WorkerRow]:
    query = "SELECT id, pid, lease_seconds, heartbeat_at, closed_at FROM dbqueue_workers"
    with store.connect() as connection:
        rows = connection.execute(sa.text(query)).all()
    return {row[0]: WorkerRow(row[1], row[2], _seconds(row[3]) or 0.0, _seconds(row[4])) for row in rows}


def _text(store: Store, column: str) -> str:
    return f"CAST({column} AS text)"


def _seconds(value: object) -> float | None:
    at = moment(value)
    return None if at is None else at.timestamp()
