"""What importing costs: a module that nobody uses is memory of every worker, and time of every start."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("dbqueue", "sqlalchemy psycopg sqlite3 click asyncio dbqueue.app"),
        ("dbqueue.cli", "sqlalchemy psycopg alembic dbqueue.store"),
        ("dbqueue.app", "sqlalchemy psycopg alembic click dbqueue.store"),
        (
            (
                "dbqueue.services.workers, dbqueue.store.postgres.store, dbqueue.store.sqlite.store, "
                "dbqueue.store.transactions.async_tasks"
            ),
            "sqlalchemy.orm sqlalchemy.ext.asyncio alembic greenlet pydantic yaml msgpack",
        ),
        (
            "dbqueue.services.workers, dbqueue.store.postgres.store, dbqueue.store.transactions.tasks",
            "sqlite3 sqlalchemy.dialects.sqlite dbqueue.store.sqlite.store",
        ),
    ],
)
def test_imports_leave_out_what_they_may_not_need(modules: str, absent: str) -> None:
    program = f"import sys, {modules}; print(*[name for name in {absent.split()} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
