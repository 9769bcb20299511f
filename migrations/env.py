"""The environment of the `alembic` command, for this project's developers only.

Users migrate by `dbqueue migrate` or `dbqueue.store.migrate`, which run the revisions without this
file. Here: `alembic -x url=postgresql+psycopg://... revision --autogenerate --rev-id 0002 -m "..."`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import context
from alembic.operations import Operations

from dbqueue.store import compatibility, indexes, tables


def include_only_ours(name: str | None, kind: str, parents: object) -> bool:
    return kind != "table" or (name or "").startswith(tables.PREFIX)


def run() -> None:
    url = context.get_x_argument(as_dictionary=True).get("url") or context.config.get_main_option("sqlalchemy.url")
    if not url:
        raise SystemExit("give the database: alembic -x url=postgresql+psycopg://... <command>")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=indexes.metadata,
            version_table=compatibility.VERSION_TABLE,
            include_name=include_only_ours,
        )
        with context.begin_transaction():
            # Revisions take their operations as an argument: see `dbqueue.store.migrate`.
            context.run_migrations(op=Operations(context.get_context()), schema=None)


run()
