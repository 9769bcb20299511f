"""Who lives: by heartbeats, whatever becomes of the clock, and who of them is the eldest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing

import psycopg
import pytest

from dbqueue.store.base import Store
from dbqueue.store.sessions import ELDEST_SECONDS
from tests.contract.heartbeats import date_heartbeat, later, pass_time
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, moment, opened, row, run_sql

NewWorker = Callable[..., TestWorker]


def test_a_heartbeat_puts_death_off(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    old = (
        "strftime('%Y-%m-%d %H:%M:%f', 'now', '-4 seconds')" if store.dialect == "sqlite" else "now() - interval '4 s'"
    )
    watch = store.watch_session("test")
    run_sql(store, f"UPDATE dbqueue_workers SET heartbeat_at = {old} WHERE id = :id", id=dead.id)
    watch.heartbeat(dead.id)
    assert rescuer.session.rescue(max_losses=3, now=later(4)) == []
    assert [each.worker_id for each in rescuer.session.rescue(max_losses=3, now=later(7))] == [dead.id]
    watch.close()


def test_a_stopped_worker_is_not_dead(store: Store, dead: TestWorker, rescuer: TestWorker) -> None:
    dead.session.close_worker(dead.id)
    assert rescuer.session.rescue(max_losses=3, now=later()) == []


def test_a_worker_stops_once(store: Store, dead: TestWorker) -> None:
    """One that was declared dead and comes back does not move its end."""
    dead.session.close_worker(dead.id)
    run_sql(store, "UPDATE dbqueue_workers SET closed_at = '2020-01-01 00:00:00.000' WHERE id = :id", id=dead.id)
    dead.session.close_worker(dead.id)
    with store.connect() as connection:
        closed_at = moment(connection.exec_driver_sql("SELECT closed_at FROM dbqueue_workers").scalar_one())
    assert closed_at is not None
    assert closed_at.year == 2020


def test_the_eldest_lives(store: Store, new_worker: NewWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = new_worker(), new_worker()
    run_sql(store, "UPDATE dbqueue_workers SET started_at = '2020-01-01 00:00:00.000' WHERE id = :id", id=first.id)
    assert second.session.eldest_worker() == first.id
    date_heartbeat(store, first, 2020)  # dead, and not found dead yet
    if store.dialect == "sqlite":  # where it is dead when it has shown nothing else for a lease
        assert second.session.eldest_worker() == first.id
        date_heartbeat(store, second, 2021)
        pass_time(monkeypatch, 31)
        date_heartbeat(store, second, 2022)
    assert second.session.eldest_worker() == second.id
    first.session.close_worker(first.id)
    assert first.session.eldest_worker() == second.id
    second.session.close_worker(second.id)
    assert first.session.eldest_worker() is None


@pytest.mark.parametrize("heartbeat", ["infinity", "2999-01-01 00:00:00.000", "2020-01-01 00:00:00.000"])
def test_a_silent_worker_is_not_the_eldest_for_ever(
    store: Store, new_worker: NewWorker, monkeypatch: pytest.MonkeyPatch, heartbeat: str
) -> None:
    """Whatever its row says of its lease and its heartbeats: nobody else would do what the eldest does."""
    first, second = new_worker(), new_worker()
    old = "started_at = '2000-01-01 00:00:00.000', lease_seconds = 1e20, heartbeat_at = :at"
    run_sql(store, f"UPDATE dbqueue_workers SET {old} WHERE id = :id", id=first.id, at=heartbeat)
    if store.dialect == "sqlite":  # where it has been seen to be silent for so long
        assert second.session.eldest_worker() == first.id
        pass_time(monkeypatch, ELDEST_SECONDS + 1)
        # Not by a heartbeat: on a fast disk it is in the millisecond of the first, and nothing has changed.
        date_heartbeat(store, second, 2022)
    assert second.session.eldest_worker() == second.id
    assert second.session.rescue(max_losses=3) == []


@pytest.mark.parametrize("year", [2001, 2099])
def test_a_heartbeat_is_not_compared_with_the_clock_on_the_wall(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    """On SQLite, where each process has its own: a heartbeat is old when it has stayed the same for a lease."""
    with opened(sqlite_url) as store:
        worker, rescuer = TestWorker(store, lease_seconds=30), TestWorker(store, lease_seconds=3600)
        job_id = enqueued(store)
        worker.claim_one()
        for later in range(3):
            date_heartbeat(store, worker, year + later)
            assert rescuer.session.rescue(max_losses=3) == []
            pass_time(monkeypatch, 29)
            assert rescuer.session.rescue(max_losses=3) == []
        pass_time(monkeypatch, 2)
        assert [(each.worker_id, each.requeued) for each in rescuer.session.rescue(max_losses=3)] == [(worker.id, 1)]
        assert row(store, job_id)["losses"] == 1
        for each in (worker, rescuer):
            each.close()


CLOCK = """
CREATE SCHEMA clock;
CREATE TABLE clock.step (by interval);
INSERT INTO clock.step VALUES ('0');
CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE AS
    'SELECT pg_catalog.now() + by FROM clock.step';
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + by FROM clock.step';
"""
"""A clock of the server's that can be put forward and back, for who has its schema before the system's own."""


def test_the_servers_clock_is_put_forward_and_back(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is dead for that, and who is dead does not live on."""
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        admin.execute(CLOCK)
        admin.execute(f"ALTER DATABASE {admin.info.dbname} SET search_path = clock, pg_catalog, public".encode())
        with opened(postgres_url) as store:
            rescuer, watch = TestWorker(store, lease_seconds=1e6), store.watch_session("test")
            for step in ("1 hour", "0"):
                worker = TestWorker(store, lease_seconds=30)
                job_id = enqueued(store)
                worker.claim_one()
                assert rescuer.session.rescue(max_losses=3) == []
                admin.execute("UPDATE clock.step SET by = %s", [step])
                assert rescuer.session.rescue(max_losses=3) == []
                assert watch.heartbeat(worker.id)
                assert rescuer.session.rescue(max_losses=3) == []
                pass_time(monkeypatch, 29)
                assert rescuer.session.rescue(max_losses=3) == []
                pass_time(monkeypatch, 2)
                dead = rescuer.session.rescue(max_losses=3)
                assert [(each.worker_id, each.requeued) for each in dead] == [(worker.id, 1)]
                assert row(store, job_id)["losses"] == 1
                run_sql(store, "DELETE FROM dbqueue_jobs")
                worker.close()
            for each in (watch, rescuer):
                each.close()


