"""`python -m benchmarks.ours ROW JOBS URL`: dbqueue's figures of one row."""

from __future__ import annotations

import os
import sys

os.environ["DBQUEUE_BENCH_URL"] = sys.argv[3]

from benchmarks.measuring import main
from benchmarks.ours import budget, hosts, scale, small, throughput, waiting
from benchmarks.ours.app import app

app.database.store.ensure_schema()
main(
    {
        "drain": throughput.drain,
        "drain_sqlite": throughput.drain,
        "budget": budget.budget,
        "single": throughput.single,
        "bulk": throughput.bulk,
        "round_trip": throughput.round_trip,
        "round_trip_sqlite": throughput.round_trip,
        "chord": throughput.chord_,
        "long": waiting.long,
        "fairness": waiting.fairness,
        "idle": small.idle,
        "memory": small.memory,
        "startup": small.startup,
        "huge": scale.huge,
        "xmin": scale.xmin,
        "queues": scale.queues,
        "due": scale.due,
        "workers": scale.workers,
        "workers_sqlite": scale.workers_sqlite,
        "hosts": hosts.hosts,
    }
)
