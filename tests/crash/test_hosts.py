"""Workers on several hosts, one of which loses its link to the database in mid-load. Namespaces serve as hosts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from dbqueue.store import migrate
from tests.crash.test_kills import LEASE, ended
from tests.namespaces import Link, NoNamespaces, linked_hosts
from tests.servers import GIVEN_URL, NoServer, OwnServer
from tests.waiting import wait_until
from tests.worker.sample import make_app
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]

PLACES = ("far", "near")
JOBS = 600
LONG, LONG_SECONDS = 3, 4.0
"""The first jobs run for longer than a lease: those of the host that is cut off run at that moment."""
BUSY = 100
"""What is noted on each host before the link is cut."""


@pytest.fixture
def links() -> Iterator[list[Link]]:
    """Of the two workers' hosts to that of the database."""
    with contextlib.ExitStack() as stack:
        try:
            links = stack.enter_context(linked_hosts(*PLACES))
        except NoNamespaces as reason:
            pytest.skip(str(reason))
        yield links


@pytest.fixture
def server(links: list[Link]) -> Iterator[OwnServer]:
    if GIVEN_URL:
        pytest.skip("the PostgreSQL of DBQUEUE_TEST_POSTGRES_URL is on a host of its own")
    try:
        server = OwnServer(inside=links[0].database.command, listen=[link.address for link in links])
    except NoServer as reason:
        pytest.skip(str(reason))
    yield server
    server.close()


def test_a_host_that_loses_its_link_in_mid_load(
    links: list[Link], server: OwnServer, tmp_path: Path, start_worker: Start
) -> None:
    spans = tmp_path / "spans"
    with server.database() as url, make_app(url) as app:
        migrate.upgrade(app.database.store.engine)
        port = int(str(sa.make_url(url).query["port"]))
        workers = []
        for place, link in zip(PLACES, links, strict=True):
            by_link = sa.make_url(url).set(host=link.address, port=port, query={}).render_as_string(hide_password=False)
            options = {"inside": link.host.command, "environment": {"PLACE": place}, "settings": LEASE, "ready": False}
            workers.append(start_worker(by_link, **options))
        far, near = workers
        for worker in workers:
            worker.wait_ready()
        span = app.tasks["sample.span"]
        span.enqueue_many([(str(spans), n, LONG_SECONDS if n < LONG else 0.02) for n in range(JOBS)])
        wait_until(lambda: all(len(events(spans, place)) > BUSY for place in PLACES), what="work on both hosts")
        with links[0].cut():
            far.says("No heartbeat reached the database")
            near.says("of its jobs wait again")
            wait_until(lambda: any(len(places) > 1 for places in starts(spans).values()), what="a job's second run")
            assert ended(app)["SUCCESS"] < JOBS, "the link was cut too late: no fault in this run"
            healed = time.clock_gettime(time.CLOCK_MONOTONIC)
        far.says("registers anew")
        wait_until(lambda: ended(app) == {"SUCCESS": JOBS}, timeout=60, what="the end of all jobs")
        assert [worker.stop() for worker in workers] == [0, 0]
    runs = starts(spans)
    assert set(runs) == {str(n) for n in range(JOBS)}  # nothing lost, nothing invented
    again = {job: places for job, places in runs.items() if len(places) > 1}
    assert all(places[0][1] == "far" and len(places) == 2 for places in again.values()), "only what was cut off"
    # What the cut-off host did, it had done before another did it again: no two runs overlap.
    last = max(at for _, _, at in events(spans, "far") if at < healed)
    assert last < min(places[1][0] for places in again.values())


def events(path: Path, place: str) -> list[tuple[str, str, float]]:
    """What was noted there: start, runs or end; the job; and when."""
    lines = (line.split() for line in (path.read_text().splitlines() if path.exists() else ()))
    return [(what, job, float(at)) for what, job, where, at in lines if where == place]


def starts(path: Path) -> dict[str, list[tuple[float, str]]]:
    """When and where each job began, one time after the other."""
    found: dict[str, list[tuple[float, str]]] = {}
    for place in PLACES:
        for what, job, at in events(path, place):
            if what == "start":
                found.setdefault(job, []).append((at, place))
    return {job: sorted(each) for job, each in found.items()}
