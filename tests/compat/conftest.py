"""What the canvas tests share: the application of `tests.worker.canvas_tasks`, and a worker for it.

`t` are the tasks of an application whose worker serves all tests of a module, on a database of the
module; `lone` those of an application without a worker, on a database of the test's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import DBQueue
from tests.waiting import wait_until
from tests.worker.canvas_tasks import NOTES, make_app, namespace, notes
from tests.workers import WorkerProcess, starting


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def canvas_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A new, migrated database of each kind, for the module."""
    if request.param == "postgres":
        server = request.getfixturevalue("postgres_server")
        with server.database(request.getfixturevalue("postgres_template")) as url:
            yield url
    else:
        path = tmp_path_factory.mktemp("canvas") / "jobs.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"


@pytest.fixture(scope="module")
def notes_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the tasks of the module leave notes."""
    path = tmp_path_factory.mktemp("notes") / "notes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NOTES, str(path))
        yield path


@pytest.fixture(scope="module")
def module_app(canvas_url: str, notes_path: Path) -> Iterator[DBQueue]:
    with make_app(canvas_url) as app:
        yield app


@pytest.fixture(scope="module")
def canvas_worker(module_app: DBQueue, canvas_url: str) -> Iterator[WorkerProcess]:
    with starting() as start:
        yield start(canvas_url, module="tests.worker.canvas_tasks", concurrency=2)


@pytest.fixture
def canvas_app(module_app: DBQueue) -> DBQueue:
    module_app.set_current()
    return module_app


@pytest.fixture
def t(canvas_app: DBQueue) -> Any:
    """The tasks and the primitives by name."""
    return SimpleNamespace(**namespace(canvas_app))


@pytest.fixture
def noted(notes_path: Path) -> Callable[[int], list[Any]]:
    """`noted(2)` waits for two notes of this test and returns all there are, sorted as text."""
    notes_path.write_text("")

    def noted(number: int) -> list[Any]:
        wait_until(lambda: len(notes(notes_path)) >= number, what=f"{number} notes")
        return sorted(notes(notes_path), key=repr)

    return noted


@pytest.fixture
def lone_app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        app.set_current()
        yield app


@pytest.fixture
def lone(lone_app: DBQueue) -> Any:
    """The tasks of an application without a worker."""
    return SimpleNamespace(**namespace(lone_app))
