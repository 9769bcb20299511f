"""The command line on each database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import Commands

NOWHERE = "postgresql://postgres@127.0.0.1:1/nowhere"
"""No server has this port."""


@pytest.fixture
def dbqueue(tmp_path: Path, database_url: str) -> Iterator[Commands]:
    """The command on a migrated database of each kind."""
    yield from _commands(tmp_path, database_url)


@pytest.fixture
def dbqueue_sqlite(tmp_path: Path, sqlite_url: str) -> Iterator[Commands]:
    """The command on SQLite, where the database makes no difference."""
    yield from _commands(tmp_path, sqlite_url)


@pytest.fixture
def dbqueue_postgres(tmp_path: Path, postgres_url: str) -> Iterator[Commands]:
    yield from _commands(tmp_path, postgres_url)


@pytest.fixture
def dbqueue_nowhere(tmp_path: Path) -> Iterator[Commands]:
    """The command on a server that does not answer."""
    yield from _commands(tmp_path, NOWHERE)


def _commands(folder: Path, url: str) -> Iterator[Commands]:
    commands = Commands(folder, url)
    yield commands
    commands.close()
