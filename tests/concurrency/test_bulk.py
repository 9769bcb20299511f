"""Batches that meet: the same jobs twice at once, and a COPY whose answer was lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from dbqueue import DBQueue
from dbqueue.errors import DuplicateTaskId
from dbqueue.jobs import NewJob
from dbqueue.store.base import Store
from dbqueue.store.postgres import copying
from tests.servers import libpq_url
from tests.stores import count, new_job, opened
from tests.waiting import wait_until

MANY = 200


@pytest.fixture
def store(postgres_url: str) -> Iterator[Store]:
    with opened(postgres_url) as store:
        yield store


def enqueue_beside(store: Store, url: str, jobs: list[NewJob], end: Callable[[Any], None]) -> BaseException | None:
    """Enqueue the jobs while a rival has written jobs of their ids and not committed; what was raised."""
    errors: list[BaseException] = []

    def enqueue() -> None:
        try:
            store.enqueue(jobs)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    rivals = [new_job(f"j{n}", args="[1]") for n in range(MANY)]
    with psycopg.connect(libpq_url(url)) as rival, psycopg.connect(libpq_url(url), autocommit=True) as admin:
        assert copying.copy(rival, copying.statement("dbqueue_jobs"), rivals)
        thread = threading.Thread(target=enqueue)
        thread.start()
        waiting = b"SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        wait_until(lambda: admin.execute(waiting).fetchone() is not None, what="the wait for the rival")
        end(rival)
        thread.join(60)
        assert not thread.is_alive()
    return errors[0] if errors else None


def batch(args: str = "[1]") -> list[NewJob]:
    # Backwards: they are written in the order of ids all the same.
    return [new_job(f"j{n}", args=args) for n in reversed(range(MANY // 2, MANY + MANY // 2))]


def test_the_same_jobs_from_two_sides(store: Store, postgres_url: str) -> None:
    assert enqueue_beside(store, postgres_url, batch(), lambda rival: rival.commit()) is None
    assert count(store) == MANY + MANY // 2


def test_a_rival_that_rolls_back(store: Store, postgres_url: str) -> None:
    assert enqueue_beside(store, postgres_url, batch("[2]"), lambda rival: rival.rollback()) is None
    assert count(store, "args::text = '[2]'") == count(store) == MANY


def test_other_jobs_of_the_same_ids(store: Store, postgres_url: str) -> None:
    error = enqueue_beside(store, postgres_url, batch("[2]"), lambda rival: rival.commit())
    assert isinstance(error, DuplicateTaskId)
    assert count(store) == MANY


@pytest.mark.parametrize("committed", [True, False])
def test_a_lost_connection_enqueues_them_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """Before the commit or after it: the caller cannot know, and tries again with the same ids."""
    copy = copying.copy
    cut: list[int] = []

    def cut_once(driver: Any, statement: str, jobs: Any) -> bool:
        if cut:
            return copy(driver, statement, jobs)
        cut.append(driver.info.backend_pid)
        with psycopg.connect(libpq_url(postgres_url), autocommit=True) as admin:
            if committed:
                assert copy(driver, statement, jobs)
            admin.execute("SELECT pg_terminate_backend(%s, 60000)", cut)
        return bool(copy(driver, statement, jobs))

    monkeypatch.setattr(copying, "copy", cut_once)
    with DBQueue("cut", broker=postgres_url, set_as_current=False) as app:
        app.task(name="shop.pack")(lambda n: n)
        results = app.tasks["shop.pack"].enqueue_many([(n,) for n in range(MANY)])
        assert cut
        assert count(app.database.store) == len({result.id for result in results}) == MANY
