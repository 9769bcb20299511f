"""Workers on both databases, and the application that sends them work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue
from tests.worker.sample import make_app
from tests.workers import WorkerProcess, starting


@pytest.fixture
def start_worker() -> Iterator[Callable[..., WorkerProcess]]:
    with starting() as start:
        yield start


@pytest.fixture
def app(database_url: str) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


@pytest.fixture
def send(app: DBQueue) -> Callable[..., Any]:
    """`send("add", 1, 2, countdown=1)`: a call of a task of the sample."""

    def send(name: str, *args: Any, **options: Any) -> Any:
        return app.tasks[f"sample.{name}"].apply_async(args, **options)

    return send


@pytest.fixture
def path(tmp_path: Path) -> Callable[[str], str]:
    return lambda name: str(tmp_path / name)
