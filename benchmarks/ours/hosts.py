"""Workers on several hosts, on one database: network namespaces serve as hosts, with links to the database's own.

They share this machine's processors: the row shows what the way over several hosts costs, not what more of them give.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

from benchmarks.measuring import Figures
from benchmarks.ours import table
from benchmarks.ours.worker import COMMAND, started
from benchmarks.resources import cpu_seconds

WORKERS = 4


class Place(NamedTuple):
    host: str
    url: str
    """Of the database, from there."""


def hosts(jobs: int) -> Figures:
    """The rate of four workers on one host, and on four; a host's connections, and the database's time for a job."""
    places = [Place(*place.split("=", 1)) for place in sys.argv[4:]]
    one = _rate(places[:1], jobs)
    four = _rate(places, jobs)
    return {
        "one_host_rate": one["rate"],
        "four_hosts_rate": four["rate"],
        "four_to_one": four["rate"] / one["rate"],
        "connections_a_host": four["connections"] / len(places),
        "database_us_a_job": four["database_us"],
    }


def _rate(places: list[Place], jobs: int) -> Figures:
    table.clear()
    with started(_command(places[number % len(places)], number) for number in range(WORKERS)):
        table.wait_for_workers(WORKERS)
        mark = table.clock()
        table.insert_pending(jobs)
        server = table.server()
        before = cpu_seconds(server)
        table.wake()
        table.wait_until_idle()
        used = cpu_seconds(server) - before
        connections = int(table.scalar("SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL"))
    return {"rate": table.rate_since(mark, jobs), "connections": connections, "database_us": used / jobs * 1e6}


def _command(place: Place, number: int) -> list[str]:
    inside = ["ip", "netns", "exec", place.host, "env", f"DBQUEUE_BENCH_URL={place.url}"]
    return [*inside, *COMMAND, "-c", "1", "-n", f"bench{number}@{place.host}"]
