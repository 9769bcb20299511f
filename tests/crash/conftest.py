"""The crash tests' databases are their own: they stop servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.workers import WorkerProcess, starting


@pytest.fixture
def start_worker() -> Iterator[Callable[..., WorkerProcess]]:
    with starting() as start:
        yield start
