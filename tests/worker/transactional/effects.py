"""Transactional tasks as a test asks for them: their application, on a database with the table `effects`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from dbqueue.contrib.testing.worker import start_worker
from tests.stores import count, run_sql
from tests.waiting import wait_until
from tests.worker.transactional.tasks import EFFECTS, App, make_app


@contextlib.contextmanager
def opened_app(url: str, **settings: Any) -> Iterator[App]:
    with make_app(url, **settings) as app:
        run_sql(app.database.store, EFFECTS)
        yield app
        for session in app.extra.get("sessions", ()):
            session.close()
        app.extra["engine"].dispose()


def effects(app: App) -> list[str]:
    with app.database.store.connect() as connection:
        return sorted(connection.execute(sa.text("SELECT name FROM effects")).scalars())


def call(app: App, name: str, *args: Any, **options: Any) -> Any:
    return app.tasks[f"t.{name}"].apply_async(args, **options)


def work_off(app: App, *, but: int = 0) -> None:
    """Have a worker run all jobs but so many, which cannot end."""
    with start_worker(app, perform_ping_check=False):
        wait_until(lambda: count(app.database.store, "finished_at IS NULL") == but, what="the ends of the jobs")
