"""Attacks on a queue of either kind; PostgreSQL where an attack needs its roles."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.workers import WorkerProcess, starting


@pytest.fixture
def start_worker() -> Iterator[Callable[..., WorkerProcess]]:
    with starting() as start:
        yield start
