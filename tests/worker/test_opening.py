"""How a worker comes to its connections and its row: all of them, or none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.errors import OperationalError
from dbqueue.store.base import Store
from dbqueue.worker.config import WorkerConfig
from dbqueue.worker.supervising import opening
from dbqueue.worker.supervising.opening import TRIES, open_worker
from tests.servers import libpq_url
from tests.stores import opened, run_sql
from tests.waiting import wait_until

NAME = "opening@test"
CONFIG = WorkerConfig(NAME, ("celery",), "solo", 1)


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


@pytest.fixture
def admin(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
        yield admin


def full(store: Store) -> None:
    """Let the database refuse each registration, and count them."""
    run_sql(store, "CREATE SEQUENCE tries")
    run_sql(
        store,
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM nextval('tries'); RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$",
    )
    run_sql(
        store, "CREATE TRIGGER full_disk BEFORE INSERT ON dbqueue_workers FOR EACH ROW EXECUTE FUNCTION full_disk()"
    )


def tries(store: Store) -> int:
    with store.connect() as connection:
        return int(connection.execute(sa.text("SELECT last_value FROM tries")).scalar_one())


def sessions(admin: psycopg.Connection[Any]) -> list[Any]:
    query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s AND datname = current_database()"
    return admin.execute(query, [f"%{NAME}%"]).fetchall()


def test_one_that_cannot_be_registered_leaves_no_connection(store: Store, admin: psycopg.Connection[Any]) -> None:
    full(store)
    with pytest.raises(OperationalError, match="no space left") as kept:  # and with it all that its frames hold
        open_worker(store, CONFIG, stopping=lambda: True)
    wait_until(lambda: not sessions(admin), what="the end of its connections")
    del kept


def test_one_that_is_to_stop_has_one_try(store: Store) -> None:
    full(store)
    with pytest.raises(OperationalError):
        open_worker(store, CONFIG, stopping=lambda: True)
    assert tries(store) == 1


def test_it_is_tried_again_and_not_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LAST_RETRY_SECONDS", 0.0)
    full(store)
    with pytest.raises(OperationalError):
        open_worker(store, CONFIG, stopping=lambda: False)
    assert tries(store) == TRIES


def test_its_lease_begins_before_it_is_registered(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock of its own: read after the database has answered, it would end later here than for others."""
    seen: list[int] = []

    def clock() -> float:
        with store.connect() as connection:
            seen.append(connection.execute(sa.text("SELECT count(*) FROM dbqueue_workers")).scalar_one())
        return 17.0

    monkeypatch.setattr(opening, "boot_clock", clock)
    worker = open_worker(store, CONFIG, stopping=lambda: False)
    assert (seen, worker.registered_at) == ([0], 17.0)
    worker.close()
