"""An application with migrations of its own by alembic, in the same database as ours."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from dbqueue.store import compatibility, migrate, tables

ENV = """
import sqlalchemy as sa
from alembic import context
from dbqueue.store.migrate import include_name

metadata = sa.MetaData()
sa.Table("orders", metadata, sa.Column("id", sa.Integer, primary_key=True))

engine = sa.create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=sa.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=metadata, {options})
    with context.begin_transaction():
        context.run_migrations()
"""

MAKO = """
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
def upgrade():
    ${upgrades if upgrades else "pass"}
def downgrade():
    ${downgrades if downgrades else "pass"}
"""

REVISION = """
import sqlalchemy as sa
from alembic import op
{imports}

revision = "a1"
down_revision = None

def upgrade():
    {before}
    op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True))

def downgrade():
    op.drop_table("orders")
"""


class Host:
    """The application: a folder with its env.py and one revision."""

    def __init__(self, folder: Path, url: str, *, options: str, imports: str = "", before: str = "pass") -> None:
        versions = folder / "host" / "versions"
        versions.mkdir(parents=True)
        (folder / "host" / "env.py").write_text(ENV.format(options=options))
        (folder / "host" / "script.py.mako").write_text("import sqlalchemy as sa\nfrom alembic import op\n" + MAKO)
        (versions / "a1_orders.py").write_text(REVISION.format(imports=imports, before=before))
        self.versions = versions
        self.config = Config(stdout=io.StringIO())
        self.config.set_main_option("script_location", str(folder / "host"))
        self.config.set_main_option("path_separator", "os")
        self.config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))

    def autogenerate(self) -> str:
        """The text of the revision that alembic proposes."""
        before = set(self.versions.glob("*.py"))
        command.revision(self.config, message="proposal", autogenerate=True)
        (new,) = set(self.versions.glob("*.py")) - before
        return new.read_text()


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(empty_database_url, poolclass=sa.NullPool)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("ours_first", [True, False])
def test_autogenerate_overlooks_our_tables(
    tmp_path: Path, engine: sa.Engine, empty_database_url: str, ours_first: bool
) -> None:
    host = Host(tmp_path, empty_database_url, options="include_name=include_name")
    if ours_first:
        migrate.upgrade(engine)
    command.upgrade(host.config, "head")
    migrate.upgrade(engine)
    proposal = host.autogenerate()
    assert "dbqueue" not in proposal
    assert proposal.count("pass") == 2
    assert migrate.check(engine).is_current


def test_autogenerate_would_drop_our_tables_without_it(
    tmp_path: Path, engine: sa.Engine, empty_database_url: str
) -> None:
    host = Host(tmp_path, empty_database_url, options="")
    command.upgrade(host.config, "head")
    migrate.upgrade(engine)
    assert "op.drop_table('dbqueue_jobs')" in host.autogenerate()


def test_autogenerate_over_all_schemas(tmp_path: Path, empty_postgres_url: str) -> None:
    engine = sa.create_engine(empty_postgres_url, poolclass=sa.NullPool)
    host = Host(tmp_path, empty_postgres_url, options="include_name=include_name, include_schemas=True")
    command.upgrade(host.config, "head")
    migrate.upgrade(engine, schema="queue")
    assert "dbqueue" not in host.autogenerate()


@pytest.mark.parametrize("database", ["postgres", "sqlite"])
def test_run_on_from_a_revision_of_the_application(
    tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    """Ours run inside one of theirs, whose own `op` works on afterwards."""
    url = request.getfixturevalue(f"empty_{database}_url")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    host = Host(
        tmp_path,
        url,
        options="include_name=include_name",
        imports="from dbqueue.store import migrate",
        before="migrate.run_on(op.get_bind())",
    )
    command.upgrade(host.config, "head")
    assert migrate.check(engine).is_current
    names = set(sa.inspect(engine).get_table_names())
    assert names == {"orders", "alembic_version", compatibility.VERSION_TABLE, *tables.metadata.tables}
    command.upgrade(host.config, "head")


def test_version_tables_are_apart(tmp_path: Path, engine: sa.Engine, empty_database_url: str) -> None:
    host = Host(tmp_path, empty_database_url, options="include_name=include_name")
    command.upgrade(host.config, "head")
    migrate.upgrade(engine)
    migrate.downgrade(engine)
    assert set(sa.inspect(engine).get_table_names()) == {"orders", "alembic_version"}
    with engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "a1"


def test_include_name_is_about_our_tables_only() -> None:
    assert not migrate.include_name("dbqueue_jobs", "table", {})
    assert not migrate.include_name(compatibility.VERSION_TABLE, "table", {})
    assert migrate.include_name("orders", "table", {})
    assert migrate.include_name(None, "schema", {})
    assert migrate.include_name("dbqueue_of_mine", "schema", {})
