"""Row D5 between hosts: network namespaces, one of which loses its link to the database's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from dbqueue.store import migrate
from tests.chaos.campaign import Campaign, task_of
from tests.chaos.conftest import EVERY_POOL, Judge, Tries
from tests.namespaces import Link, NoNamespaces, linked_hosts
from tests.servers import GIVEN_URL, OwnServer
from tests.workers import WorkerProcess

PLACES = ("far", "near")


@contextlib.contextmanager
def hosts() -> Iterator[tuple[list[Link], str]]:
    """The links of two hosts to the database's, and the URL of a migrated database there; a skip where none can be."""
    if GIVEN_URL:
        pytest.skip("the PostgreSQL of DBQUEUE_TEST_POSTGRES_URL is on a host of its own")
    with contextlib.ExitStack() as stack:
        try:
            links = stack.enter_context(linked_hosts(*PLACES))
        except NoNamespaces as reason:
            pytest.skip(str(reason))
        server = OwnServer(inside=links[0].database.command, listen=[link.address for link in links])
        stack.callback(server.close)
        url = stack.enter_context(server.database())
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        migrate.upgrade(engine)
        engine.dispose()
        yield links, url


def start_on(it: Campaign, link: Link, pool: str) -> WorkerProcess:
    """A worker on the host at the end of this link."""
    url = sa.make_url(it.url)
    there = url.set(host=link.address, port=int(str(url.query["port"])), query={})
    by_link = there.render_as_string(hide_password=False)
    return it.start_worker(pool, url=by_link, options={"inside": link.host.command})


@pytest.mark.chaos("D5")
@pytest.mark.parametrize("pool", EVERY_POOL)
@pytest.mark.parametrize("length", ["shorter", "longer"])
def test_a_host_that_loses_its_link(campaign: Judge, tries: Tries, length: str, pool: str) -> None:
    """Neither end is told: what the host ran has ended there before another host begins it."""
    for _ in tries.until(short=1):
        with hosts() as (links, url), campaign(url, counts=1, worker_lease_seconds=3.0) as it:
            far, near = (start_on(it, link, pool) for link in links)
            it.enqueue_many(6, 0.3, task=task_of(pool))
            it.producing(0.1, task=task_of(pool), pause=0.03)
            it.wait_running(6)
            it.fault("its link is down", far)
            with links[0].cut():
                if length == "longer":
                    far.says("No heartbeat reached the database")
                    near.says("is dead")
                it.wait_running(6)
            it.heal()
            if length == "longer" and pool != "solo":  # which has ended, if a task ran at its deadline
                far.says("Registered anew: claiming again")
            it.stop_workers()
