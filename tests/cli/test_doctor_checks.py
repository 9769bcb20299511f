"""What `dbqueue doctor` says of settings, clocks, workers and the queues that they serve."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.cli.checks import CLOCK_SKEW_SECONDS, examine
from dbqueue.cli.findings import Finding, Level
from dbqueue.cli.target import Target
from dbqueue.store.base import Store
from tests.stores import TestWorker, enqueued, run_sql


def of(check: str, url: str, **settings: Any) -> list[Finding]:
    """What it finds of this kind."""
    with DBQueue("doctor", broker=url, set_as_current=False, **settings) as app:
        target = Target(app)
        try:
            return [each for each in examine(target) if each.check == check]
        finally:
            target.raw_store.close()


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    with DBQueue("doctor", broker=sqlite_url, set_as_current=False) as app:
        yield app.database.store


@pytest.mark.parametrize(
    ("interval", "level"), [(None, Level.OK), (15.0, Level.OK), (16.0, Level.WARNING), (27.0, Level.ERROR)]
)
def test_heartbeats_that_are_too_rare_for_the_lease(sqlite_url: str, interval: float | None, level: Level) -> None:
    """An error where no worker would start."""
    (found,) = of("settings", sqlite_url, worker_lease_seconds=30.0, worker_heartbeat_interval=interval)
    assert found.level is level
    assert ("too long for worker_lease_seconds (30 s)" in found.message) == (level is not Level.OK)


def test_results_that_are_never_deleted(sqlite_url: str) -> None:
    (found,) = of("settings", sqlite_url, result_expires=0)
    assert (found.level, "the table grows" in found.message) == (Level.WARNING, True)
    (found,) = of("settings", sqlite_url, result_expires=0, result_max_kept=1000)
    assert found.level is Level.OK


def test_settings_without_effect(sqlite_url: str) -> None:
    with pytest.warns(UserWarning, match="has no effect in dbqueue"):
        (found,) = of("settings", sqlite_url, broker_heartbeat=10)
    assert (found.level, found.message) == (Level.WARNING, "without effect here: broker_heartbeat")


@pytest.mark.parametrize(
    ("ahead", "says"),
    [(-2 * CLOCK_SKEW_SECONDS, "10 s behind"), (0.0, "agree"), (2 * CLOCK_SKEW_SECONDS, "10 s ahead of")],
)
def test_clocks_that_differ(sqlite_url: str, monkeypatch: pytest.MonkeyPatch, ahead: float, says: str) -> None:
    moment = datetime.now(UTC) - timedelta(seconds=ahead)
    monkeypatch.setattr("dbqueue.store.reading.database_time", lambda _: moment)
    (found,) = of("clock", sqlite_url)
    assert says in found.message
    assert found.level is (Level.WARNING if ahead else Level.OK)


def test_workers_that_do_not_beat(sqlite_url: str, store: Store) -> None:
    """Who takes their jobs back depends on whether there are others."""
    with contextlib.closing(TestWorker(store)) as late, contextlib.closing(TestWorker(store)) as alive:
        run_sql(store, "UPDATE dbqueue_workers SET heartbeat_at = '2020-01-01 00:00:00.000' WHERE id = :id", id=late.id)
        warning, fine = of("workers", sqlite_url)
        assert warning.message.startswith("worker@test (pid 1 on test) has had no heartbeat for ")
        assert (warning.advice, fine.level) == ("a worker that runs takes its jobs back", Level.OK)
        alive.session.close_worker(alive.id)
        warning, none = of("workers", sqlite_url)
        assert warning.advice.startswith("start a worker, which takes its jobs back: ")
        assert none.message == "no worker is online"


def test_queues_that_are_served(sqlite_url: str, store: Store) -> None:
    """By name, or by a pattern; a job that waits for its time waits for a worker, too."""
    with contextlib.closing(TestWorker(store, queues=["celery", "mail*"])):
        for queue in ("celery", "mail-eu"):
            enqueued(store, queue=queue)
        (found,) = of("queues", sqlite_url)
        assert (found.level, found.message) == (Level.OK, "2 jobs waiting, 0 running")
        enqueued(store, queue="images", delay_seconds=3600.0)
        (found,) = of("queues", sqlite_url)
        assert found.message == "1 job in the queue 'images', which no worker serves"
