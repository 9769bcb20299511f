"""Who takes part, in which rows, and with how large a share of the jobs, so that all take about as long."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.environments import Environments
from benchmarks.rows import (
    BARE_LOOP,
    BARE_SQL,
    CELERY,
    GRAPHILE,
    HUEY,
    OURS,
    OURS_ON_HOSTS,
    OURS_SQLITE,
    PGQUEUER,
    ROWS,
)
from benchmarks.servers import Servers

HERE: Final = Path(__file__).parent
LIMIT_SECONDS: Final = 300
FULL_LIMIT_SECONDS: Final = 2 * 3600
"""For a row with more jobs than its own: ten million rows are minutes of work, a snapshot is held for thirty."""
NO_OPS: Final = ("drain", "bulk", "single")


class Missing(Exception):
    """A contestant cannot take part; the text says why."""


@dataclass(frozen=True, slots=True)
class Contestant:
    name: str
    command: tuple[str, ...]
    addresses: tuple[str, ...]
    rows: Mapping[str, float]
    """The share of a row's jobs that it gets."""

    def run(self, row: str, jobs: int) -> dict[str, float]:
        """Its figures; the program is given row, jobs and addresses."""
        share = max(1, int(jobs * self.rows[row]))
        limit = LIMIT_SECONDS if jobs <= ROWS[row].jobs else FULL_LIMIT_SECONDS
        command = [*self.command, row, str(share), *self.addresses]
        # Peers import benchmarks/measuring.py as a file of its own.
        environment = {**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"}
        # In a session of its own, so that whatever it has started ends with it, also when this run is interrupted.
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        ) as process:
            try:
                output, errors = process.communicate(timeout=limit)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode:
            raise RuntimeError(f"{self.name} failed at {row}:\n{output[-1000:]}\n{errors[-3000:]}")
        figures: dict[str, float] = json.loads(output.splitlines()[-1])
        return figures


def ours(servers: Servers) -> list[Contestant]:
    """dbqueue and the limits: they need nothing that `make bench` does not install anyway, but for the row of hosts."""
    python = sys.executable
    program = (python, "-m", "benchmarks.ours")
    on_files = {name: 1.0 for name in ROWS if name.endswith("_sqlite")}
    rows = {name: 1.0 for name in ROWS if name != "hosts" and name not in on_files}
    hosts = [Contestant(OURS_ON_HOSTS, program, servers.hosts, {"hosts": 1.0})] if servers.hosts else []
    return [
        *hosts,
        Contestant(OURS, program, (servers.postgres,), rows),
        Contestant(OURS_SQLITE, program, (servers.sqlite,), on_files),
        Contestant(BARE_LOOP, (python, "-m", "benchmarks.limits.bare_loop"), (servers.postgres,), {"drain": 1.0}),
        Contestant(BARE_SQL, (python, "-m", "benchmarks.limits.bare_sql"), (servers.postgres,), {"drain": 1.0}),
    ]


def peers(servers: Servers, environments: Environments) -> tuple[list[Contestant], list[str]]:
    """Those that can take part, and why the others cannot."""
    present, missing = [], []
    for name, make in PEERS.items():
        try:
            present.append(make(name, servers, environments))
        except Missing as error:
            missing.append(f"{name}: {error}")
    return present, missing


def _script(name: str) -> str:
    return str(HERE / "peers" / name)


def _celery(name: str, environments: Environments, broker: str, backend: str, rows: Mapping[str, float]) -> Contestant:
    return Contestant(name, (_python(environments), _script("celery_.py")), (broker, backend), rows)


def _celery_redis(name: str, servers: Servers, environments: Environments) -> Contestant:
    rows = {"drain": 0.05, "bulk": 0.05, "single": 1, "round_trip": 1, "long": 1, "idle": 1, "memory": 0, "startup": 1}
    return _celery(name, environments, _redis(servers, 0), _redis(servers, 1), rows | {"chord": 0.05})


def _celery_rabbitmq(name: str, servers: Servers, environments: Environments) -> Contestant:
    broker = _needed(servers.rabbitmq, "no rabbitmq-server is installed, or it did not start")
    rows = {"drain": 0.05, "bulk": 0.05, "single": 1, "round_trip": 1}
    return _celery(name, environments, broker, _redis(servers, 2), rows)


