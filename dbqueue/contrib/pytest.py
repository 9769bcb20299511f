"""Fixtures for pytest: Celery's, under dbqueue's names. Installed with dbqueue, as a plugin of pytest.

Override a fixture of the configuration in your `conftest.py`, as in Celery's guide "Testing":

    @pytest.fixture(scope="session")
    def dbqueue_config():
        return {"broker_url": "postgresql://localhost/test"}

Every test session imports this module, so it imports nothing of dbqueue until a fixture is used.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.services.workers import Worker

NO_WORKER: Final = os.environ.get("NO_WORKER")
"""Set, and not empty: the worker's fixtures give None, for a worker that runs elsewhere."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "dbqueue(**overrides): settings of the application for this test")


@pytest.fixture(scope="session")
def dbqueue_config() -> Mapping[str, Any]:
    """Override: settings of the tests' application. Without a URL its database is in memory."""
    return {}


@pytest.fixture(scope="session")
def dbqueue_parameters() -> Mapping[str, Any]:
    """Override: arguments with which the tests' application is made, such as `task_cls`."""
    return {}


@pytest.fixture(scope="session")
def dbqueue_enable_logging() -> bool:
    """Override: for ported tests; logging is always pytest's own."""
    return False


@pytest.fixture(scope="session")
def dbqueue_includes() -> Sequence[str]:
    """Override: modules to import when a worker starts."""
    return ()


@pytest.fixture(scope="session")
def dbqueue_class_tasks() -> Sequence[Any]:
    """Override: tasks as classes or instances, to register with the session's application."""
    return ()


@pytest.fixture(scope="session")
def dbqueue_worker_pool() -> str:
    """Override: the pool of the tests' worker; 'solo' runs tasks in a thread of this process."""
    return "solo"


@pytest.fixture(scope="session")
def dbqueue_worker_parameters() -> Mapping[str, Any]:
    """Override: options of the tests' worker, such as `queues` or `shutdown_timeout`."""
    return {}


@pytest.fixture(scope="session")
def use_dbqueue_app_trap() -> bool:
    """Override: True makes any use of the current application an error."""
    return False


@contextmanager
def _app(request: pytest.FixtureRequest, *, current: bool) -> Iterator[DBQueue]:
    from dbqueue.contrib.testing.app import IN_MEMORY, TestApp, setup_default_app

    value = request.getfixturevalue
    mark = request.node.get_closest_marker("dbqueue")
    config = {**value("dbqueue_config"), **(mark.kwargs if mark else {})}
    trap = value("use_dbqueue_app_trap")
    parameters = {"database": IN_MEMORY}
    if value("dbqueue_worker_pool") != "solo":
        # Its processes cannot see a database in this one's memory.
        folder = value("tmp_path_factory").mktemp("dbqueue")
        parameters["database"] = f"sqlite:///{folder / 'jobs.db'}"
    app = TestApp(
        config=config, enable_logging=value("dbqueue_enable_logging"), **{**parameters, **value("dbqueue_parameters")}
    )
    with setup_default_app(app, use_trap=trap):
        if current and not trap:
            app.set_default()
            app.set_current()
        yield app


@contextmanager
def _worker(request: pytest.FixtureRequest, app: DBQueue) -> Iterator[Worker | None]:
    from dbqueue.contrib.testing.worker import start_worker

    if NO_WORKER:
        yield None
        return
    for module in request.getfixturevalue("dbqueue_includes"):
        importlib.import_module(module)
    pool = request.getfixturevalue("dbqueue_worker_pool")
    with start_worker(app, pool=pool, **request.getfixturevalue("dbqueue_worker_parameters")) as worker:
        yield worker


@pytest.fixture
def dbqueue_app(request: pytest.FixtureRequest) -> Iterator[DBQueue]:
    """An application for this test, with the settings of `dbqueue_config` and of the marker `dbqueue`."""
    with _app(request, current=False) as app:
        yield app


@pytest.fixture
def dbqueue_worker(request: pytest.FixtureRequest, dbqueue_app: DBQueue) -> Iterator[Worker | None]:
    """A worker for the application of this test, in a thread; it stops when the test ends."""
    with _worker(request, dbqueue_app) as worker:
        yield worker


@pytest.fixture(scope="session")
def dbqueue_session_app(request: pytest.FixtureRequest) -> Iterator[DBQueue]:
    """An application for the whole session: the current and the default one."""
    with _app(request, current=True) as app:
        yield app


@pytest.fixture(scope="session")
def dbqueue_session_worker(request: pytest.FixtureRequest, dbqueue_session_app: DBQueue) -> Iterator[Worker | None]:
    """A worker for the whole session, in a thread."""
    for task in request.getfixturevalue("dbqueue_class_tasks"):
        dbqueue_session_app.register_task(task)
    with _worker(request, dbqueue_session_app) as worker:
        yield worker


@pytest.fixture
def depends_on_current_app(dbqueue_app: DBQueue) -> None:
    """Makes the application of this test the current one."""
    dbqueue_app.set_current()
