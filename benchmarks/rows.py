"""What is measured: a row for each bar, what its figures are, and where the bar lies.

Absolute figures move from machine to machine, so most bars are ratios to a peer that was measured in the same
run, in turns with dbqueue.
"""

from __future__ import annotations

from dataclasses import dataclass

OURS = "dbqueue, PostgreSQL"
OURS_SQLITE = "dbqueue, SQLite"
OURS_ON_HOSTS = "dbqueue, several hosts"
BARE_LOOP = "bare supervisor loop"
BARE_SQL = "bare batched SQL"
GRAPHILE = "graphile-worker"
PGQUEUER = "PgQueuer"
CELERY = "Celery, Redis"
HUEY = "Huey, SQLite without fsync"


@dataclass(frozen=True, slots=True)
class Bar:
    """`figure` of `own` is at least (or at most) `limit`, or `limit` times the figure of another contestant."""

    figure: str
    limit: float
    at_least: bool
    peer: str | None = None
    """Whose figure the limit is a multiple of."""
    peer_figure: str | None = None
    """Which of its figures, if not the same."""
    own: str = OURS

    @property
    def text(self) -> str:
        """Such as `rate at least 2 x PgQueuer`."""
        relation = "at least" if self.at_least else "at most"
        if self.peer is None:
            return f"{self.figure} {relation} {self.limit:,g}"
        whose = f"own {self.peer_figure}" if self.peer == self.own else self.peer
        return f"{self.figure} {relation} {self.limit:g} x {whose}"


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    unit: str
    jobs: int
    """How many; contestants that are slower get a share of them."""
    short: int
    """How many where the row shall only be seen to run."""
    full: int | None = None
    """How many the bar is about, where that takes long."""
    bars: tuple[Bar, ...] = ()
    figure: str = "rate"
    """The one that is compared and plotted."""
    beside: tuple[tuple[str, str], ...] = ()
    """Where nobody else takes part: figures that are plotted beside each other, each with its name."""


