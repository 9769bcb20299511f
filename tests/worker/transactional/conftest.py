"""The application of transactional tasks, on both databases or on PostgreSQL alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.worker.transactional.effects import opened_app
from tests.worker.transactional.tasks import App


@pytest.fixture
def app(database_url: str) -> Iterator[App]:
    with opened_app(database_url) as app:
        yield app


@pytest.fixture
def postgres_app(postgres_url: str) -> Iterator[App]:
    with opened_app(postgres_url) as app:
        yield app
