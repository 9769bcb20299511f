"""What `dbqueue doctor` says of snapshots that are held for a standby's queries, with one that really follows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from dbqueue import DBQueue
from dbqueue.cli.findings import Finding, Level
from dbqueue.cli.server_checks import examine_server
from dbqueue.cli.target import Target
from dbqueue.store import migrate
from tests.servers import OwnServer, Standby, libpq_url
from tests.waiting import wait_until

SLOT = "for_reports"


@pytest.fixture
def pair() -> Iterator[tuple[OwnServer, Standby]]:
    """A primary, and a standby that has a slot there and tells what its queries need."""
    with contextlib.ExitStack() as stack:
        primary = OwnServer()
        stack.callback(primary.close)
        primary.execute(
            f"SELECT pg_create_physical_replication_slot('{SLOT}')",
            # What is set in this way is copied with all else.
            f"ALTER SYSTEM SET primary_slot_name = '{SLOT}'",
            "ALTER SYSTEM SET hot_standby_feedback = on",
            "ALTER SYSTEM SET wal_receiver_status_interval = 1",
        )
        standby = Standby(primary)
        stack.callback(standby.close)
        yield primary, standby


@pytest.fixture
def target(pair: tuple[OwnServer, Standby]) -> Iterator[Target]:
    with DBQueue("standbys", broker=pair[0].url, set_as_current=False) as app:
        target = Target(app)
        migrate.upgrade(target.raw_store.engine)
        yield target
        target.raw_store.close()


def found(target: Target, text: str = "") -> list[Finding]:
    return [each for each in examine_server(target) if each.check == "snapshots" and text in each.message]


def test_a_snapshot_that_a_standby_needs(
    pair: tuple[OwnServer, Standby], target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, standby = pair
    with psycopg.connect(libpq_url(standby.url)) as report:
        report.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        report.execute("SELECT 1")
        for _ in range(3):
            primary.execute("SELECT pg_current_xact_id()")
        assert found(target) == [], "three transactions are no matter"
        monkeypatch.setattr("dbqueue.cli.server_checks.OLD_TRANSACTIONS", 2)
        wait_until(lambda: found(target), what="the standby's feedback")
        (warned,) = found(target)
        assert warned.level is Level.WARNING
        assert warned.message.startswith(f"the replication slot {SLOT} holds a snapshot that is older than ")
        assert "pg_drop_replication_slot" in (warned.advice or "")

        standby.execute("ALTER SYSTEM RESET primary_slot_name", "SELECT pg_reload_conf()")
        wait_until(lambda: found(target, "(nobody reads from it)"), what="a slot without a reader")
        wait_until(lambda: found(target, "the replication client "), what="the feedback of a standby without a slot")
        (warned,) = found(target, "the replication client ")
        assert "hot_standby_feedback" in (warned.advice or "")

        primary.execute("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'", "SELECT pg_reload_conf()")
        for _ in range(4):
            primary.execute("SELECT pg_current_xact_id()", "SELECT pg_switch_wal()", "CHECKPOINT")
        wait_until(lambda: not found(target, SLOT), what="a slot that is lost, and holds nothing")
    wait_until(lambda: found(target) == [], what="the end of the query to be told")
