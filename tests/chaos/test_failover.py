"""Row D8: the primary is killed under load, and its synchronous standby promoted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.store import migrate
from tests.chaos.campaign import task_of
from tests.chaos.conftest import EVERY_POOL, Judge, Tries
from tests.chaos.test_servers import LASTING
from tests.servers import GIVEN_URL, OwnServer, Standby, libpq_url
from tests.waiting import wait_until

DATABASE = "jobs"


class Pair:
    """A primary and the standby that its commits wait for; `url` names both."""

    def __init__(self, primary: OwnServer, standby: Standby) -> None:
        self.primary, self.standby = primary, standby
        one, other = (sa.make_url(server.url) for server in (primary, standby))
        # The standby first: a connection goes to the one that takes writes, whoever is named first.
        hosts = f"{other.host}:{other.port},{one.host}:{one.port}"
        self.url = f"postgresql://postgres@{hosts}/{DATABASE}?target_session_attrs=read-write"

    def fail_over(self) -> None:
        self.primary.stop("kill")
        self.standby.execute("SELECT pg_promote()")


@contextlib.contextmanager
def replicated(synchronous_commit: str) -> Iterator[Pair]:
    """Two servers, with a migrated database."""
    with contextlib.ExitStack() as stack:
        primary = OwnServer()
        stack.callback(primary.close)
        primary.execute(f"CREATE DATABASE {DATABASE}")
        engine = sa.create_engine(sa.make_url(primary.url).set(database=DATABASE), poolclass=sa.NullPool)
        migrate.upgrade(engine)
        engine.dispose()
        standby = Standby(primary)
        stack.callback(standby.close)
        primary.execute(
            "ALTER SYSTEM SET synchronous_standby_names = '*'",
            f"ALTER SYSTEM SET synchronous_commit = '{synchronous_commit}'",
            "SELECT pg_reload_conf()",
        )
        wait_until(lambda: is_followed(primary), what="the standby, to be waited for by commits")
        yield Pair(primary, standby)


def is_followed(primary: OwnServer) -> bool:
    with psycopg.connect(libpq_url(primary.url), autocommit=True) as connection:
        found = connection.execute("SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'").fetchall()
        return found == [("sync",)]


@pytest.mark.chaos("D8")
@pytest.mark.parametrize("pool", EVERY_POOL)
@pytest.mark.parametrize("synchronous_commit", ["on", "remote_apply"])
def test_a_standby_is_promoted(campaign: Judge, tries: Tries, pool: str, synchronous_commit: str) -> None:
    """Worker and producer go over by themselves; what either was told has happened is so on the new primary."""
    if GIVEN_URL:
        pytest.skip("the PostgreSQL of DBQUEUE_TEST_POSTGRES_URL may run elsewhere")
    for _ in tries.until(short=1):
        with replicated(synchronous_commit) as pair, campaign(pair.url, counts=1, **LASTING) as it:
            it.crashed = True
            it.start_worker(pool)
            it.producing(0.02, task=task_of(pool))
            it.workflows(3)
            it.wait_running(20)
            it.answers()
            it.fault("the primary's end, and another")
            pair.fail_over()
            it.wait_running(20)
            it.heal()
            it.stop_workers()
