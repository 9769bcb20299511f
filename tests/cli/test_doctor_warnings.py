"""What `dbqueue doctor` says of a server that is set up to lose jobs, and of one that is nearly full: real ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from tests.cli.commands import Commands
from tests.servers import GIVEN_URL, OwnServer, PostgresServer, libpq_url
from tests.waiting import wait_until

ROOM = 20
CLIENTS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
CARELESS = {
    "max_connections": str(ROOM),
    "superuser_reserved_connections": "0",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "fsync": "off",
    "autovacuum": "off",
}


@pytest.fixture(scope="module")
def careless(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database on a server that keeps no promise; asks for the suite's server to be skipped as it is."""
    if GIVEN_URL:
        pytest.skip("the settings of the PostgreSQL of DBQUEUE_TEST_POSTGRES_URL are not ours to change")
    server = OwnServer(settings=CARELESS)
    try:
        server.execute("CREATE DATABASE careless")
        yield sa.make_url(server.url).set(database="careless").render_as_string(hide_password=False)
    finally:
        server.close()


def warnings(commands: Commands) -> dict[str, str]:
    """What it warns of, each with what to do about it."""
    found = commands.json("doctor")["checks"]
    return {each["message"]: each["advice"] for each in found if each["level"] == "warning"}


def test_settings_that_lose_jobs(careless: str, tmp_path: Path) -> None:
    commands = Commands(tmp_path, careless)
    commands.ok("migrate")
    found = warnings(commands)
    for name in ("synchronous_commit", "full_page_writes", "fsync", "autovacuum"):
        assert found[f"{name} is off"].endswith("set it to on")
    assert not any("connections" in message for message in found)


def test_a_server_with_no_room_left(careless: str, tmp_path: Path) -> None:
    commands = Commands(tmp_path, careless)
    commands.ok("migrate")
    with contextlib.ExitStack() as crowd:
        first = crowd.enter_context(psycopg.connect(libpq_url(careless), autocommit=True))
        # The server notices a moment later that the commands before have gone.
        wait_until(lambda: first.execute(CLIENTS).fetchone() == (1,), what="the server to be empty")
        for _ in range(ROOM - 2):  # the last one is for `doctor`
            crowd.enter_context(psycopg.connect(libpq_url(careless)))
        (message,) = [each for each in warnings(commands) if "connections" in each]
        assert message == f"{ROOM} of {ROOM} connections are in use"


def test_settings_that_are_right(postgres_url: str, tmp_path: Path) -> None:
    found = warnings(Commands(tmp_path, postgres_url))
    assert "synchronous_commit is off" not in found
    assert "full_page_writes is off" not in found
    assert not any("connections" in message for message in found)