def test_a_worker_that_dies_just_before_the_clock_is_put_back(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat is of the future then."""
    with opened(postgres_url) as store:
        rescuer, dead = TestWorker(store, lease_seconds=1e6), TestWorker(store, lease_seconds=30)
        run_sql(store, "UPDATE dbqueue_workers SET heartbeat_at = now() + interval '1 hour' WHERE id = :id", id=dead.id)
        assert rescuer.session.rescue(max_losses=3) == []
        pass_time(monkeypatch, 31)
        assert [each.worker_id for each in rescuer.session.rescue(max_losses=3)] == [dead.id]
        for each in (dead, rescuer):
            each.close()


@pytest.mark.parametrize("lease", ["1e20", "-1e20", "'infinity'", "'-infinity'", "'NaN'"])
def test_a_lease_of_any_length(postgres_url: str, lease: str) -> None:
    """Of a row that somebody else has written: the others are looked at all the same."""
    with opened(postgres_url) as store, ExitStack() as stack:
        dead, hostile, rescuer = (stack.enter_context(closing(TestWorker(store))) for _ in range(3))
        job_id = enqueued(store)
        dead.claim()
        run_sql(store, "UPDATE dbqueue_workers SET heartbeat_at = now() - interval '1 day' WHERE id = :id", id=dead.id)
        run_sql(store, f"UPDATE dbqueue_workers SET lease_seconds = {lease} WHERE id = :id", id=hostile.id)
        assert dead.id in [each.worker_id for each in rescuer.session.rescue(max_losses=3)]
        assert rescuer.session.eldest_worker() in (hostile.id, rescuer.id)
        assert row(store, job_id)["status"] == "PENDING"
