"""Heartbeats at a time of the test's: a time to come, another date in a worker's row, a steady clock that goes on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dbqueue.store import heartbeats
from dbqueue.store.base import Store
from dbqueue.store.postgres import liveness
from tests.stores import TestWorker, run_sql


def later(seconds: float = 60) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def date_heartbeat(store: Store, worker: TestWorker, year: int) -> None:
    at = f"{year}-01-01 00:00:00.000"
    run_sql(store, "UPDATE dbqueue_workers SET heartbeat_at = :at WHERE id = :id", at=at, id=worker.id)


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """On the steady clock of who looks at heartbeats."""
    at = vars(heartbeats)["monotonic"]() + seconds
    for module in (heartbeats, liveness):
        monkeypatch.setattr(module, "monotonic", lambda: at)
