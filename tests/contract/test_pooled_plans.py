"""PostgreSQL's plans of what is asked on pooled connections: enqueues, looks at jobs, an operator's changes.

The planner may do as it likes there. What is named by ids or keys is found by them, whatever it believes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import sqlalchemy as sa

from dbqueue.store import changes, revoking
from dbqueue.store.base import Store
from dbqueue.store.postgres import sql as postgres_sql
from dbqueue.store.postgres.work_session import PostgresWorkSession
from dbqueue.store.statements import Statement
from tests.contract import test_plans as plain
from tests.contract.test_plans import (
    IDS,
    LINK,
    OF_WORKFLOW_INDEXES,
    OF_WORKFLOWS,
    Driver,
    explain_text,
    fill,
    prepare,
    template_of,
)
from tests.contract.test_rare_plans import KEYS, LARGE
from tests.stores import new_job

session = plain.session

ROWS = 100_000
"""The server takes the pairs of a JSON object for a hundred: of fewer rows it would as well read them all."""

FEW = IDS[1:21]
"""As many as a call names, or an operator: for hundreds it may cost the same to read all."""

BY_BITMAP = {"Bitmap Heap Scan", "dbqueue_unique_keys_pkey"}


@pytest.fixture(autouse=True)
def of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "ROWS", ROWS)


def check(name: str, found: list[dict[str, Any]], statistics: str) -> None:
    plain.check(name, found, statistics, statistics, indexes=OF_WORKFLOW_INDEXES | BY_BITMAP)


@pytest.mark.parametrize("statistics", LARGE)
def test_plans_of_a_callers_statements(postgres_url: str, session: PostgresWorkSession, statistics: str) -> None:
    prepare(postgres_url, statistics)
    fill(postgres_url, "dbqueue_edges", LINK, statistics)
    fill(postgres_url, "dbqueue_unique_keys", KEYS, statistics)
    store = session._store
    with store.connect() as connection:
        driver = cast(Driver, connection.connection.driver_connection)
        for name, each in asked(store).items():
            check(name, explain_pooled(driver, each.sql, each.parameters), statistics)
        for name, more in OF_WORKFLOWS.items():
            pairs = (
                {"pairs": json.dumps(dict.fromkeys(FEW, "job-7" if name == "FIRE" else 1))} if "pairs" in more else {}
            )
            found = explain_pooled(driver, store.text(template_of(name)), {"ids": FEW, **more, **pairs})
            check(name, found, statistics)
    for name, change in CHANGES.items():
        with explained(store) as plans:
            change(store)
        assert plans
        for found in plans:
            check(name, found, statistics)


def asked(store: Store) -> dict[str, Statement]:
    """Of an enqueue: after a conflict, and about unique keys; and of looks at jobs."""
    jobs = [new_job(job_id, unique_key=f"key-{job_id}", unique_seconds=60.0) for job_id in FEW]
    by_id = {name: store.text(getattr(postgres_sql, name)) for name in ("FETCH_ONE", "FINISHED_ONE", "FORGET_ALONE")}
    by_ids = {name: store.text(getattr(postgres_sql, name)) for name in ("FETCH", "FINISHED")}
    return {
        "duplicates": store.inserts.duplicates(jobs),
        "TAKE_KEYS": store.inserts.take_keys(jobs, FEW),
        **{name: Statement(text, {"id": "job-7"}) for name, text in by_id.items()},
        **{name: Statement(text, {"ids": FEW}) for name, text in by_ids.items()},
    }


CHANGES: dict[str, Callable[[Store], Any]] = {
    "revoke": lambda store: revoking.revoke(store, ["job-0", *FEW]),  # the first is of no row
    "cancel": lambda store: changes.cancel(store, IDS[100:120]),
    "record": lambda store: changes.record(
        store, new_job(IDS[100]), status="SUCCESS", result="1", traceback=None, retries=0, worker="w"
    ),
    "set a state": lambda store: changes.set_state(store, "job-7", state="PACKED", meta="{}"),
}


@contextmanager
def explained(store: Store) -> Iterator[list[list[dict[str, Any]]]]:
    """The plans of what SQLAlchemy runs meanwhile, each just before it."""
    plans: list[list[dict[str, Any]]] = []

    def look(connection: sa.Connection, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "dbqueue_" in statement:
            plans.append(explain_pooled(cast(Driver, connection.connection.driver_connection), statement, parameters))

    sa.event.listen(store.engine, "before_cursor_execute", look)
    try:
        yield plans
    finally:
        sa.event.remove(store.engine, "before_cursor_execute", look)


def explain_pooled(driver: Driver, statement: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The driver prepares what it runs often, and then the server may make one plan for all values."""
    driver.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    return explain_text(driver, statement, parameters)
