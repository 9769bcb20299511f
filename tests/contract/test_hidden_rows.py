"""Rows of a workflow that row-level security hides from the worker's role for a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dbqueue.store.base import Store
from tests.contract.workflows import chain, chord, claimed_ids, done, overdue
from tests.servers import PostgresServer
from tests.stores import TestWorker, row, run_sql


@pytest.fixture
def database_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    with postgres_server.database(postgres_template) as url:
        yield url


@pytest.fixture(autouse=True)
def _limited(store: Store, worker: TestWorker) -> Iterator[None]:
    """The worker is of a role that policies hold for."""
    driver: psycopg.Connection[Any] = worker.session._driver  # type: ignore[attr-defined]
    role = f"limited_{os.getpid()}"
    driver.execute(f"CREATE ROLE {role}")
    driver.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    driver.execute("ALTER TABLE dbqueue_jobs ENABLE ROW LEVEL SECURITY")
    driver.execute(f"SET ROLE {role}")
    yield
    driver.execute("RESET ROLE")
    driver.execute(f"DROP OWNED BY {role}")
    driver.execute(f"DROP ROLE {role}")


def test_a_body_that_was_hidden_as_its_last_header_ended(store: Store, worker: TestWorker) -> None:
    run_sql(store, "CREATE POLICY half ON dbqueue_jobs USING (id <> 'body')")
    store.enqueue_workflow(chord(["a", "b"], "body"))
    worker.settle(*map(done, worker.claim()))
    assert row(store, "body")["waits_for"] == 2
    run_sql(store, "ALTER TABLE dbqueue_jobs DISABLE ROW LEVEL SECURITY")
    assert overdue(worker) == {"body": True}
    assert worker.session.let_go(["body"]) == {"body": "PENDING"}
    assert claimed_ids(worker) == ["body"]


def test_what_is_only_hidden_is_not_taken_for_gone(store: Store, worker: TestWorker) -> None:
    run_sql(store, "CREATE POLICY half ON dbqueue_jobs USING (id <> 'a')")
    store.enqueue_workflow(chain("a", "b"))
    assert claimed_ids(worker) == []
    assert worker.session.overdue() == ({}, False)
