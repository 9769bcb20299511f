"""The mark of the oldest code that may use these tables: older workers run on while a deployment goes on.

A revision that only adds leaves the mark alone; one that removes moves it: see `dbqueue.store.compatibility`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade(op: Operations, schema: str | None) -> None:
    op.add_column("dbqueue_alembic_version", sa.Column("oldest_code", sa.String(32)), schema=schema)
    versions = sa.table("dbqueue_alembic_version", sa.column("oldest_code"), schema=schema)
    op.execute(versions.update().values(oldest_code=op.inline_literal("0001")))


def downgrade(op: Operations, schema: str | None) -> None:
    op.drop_column("dbqueue_alembic_version", "oldest_code", schema=schema)