ROWS = {
    "drain": Row(
        "no-op jobs that wait already, through one worker with two processes",
        "jobs/s, more is better",
        jobs=60_000,
        short=3_000,
        bars=(
            Bar("rate", 1.0, at_least=True, peer=GRAPHILE),
            Bar("rate", 2.0, at_least=True, peer=PGQUEUER),
            Bar("rate", 20.0, at_least=True, peer=CELERY),
            Bar("rate", 0.6, at_least=True, peer=BARE_LOOP),
        ),
    ),
    "budget": Row(
        "microseconds of processor for each job of a drain, by where they are spent",
        "us a job, less is better",
        jobs=200_000,
        short=40_000,
        figure="total_us",
        beside=(
            ("worker, main thread", "main_us"),
            ("worker, rounds", "threads_us"),
            ("its processes", "children_us"),
            ("PostgreSQL", "database_us"),
        ),
    ),
    "bulk": Row(
        "enqueue of many (`rate`: enqueue_many, `group`: group.apply_async)",
        "jobs/s, more is better",
        jobs=50_000,
        short=2_000,
        bars=(
            Bar("rate", 100_000, at_least=True),
            Bar("group", 100_000, at_least=True),
            Bar("rate", 2.0, at_least=True, peer=PGQUEUER),
        ),
    ),
    "single": Row(
        "delay() one by one",
        "calls/s, more is better",
        jobs=2_000,
        short=200,
        bars=(Bar("rate", 1.5, at_least=True, peer=CELERY),),
    ),
    "round_trip": Row(
        "delay().get() on an idle queue",
        "ms, less is better",
        jobs=300,
        short=50,
        figure="p50",
        bars=(
            Bar("p50", 1.0, at_least=False, peer=CELERY),
            Bar("p99", 3.0, at_least=False, peer=OURS, peer_figure="p50"),
        ),
    ),
    "round_trip_sqlite": Row(
        "delay().get() on an idle queue, SQLite",
        "ms, less is better",
        jobs=300,
        short=50,
        figure="p50",
        bars=(Bar("p50", 10.0, at_least=False, own=OURS_SQLITE),),
    ),
    "drain_sqlite": Row(
        "no-op jobs that wait already, on SQLite, two processes",
        "jobs/s, more is better",
        jobs=60_000,
        short=3_000,
        bars=(Bar("rate", 1.0, at_least=True, own=OURS_SQLITE, peer=HUEY),),
    ),
    "long": Row(
        "jobs that sleep 100 ms, 20 threads; the time to the last end beside the ideal (seconds x jobs / threads)",
        "x ideal, less is better",
        jobs=1_000,
        short=200,
        figure="to_ideal",
        bars=(Bar("to_ideal", 1.03, at_least=False),),
    ),
    "fairness": Row(
        "one job of 5 s amid short ones of 1 ms, two processes: the longest wait beyond a short job's turn",
        "ms, less is better",
        jobs=1_000,
        short=1_000,
        figure="longest_wait_ms",
        bars=(Bar("longest_wait_ms", 100.0, at_least=False),),
    ),
    "idle": Row(
        "an idle worker with two processes, for this many seconds: CPU, transactions a second, connections",
        "% of a core, less is better",
        jobs=20,
        short=4,
        figure="cpu_percent",
        bars=(
            Bar("cpu_percent", 0.5, at_least=False),
            Bar("queries", 2.0, at_least=False),
            Bar("connections", 2, at_least=False),
        ),
    ),
    "huge": Row(
        "drain on an empty table, with this many rows that wait, and with this many finished rows",
        "jobs/s, more is better",
        jobs=1_000_000,
        short=10_000,
        full=10_000_000,
        bars=(Bar("pending", 0.9, at_least=True), Bar("finished", 0.9, at_least=True)),
        beside=(
            ("on an empty table", "rate"),
            ("with rows that wait", "pending_rate"),
            ("with finished rows", "finished_rate"),
        ),
    ),
    "xmin": Row(
        "drain before, during and after a snapshot that is held for this many seconds at 2,000 jobs/s",
        "jobs/s, more is better",
        jobs=60,
        short=3,
        full=1_800,
        bars=(Bar("held", 0.9, at_least=True), Bar("after", 0.95, at_least=True)),
        beside=(("before", "rate"), ("while it is held", "held_rate"), ("after it", "after_rate")),
    ),
    "queues": Row(
        "no-op jobs in this many queues, through one worker that takes all of them, and in one queue",
        "jobs/s, more is better",
        jobs=1_000,
        short=50,
        beside=(("in one queue", "one_rate"), ("in all of them", "rate")),
    ),
    "due": Row(
        "this many jobs that are due at one moment: how late the first begins and the last ends",
        "jobs/s, more is better",
        jobs=100_000,
        short=2_000,
    ),
    "workers": Row(
        "no-op jobs through 4 workers with a process each, and through 64",
        "jobs/s, more is better",
        jobs=60_000,
        short=3_000,
        bars=(Bar("many_to_few", 1.0, at_least=True),),
        beside=(("4 workers", "rate"), ("64 workers", "many_rate")),
    ),
    "workers_sqlite": Row(
        "no-op jobs on one SQLite file, through one worker with a process, and through 4",
        "jobs/s, more is better",
        jobs=60_000,
        short=3_000,
        beside=(("one worker", "one_rate"), ("4 workers", "rate")),
    ),
    "hosts": Row(
        "no-op jobs through 4 workers with a process each, on one host, and on four, the database on another",
        "jobs/s, more is better",
        jobs=100_000,
        short=2_000,
        figure="four_hosts_rate",
        bars=(
            Bar("four_to_one", 0.9, at_least=True, own=OURS_ON_HOSTS),
            Bar("connections_a_host", 2, at_least=False, own=OURS_ON_HOSTS),
        ),
        beside=(("on one host", "one_host_rate"), ("on four", "four_hosts_rate")),
    ),
    "memory": Row(
        "supervisor and one child, idle (proportional set size), and their growth over this many jobs",
        "MB, less is better",
        jobs=100_000,
        short=2_000,
        full=1_000_000,
        figure="idle_mb",
        bars=(Bar("idle_mb", 1.0, at_least=False, peer=CELERY), Bar("growth", 1.05, at_least=False)),
    ),
    "startup": Row(
        "CPU time of `import` and of the command's `--help`, Python's own start included; and how long after its start"
        " a worker with two processes has ended its first job",
        "ms, less is better",
        jobs=5,
        short=2,
        figure="import_ms",
        bars=(Bar("import_ms", 100.0, at_least=False), Bar("help_ms", 200.0, at_least=False)),
    ),
    "chord": Row(
        "a chord of this many headers, from the call to its body's result; and the cost of a header beside that in a"
        " chord of a tenth",
        "us for each header, less is better",
        jobs=10_000,
        short=1_000,
        figure="us_per_header",
        bars=(Bar("to_a_tenth", 1.2, at_least=False),),
    ),
}
