"""What `dbqueue doctor` says of a server that is set up to lose jobs, and of one that is nearly full: real ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.store.postgres import health
from dbqueue.store.postgres.partitions.periods import Period
from tests.cli.commands import Commands
from tests.servers import GIVEN_URL, OwnServer, PostgresServer, libpq_url
from tests.stores import enqueued, new_job, opened, partitioned, run_sql
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


def test_a_server_that_takes_no_writes(postgres_url: str, tmp_path: Path) -> None:
    """As a standby, or an operator's setting for the time of a switch."""
    commands = Commands(tmp_path, postgres_url)
    with opened(postgres_url) as store, store.connect() as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    checks = commands.json("doctor", code=1)["checks"]
    (advice,) = [each["advice"] for each in checks if each["level"] == "error"]
    assert "default_transaction_read_only" in advice


def test_statements_that_the_server_breaks_off(postgres_url: str, tmp_path: Path) -> None:
    url = sa.make_url(postgres_url)
    for timeout, warned in (("999", True), ("1000", False), ("0", False)):
        short = url.update_query_dict({"options": f"-c statement_timeout={timeout}"})
        found = warnings(Commands(tmp_path, short.render_as_string(hide_password=False)))
        told = [message for message in found if message.startswith(f"statement_timeout is {timeout} ms for this user")]
        assert bool(told) is warned


def test_pages_that_hold_next_to_nothing(postgres_url: str, tmp_path: Path) -> None:
    """Of rows that were deleted and cleared away: no dead row tells of them."""
    many = "INSERT INTO dbqueue_jobs (id, task, args) SELECT 'job-' || n, 't', to_json(repeat('x', 900))"
    with opened(postgres_url) as store:
        run_sql(store, "ALTER TABLE dbqueue_jobs SET (autovacuum_enabled = off)")  # it would come at any moment
        run_sql(store, f"{many} FROM generate_series(1, 80000) n")
        run_sql(store, "DELETE FROM dbqueue_jobs WHERE id <> 'job-80000'")
    assert not any("MB for" in each for each in warnings(Commands(tmp_path, postgres_url))), "nobody has counted"
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE dbqueue_jobs")
        connection.execute("SELECT pg_stat_force_next_flush()")
        found = warnings(Commands(tmp_path, postgres_url))
        (message,) = [each for each in found if each.startswith("the table takes ")]
        assert message.endswith(" MB for 1 row")
        assert "VACUUM FULL" in found[message]
        connection.execute("SELECT pg_stat_reset()")  # as a crash does
        assert not any("MB for" in each for each in warnings(Commands(tmp_path, postgres_url)))
        connection.execute("VACUUM (FULL, ANALYZE) dbqueue_jobs")
    assert not any("MB for" in each for each in warnings(Commands(tmp_path, postgres_url)))


def test_partitions_that_are_missing(postgres_url: str, tmp_path: Path) -> None:
    commands = Commands(tmp_path, postgres_url)
    partitioned(postgres_url)
    assert not any("partition" in message for message in warnings(commands))
    with opened(postgres_url) as store:
        today = datetime.now(UTC)
        for days in range(3):
            run_sql(store, f"DROP TABLE {Period.of('day', today + timedelta(days=days)).table}")
        enqueued(store, "order-17")
    found = warnings(commands)
    (message,) = [each for each in found if "partition" in each]
    assert message.startswith(f"there is no partition for jobs from {today:%Y-%m-%d}")
    assert found[message].endswith("run `dbqueue migrate --partition day` each day")
    with opened(postgres_url) as store:
        enqueued(store)
    assert any(each.startswith("the DEFAULT partition has 1 job with an id") for each in warnings(commands))
    commands.ok("migrate", "--partition", "day")
    assert not any("there is no partition" in message for message in warnings(commands))


def test_no_partition_is_left(postgres_url: str, tmp_path: Path) -> None:
    """None but that which all jobs go to then. Workers do not know of what size to make any."""
    commands = Commands(tmp_path, postgres_url)
    partitioned(postgres_url)
    with opened(postgres_url) as store:
        today = datetime.now(UTC)
        for days in range(3):
            run_sql(store, f"DROP TABLE {Period.of('day', today + timedelta(days=days)).table}")
        run_sql(store, "DROP TABLE dbqueue_jobs_before")
    found = warnings(commands)  # once: the message names this minute
    (message,) = [each for each in found if "partition" in each]
    assert message.startswith("there is no partition for jobs from ")
    assert "run `dbqueue migrate --partition day`" in found[message]
    commands.ok("migrate", "--partition", "week")
    assert not any("partition" in message for message in warnings(commands))


def test_too_many_partitions(postgres_url: str, tmp_path: Path) -> None:
    partitioned(postgres_url, days=30)
    (message,) = [each for each in warnings(Commands(tmp_path, postgres_url)) if "partition" in each]
    assert message.startswith("the table of jobs has 32 partitions")


def test_the_health_of_partitions(postgres_url: str, tmp_path: Path) -> None:
    """The numbers are those of all partitions; what one lacks, the table lacks."""
    commands = Commands(tmp_path, postgres_url)
    partitioned(postgres_url)
    with opened(postgres_url) as store:
        run_sql(store, "ALTER TABLE dbqueue_jobs_default RESET (fillfactor)")
        run_sql(store, "ALTER TABLE dbqueue_jobs_before SET (autovacuum_enabled = off)")
        found = warnings(commands)
        assert "the table lacks storage parameters that dbqueue sets: fillfactor" in found
        assert "autovacuum is off" in found
        for word, off in (("no", True), ("false", True), ("0", True), ("of", True), ("on", False), ("1", False)):
            run_sql(store, f"ALTER TABLE dbqueue_jobs_before SET (autovacuum_enabled = {word})")
            assert (health.examine(store).settings["autovacuum"] == "off") == off, word
        store.enqueue([new_job() for _ in range(100)])
        run_sql(store, "ANALYZE dbqueue_jobs")
        run_sql(store, "ALTER TABLE dbqueue_jobs_default SET (fillfactor = 70)")
        run_sql(store, "ALTER TABLE dbqueue_jobs_before RESET (autovacuum_enabled)")
        healthy = health.examine(store)
    assert (healthy.live_rows, healthy.analysed, healthy.thought_empty) == (100, True, False)
    assert (healthy.missing_storage, healthy.missing_indexes) == ([], [])


def test_a_policy_that_may_hide_rows_from_workers(
    postgres_server: PostgresServer, postgres_template: str, tmp_path: Path
) -> None:
    role = f"limited_{os.getpid()}"
    with postgres_server.database(postgres_template) as url, opened(url) as store:
        for statement in (
            f"CREATE ROLE {role}",
            f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}",
            "ALTER TABLE dbqueue_jobs ENABLE ROW LEVEL SECURITY",
        ):
            run_sql(store, statement)
        try:
            assert not health.examine(store).hidden, "the user is above it"
            as_role = sa.make_url(url).update_query_dict({"options": f"-c role={role}"})
            found = warnings(Commands(tmp_path, as_role.render_as_string(hide_password=False)))
            (message,) = [each for each in found if "policy" in each]
            assert message.startswith("a policy holds for this user on the table dbqueue_jobs")
        finally:
            run_sql(store, f"DROP OWNED BY {role}")
            run_sql(store, f"DROP ROLE {role}")
