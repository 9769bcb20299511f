"""The jobs and the workers.

Written out in full, not taken from `dbqueue.store.tables`: that module follows the newest
revision, and this one must keep its meaning. The columns' reasons are told there.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations
from sqlalchemy.dialects import postgresql, sqlite

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Name = sa.String().with_variant(postgresql.TEXT(collation="C"), "postgresql").with_variant(sqlite.TEXT(), "sqlite")
Json = sa.Text().with_variant(postgresql.JSON(), "postgresql")
Time = sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
Lease = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")

STORAGE = (
    "fillfactor = 70",  # room on each page, so that completions stay heap-only updates
    "autovacuum_vacuum_scale_factor = 0.02",  # most rows are finished: a fifth of them dead is far too late
    "autovacuum_analyze_scale_factor = 0.05",
    "autovacuum_vacuum_cost_delay = 0",  # short when it comes often, late when it sleeps
)


def upgrade(op: Operations, schema: str | None) -> None:
    on_sqlite = op.get_context().dialect.name == "sqlite"
    now = sa.text("(strftime('%Y-%m-%d %H:%M:%f', 'now'))" if on_sqlite else "now()")
    generated_id = sa.text("(lower(hex(randomblob(16))))" if on_sqlite else "(gen_random_uuid()::text)")

    op.create_table(
        "dbqueue_jobs",
        sa.Column("id", Name, primary_key=True, server_default=generated_id),
        sa.Column("task", Name, nullable=False),
        sa.Column("queue", Name, nullable=False, server_default="celery"),
        sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("status", Name, nullable=False, server_default="PENDING"),
        sa.Column("created_at", Time, nullable=False, server_default=now),
        sa.Column("eta", Time, comment="not before, as asked"),
        sa.Column("ready_at", Time, server_default=now, comment="claimable from then; NULL: not at all"),
        sa.Column("started_at", Time),
        sa.Column("finished_at", Time),
        sa.Column("expires_at", Time),
        sa.Column("revoked_at", Time, comment="revoked while it ran: it may end, and does not run again"),
        sa.Column("retries", sa.Integer, nullable=False, server_default="0", comment="asked for by the task"),
        sa.Column(
            "losses", sa.Integer, nullable=False, server_default="0", comment="runs that ended with their process"
        ),
        sa.Column("worker", Name, comment="dbqueue_workers.id"),
        sa.Column("lease", Lease, comment="the right to complete: a random token for each claim"),
        sa.Column(
            "redeliver", sa.Boolean, nullable=False, server_default=sa.true(), comment="run again if a run is lost"
        ),
        sa.Column("blocked_reason", sa.Text, comment="why a waiting job has no ready_at"),
        sa.Column("args", Json, nullable=False, server_default="[]"),
        sa.Column("kwargs", Json, nullable=False, server_default="{}"),
        sa.Column("headers", Json),
        sa.Column("options", Json, comment="how to run it: ignore_result, limits, ..."),
        sa.Column("content_type", sa.Text, comment="NULL: JSON, in args and kwargs"),
        sa.Column("content", sa.LargeBinary, comment="args and kwargs in another serializer"),
        sa.Column("result", Json, comment="the value, or {exc_type, exc_message, exc_module}"),
        sa.Column(
            "result_content", sa.LargeBinary, comment="the value in another serializer; result has its content_type"
        ),
        sa.Column("traceback", sa.Text),
        sa.Column("state", sa.Text, comment="set by update_state() while STARTED"),
        sa.Column("meta", Json),
        sa.Column("workflow_id", Name, comment="jobs with edges that were written together have one"),
        sa.Column("parent_id", Name),
        sa.Column("root_id", Name, comment="NULL on a root"),
        sa.Column("group_id", Name),
        sa.Column(
            "waits_for", sa.Integer, nullable=False, server_default="0", comment="predecessors that have not ended"
        ),
        sa.Column(
            "inputs", sa.Boolean, nullable=False, server_default=sa.false(), comment="takes predecessors' results"
        ),
        sa.Column("successors", sa.Boolean, nullable=False, server_default=sa.false(), comment="others wait for it"),
        sa.Column("limit_key", Name, comment="the limit that this job counts against"),
        sa.Column("held_at", Time, comment="since when it waits for a permit of its limit"),
        sa.Column("permit", Name, comment="the limit that has admitted it, until it ends or waits again"),
        sa.CheckConstraint(
            "(status IN ('PENDING', 'RETRY') AND lease IS NULL AND finished_at IS NULL"
            " AND (ready_at IS NULL) = (blocked_reason IS NOT NULL))"
            " OR (status = 'STARTED' AND lease IS NOT NULL AND worker IS NOT NULL"
            " AND ready_at IS NULL AND finished_at IS NULL)"
            " OR (status IN ('SUCCESS', 'FAILURE', 'REVOKED') AND ready_at IS NULL AND finished_at IS NOT NULL)",
            name="dbqueue_jobs_waiting_started_or_finished",
        ),
        sa.CheckConstraint(
            "(held_at IS NOT NULL) = (coalesce(blocked_reason, '') = 'limit')"
            " AND (held_at IS NULL OR (limit_key IS NOT NULL AND status IN ('PENDING', 'RETRY')))"
            " AND (permit IS NULL OR status = 'STARTED')",
            name="dbqueue_jobs_held_or_permitted",
        ),
        sa.CheckConstraint("eta IS NULL OR ready_at IS NULL OR ready_at >= eta", name="dbqueue_jobs_not_before_eta"),
        schema=schema,
    )
    if not on_sqlite:
        quote = op.get_context().dialect.identifier_preparer.quote
        table = "dbqueue_jobs" if schema is None else f"{quote(schema)}.dbqueue_jobs"
        op.execute(f"ALTER TABLE {table} SET ({', '.join(STORAGE)})")
    op.create_index(
        "dbqueue_jobs_claim",
        "dbqueue_jobs",
        ["queue", sa.text("priority DESC"), "ready_at", "id"],
        schema=schema,
        postgresql_where=sa.text("ready_at IS NOT NULL"),
        sqlite_where=sa.text("ready_at IS NOT NULL"),
    )
    op.create_index(
        "dbqueue_jobs_held",
        "dbqueue_jobs",
        ["limit_key", "queue", "priority", "held_at", "id"],
        schema=schema,
        postgresql_where=sa.text("held_at IS NOT NULL"),
        sqlite_where=sa.text("held_at IS NOT NULL"),
    )
    op.create_index(
        "dbqueue_jobs_permit",
        "dbqueue_jobs",
        ["permit"],
        schema=schema,
        postgresql_where=sa.text("permit IS NOT NULL"),
        sqlite_where=sa.text("permit IS NOT NULL"),
    )
    for name, column in (("workflow", "workflow_id"), ("parent", "parent_id")):
        op.create_index(
            f"dbqueue_jobs_{name}",
            "dbqueue_jobs",
            [column],
            schema=schema,
            postgresql_where=sa.text(f"{column} IS NOT NULL"),
            sqlite_where=sa.text(f"{column} IS NOT NULL"),
        )
    op.create_table(
        "dbqueue_edges",
        sa.Column("predecessor", Name, primary_key=True, comment="dbqueue_jobs.id"),
        sa.Column("successor", Name, primary_key=True, comment="dbqueue_jobs.id: it waits for the predecessor"),
        sa.Column("event", Name, primary_key=True, comment="of the predecessor: success, error, or end (either)"),
        sa.Column("place", sa.Text, comment="of the result among the successor's arguments, as JSON; NULL: not passed"),
        sa.CheckConstraint("event IN ('success', 'error', 'end')", name="dbqueue_edges_event"),
        schema=schema,
    )
    op.create_index("dbqueue_edges_successor", "dbqueue_edges", ["successor"], schema=schema)
    op.create_table(
        "dbqueue_groups",
        sa.Column("id", Name, primary_key=True),
        sa.Column("created_at", Time, nullable=False, server_default=now),
        sa.Column("result", Json, nullable=False, comment="the ids that belong to it, as GroupResult.save wrote them"),
        schema=schema,
    )
    op.create_table(
        "dbqueue_workers",
        sa.Column("id", Name, primary_key=True, comment="name#random: one run of a worker"),
        sa.Column("name", Name, nullable=False),
        sa.Column("hostname", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("pool", sa.Text, nullable=False),
        sa.Column("concurrency", sa.Integer, nullable=False),
        sa.Column("queues", Json, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("lease_seconds", sa.Float, nullable=False, comment="dead when the heartbeat is older than this"),
        sa.Column("started_at", Time, nullable=False, server_default=now),
        sa.Column("heartbeat_at", Time, nullable=False, server_default=now),
        sa.Column("closed_at", Time, comment="stopped, or declared dead"),
        schema=schema,
    )
    op.create_table(
        "dbqueue_control",
        sa.Column("id", Name, primary_key=True),
        sa.Column("command_id", Name, comment="on a reply: the command that it answers"),
        sa.Column("worker", Name, comment="on a reply: dbqueue_workers.id"),
        sa.Column("method", sa.Text, comment="on a command: revoke, ping, ..."),
        sa.Column("destination", Json, comment="on a command: which workers; NULL: all"),
        sa.Column("body", Json, nullable=False, comment="the arguments of a command, or what a reply says"),
        sa.Column("created_at", Time, nullable=False, server_default=now),
        sa.Column("expires_at", Time, nullable=False, comment="ignored from then on, and deleted by the next sender"),
        sa.CheckConstraint(
            "(method IS NOT NULL AND command_id IS NULL AND worker IS NULL)"
            " OR (method IS NULL AND command_id IS NOT NULL AND worker IS NOT NULL)",
            name="dbqueue_control_command_or_reply",
        ),
        schema=schema,
    )
    op.create_table(
        "dbqueue_events",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True),
        sa.Column("body", Json, nullable=False, comment="type, hostname, timestamp, uuid, ..."),
        sa.Column("created_at", Time, nullable=False, server_default=now),
        schema=schema,
        sqlite_autoincrement=True,
    )
    op.create_table(
        "dbqueue_paused_queues",
        sa.Column("queue", Name, primary_key=True),
        sa.Column("paused_at", Time, nullable=False, server_default=now),
        schema=schema,
    )
    op.create_table(
        "dbqueue_limits",
        sa.Column("key", Name, primary_key=True),
        sa.Column("max_running", sa.Integer, comment="jobs at once; NULL: any number"),
        sa.Column("rate", sa.Text, comment="starts: 100/m; NULL: as fast as they come"),
        sa.Column("full_at", sa.Float, comment="when the rate's tokens are complete again, in seconds since 1970"),
        sa.Column("task", Name, comment="whose code says so"),
        sa.Column(
            "source", sa.Text, nullable=False, server_default="settings", comment="user: code does not change it"
        ),
        sa.Column("updated_at", Time, nullable=False, server_default=now),
        sa.CheckConstraint("max_running >= 0", name="dbqueue_limits_max_running"),
        sa.CheckConstraint("source IN ('settings', 'call', 'user')", name="dbqueue_limits_source"),
        schema=schema,
    )
    op.create_table(
        "dbqueue_unique_keys",
        sa.Column("key", Name, primary_key=True),
        sa.Column("job_id", Name, nullable=False, comment="the job that stands for all calls of this key"),
        sa.Column("until", Time, comment="its success stands until then; NULL: no longer than it runs"),
        schema=schema,
    )
    op.create_table(
        "dbqueue_schedules",
        sa.Column("name", Name, primary_key=True),
        sa.Column("task", Name, nullable=False),
        sa.Column(
            "schedule", sa.Text, nullable=False, comment="every 30 seconds | 30 7 * * mon-fri | solar sunset 59.9 10.7"
        ),
        sa.Column("timezone", sa.Text, comment="in which a crontab is read; NULL: the application's"),
        sa.Column("args", Json, nullable=False, server_default="[]"),
        sa.Column("kwargs", Json, nullable=False, server_default="{}"),
        sa.Column("options", Json, nullable=False, server_default="{}", comment="of the call: queue, expires, ..."),
        sa.Column("enabled", sa.Boolean, nullable=False, server_default=sa.true()),
        sa.Column(
            "misfire", sa.Text, nullable=False, server_default="once", comment="after downtime: skip, once or all"
        ),
        sa.Column(
            "source", sa.Text, nullable=False, server_default="user", comment="settings: removed when gone from them"
        ),
        sa.Column("app", Name, comment="the application whose settings name it"),
        sa.Column("next_due_at", Time, comment="NULL: beat is to plan it, or it is never due"),
        sa.Column("planned_from", sa.Text, comment="what next_due_at was reckoned from: an edit shows"),
        sa.Column("last_due_at", Time, comment="the last due time that fired"),
        sa.Column("total_run_count", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("problem", sa.Text, comment="why it does not fire"),
        sa.Column("created_at", Time, nullable=False, server_default=now),
        sa.Column("updated_at", Time, nullable=False, server_default=now, comment="by the settings or a command"),
        sa.CheckConstraint("misfire IN ('skip', 'once', 'all')", name="dbqueue_schedules_misfire"),
        sa.CheckConstraint("source IN ('settings', 'user')", name="dbqueue_schedules_source"),
        schema=schema,
    )


def downgrade(op: Operations, schema: str | None) -> None:
    op.drop_table("dbqueue_schedules", schema=schema)
    op.drop_table("dbqueue_unique_keys", schema=schema)
    op.drop_table("dbqueue_limits", schema=schema)
    op.drop_table("dbqueue_paused_queues", schema=schema)
    op.drop_table("dbqueue_events", schema=schema)
    op.drop_table("dbqueue_control", schema=schema)
    op.drop_table("dbqueue_workers", schema=schema)
    op.drop_table("dbqueue_groups", schema=schema)
    op.drop_table("dbqueue_edges", schema=schema)
    op.drop_table("dbqueue_jobs", schema=schema)