def _celery_database(name: str, servers: Servers, environments: Environments) -> Contestant:
    url = servers.database("celery").replace("postgresql://", "postgresql+psycopg://", 1)
    # A round trip takes a second there: it polls.
    rows = {"drain": 0.02, "bulk": 0.02, "single": 0.5, "round_trip": 0.03}
    return _celery(name, environments, f"sqla+{url}", f"db+{url}", rows)


def _dramatiq(name: str, servers: Servers, environments: Environments) -> Contestant:
    command = (_python(environments), _script("dramatiq_.py"))
    return Contestant(name, command, (_redis(servers, 3),), {"drain": 0.1, "single": 1, "round_trip": 1})


def _rq(name: str, servers: Servers, environments: Environments) -> Contestant:
    command = (_python(environments), _script("rq_.py"))
    return Contestant(name, command, (_redis(servers, 4),), {"drain": 0.02, "bulk": 0.05, "single": 1})


def _huey(name: str, servers: Servers, environments: Environments, *more: str) -> Contestant:
    file = f"{servers.folder}/huey{''.join(more)}.sqlite3"
    rows = {"drain_sqlite": 0.02 if more else 0.3, "round_trip_sqlite": 1}
    return Contestant(name, (_python(environments), _script("huey_.py")), (file, *more), rows)


def _huey_durable(name: str, servers: Servers, environments: Environments) -> Contestant:
    return _huey(name, servers, environments, "fsync")


def _pgqueuer(name: str, servers: Servers, environments: Environments) -> Contestant:
    command = (_python(environments), _script("pgqueuer_.py"))
    return Contestant(name, command, (servers.database("pgqueuer"),), {"drain": 0.4, "bulk": 1, "single": 1})


def _procrastinate(name: str, servers: Servers, environments: Environments) -> Contestant:
    command = (_python(environments), _script("procrastinate_.py"))
    rows = {"drain": 0.02, "bulk": 0.5, "single": 0.5}
    return Contestant(name, command, (servers.database("procrastinate"),), rows)


def _oban(name: str, servers: Servers, environments: Environments) -> Contestant:
    python = _needed(environments.oban_python, "it needs Python 3.12 or later, and there is none")
    rows = {"drain": 0.15, "bulk": 0.2, "single": 0.5}
    return Contestant(name, (python, _script("oban_.py")), (servers.database("oban"),), rows)


def _graphile(name: str, servers: Servers, environments: Environments) -> Contestant:
    command = _node(environments, "graphile_worker.mjs")
    return Contestant(name, command, (servers.database("graphile"),), dict.fromkeys(NO_OPS, 1))


def _pg_boss(name: str, servers: Servers, environments: Environments) -> Contestant:
    return Contestant(name, _node(environments, "pg_boss.mjs"), (servers.database("pgboss"),), dict.fromkeys(NO_OPS, 1))


def _redis(servers: Servers, database: int) -> str:
    return f"{_needed(servers.redis, 'no redis-server is installed')}/{database}"


def _needed(value: str | None, why_not: str) -> str:
    if value is None:
        raise Missing(why_not)
    return value


def _python(environments: Environments) -> str:
    return _needed(environments.python, "its virtual environment could not be made")


def _node(environments: Environments, script: str) -> tuple[str, str]:
    folder = Path(_needed(environments.node, "no node and npm, or `npm install` failed"))
    return str(environments.node_program), str(folder / script)


PEERS: Final = {
    GRAPHILE: _graphile,
    "pg-boss": _pg_boss,
    PGQUEUER: _pgqueuer,
    "Oban for Python": _oban,
    "Procrastinate": _procrastinate,
    CELERY: _celery_redis,
    "Celery, RabbitMQ": _celery_rabbitmq,
    "Celery, SQLAlchemy transport": _celery_database,
    "Dramatiq, Redis": _dramatiq,
    "RQ, Redis": _rq,
    HUEY: _huey,
    "Huey, SQLite with fsync": _huey_durable,
}
