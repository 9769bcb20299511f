"""The databases of the tests: real ones, new for every test."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa

from dbqueue.store import migrate
from tests.servers import NoServer, PostgresServer, open_server

IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

# How long an example takes says how busy the machine is, and nothing else. A run judges a change by the same
# examples each time; the search for new ones is a developer's: `--hypothesis-profile=search`.
for profile, same_each_time in (("here", True), ("search", False)):
    hypothesis.settings.register_profile(
        profile,
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        print_blob=True,
        derandomize=same_each_time,
    )
hypothesis.settings.register_profile(
    "fuzz", max_examples=20_000, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), print_blob=True
)
hypothesis.settings.load_profile("here")

# A shell without job control starts a command in the background with SIGINT ignored, and every
# process that a test starts would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TEMPLATE = f"dbqueue_template_{os.getpid()}"
"""A migrated database that tests copy, which takes a tenth of migrating one."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has logged may hold half characters, which no report can carry from one process to the other."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server; where there is none a skip, but in CI a failure."""
    try:
        server = open_server()
    except NoServer as error:
        if IN_CI:
            pytest.fail(f"no PostgreSQL, and CI is set: {error}", pytrace=False)
        pytest.skip(f"no PostgreSQL: {error}")
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a migrated database that nobody is connected to."""
    drop = f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)"
    postgres_server.execute(drop, f"CREATE DATABASE {TEMPLATE}")
    _migrate(sa.make_url(postgres_server.url).set(database=TEMPLATE))
    yield TEMPLATE
    postgres_server.start()
    postgres_server.execute(drop)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrate(sa.URL.create("sqlite", database=str(path)))
    return path


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """A new, migrated PostgreSQL database."""
    with postgres_server.database(postgres_template) as url:
        yield url


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """A new PostgreSQL database without tables."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A new, migrated SQLite file."""
    path = tmp_path / "jobs.db"
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def empty_sqlite_url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'empty.db'}"


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A new, migrated database of each kind."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """A new database of each kind without tables."""
    url: str = request.getfixturevalue(f"empty_{request.param}_url")
    return url


def _migrate(url: sa.URL) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    migrate.upgrade(engine)
    engine.dispose()
