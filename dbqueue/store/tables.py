"""The tables, as SQLAlchemy metadata: the one definition that migrations and queries follow.

A row of `dbqueue_jobs` is a job from its enqueue to the end of its result. Three decisions carry
the rest:

- `ready_at` is set only while the job may be claimed, and the claim index holds only those rows.
  No index names `status` or any other column that a completion changes, so that completions on
  PostgreSQL can be heap-only updates (84 % of them at a fillfactor of 70, none where an index
  predicate names `status`).
- The data columns are `json`, not `jsonb`: byte-faithful, and `->>` works on both.
- Every column has a default that makes `INSERT INTO dbqueue_jobs (task, args)` a whole job.

SQLite has no timestamps and gives a column declared JSON numeric affinity (the text `1` would come
back as a number), so both are TEXT there: times as `YYYY-MM-DD HH:MM:SS.mmm` in UTC, which sort
as text.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

PREFIX: Final = "dbqueue_"
"""Every table of dbqueue begins with this, which keeps it apart from the application's."""
CLAIM_INDEX: Final = f"{PREFIX}jobs_claim"
"""What every claim reads."""

# "C" compares bytes: faster than a locale's rules, and the same on every server.
Name = sa.String().with_variant(postgresql.TEXT(collation="C"), "postgresql").with_variant(sa.TEXT(), "sqlite")
Json = sa.Text().with_variant(postgresql.JSON(), "postgresql")
Time = sa.Text().with_variant(postgresql.TIMESTAMP(timezone=True), "postgresql")
Lease = sa.Text().with_variant(postgresql.UUID(as_uuid=False), "postgresql")


class database_now(FunctionElement[str]):  # noqa: N801 - reads as the SQL function that it is
    """The database's clock, in the form in which that database's tables keep time."""

    type = Time
    inherit_cache = True


@compiles(database_now)
def _now(element: database_now, compiler: SQLCompiler, **options: object) -> str:
    return "now()"


@compiles(database_now, "sqlite")
def _now_sqlite(element: database_now, compiler: SQLCompiler, **options: object) -> str:
    return "(strftime('%Y-%m-%d %H:%M:%f', 'now'))"


class generated_id(FunctionElement[str]):  # noqa: N801
    """An id for a row that plain SQL inserts; dbqueue's own enqueues bring theirs."""

    type = Name
    inherit_cache = True


@compiles(generated_id)
def _id(element: generated_id, compiler: SQLCompiler, **options: object) -> str:
    return "(gen_random_uuid()::text)"


@compiles(generated_id, "sqlite")
def _id_sqlite(element: generated_id, compiler: SQLCompiler, **options: object) -> str:
    return "(lower(hex(randomblob(16))))"


metadata = sa.MetaData()

jobs = sa.Table(
    f"{PREFIX}jobs",
    metadata,
    # identity
    sa.Column("id", Name, primary_key=True, server_default=generated_id()),
    sa.Column("task", Name, nullable=False),
    sa.Column("queue", Name, nullable=False, server_default="celery"),
    sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("status", Name, nullable=False, server_default="PENDING"),
    # time, all by the database's clock
    sa.Column("created_at", Time, nullable=False, server_default=database_now()),
    sa.Column("eta", Time, comment="not before, as asked"),
    sa.Column("ready_at", Time, server_default=database_now(), comment="claimable from then; NULL: not at all"),
    sa.Column("started_at", Time),
    sa.Column("finished_at", Time),
    sa.Column("expires_at", Time),
    sa.Column("revoked_at", Time, comment="revoked while it ran: it may end, and does not run again"),
    # the run
    sa.Column("retries", sa.Integer, nullable=False, server_default="0", comment="asked for by the task"),
    sa.Column("losses", sa.Integer, nullable=False, server_default="0", comment="runs that ended with their process"),
    sa.Column("worker", Name, comment="dbqueue_workers.id"),
    sa.Column("lease", Lease, comment="the right to complete: a random token for each claim"),
    sa.Column("redeliver", sa.Boolean, nullable=False, server_default=sa.true(), comment="run again if a run is lost"),
    sa.Column("blocked_reason", sa.Text, comment="why a waiting job has no ready_at"),
    # data
    sa.Column("args", Json, nullable=False, server_default="[]"),
    sa.Column("kwargs", Json, nullable=False, server_default="{}"),
    sa.Column("headers", Json),
    sa.Column("options", Json, comment="how to run it: ignore_result, limits, ..."),
    sa.Column("content_type", sa.Text, comment="NULL: JSON, in args and kwargs"),
    sa.Column("content", sa.LargeBinary, comment="args and kwargs in another serializer"),
    sa.Column("result", Json, comment="the value, or {exc_type, exc_message, exc_module}"),
    sa.Column("result_content", sa.LargeBinary, comment="the value in another serializer; result has its content_type"),
    sa.Column("traceback", sa.Text),
    sa.Column("state", sa.Text, comment="set by update_state() while STARTED"),
    sa.Column("meta", Json),
    # workflow
    sa.Column("workflow_id", Name, comment="jobs with edges that were written together have one"),
    sa.Column("parent_id", Name),
    sa.Column("root_id", Name, comment="NULL on a root"),
    sa.Column("group_id", Name),
    sa.Column("waits_for", sa.Integer, nullable=False, server_default="0", comment="predecessors that have not ended"),
    sa.Column("inputs", sa.Boolean, nullable=False, server_default=sa.false(), comment="takes predecessors' results"),
    sa.Column("successors", sa.Boolean, nullable=False, server_default=sa.false(), comment="others wait for it"),
    # limits
    sa.Column("limit_key", Name, comment="the limit that this job counts against"),
    sa.Column("held_at", Time, comment="since when it waits for a permit of its limit"),
    sa.Column("permit", Name, comment="the limit that has admitted it, until it ends or waits again"),
    sa.CheckConstraint(
        "(status IN ('PENDING', 'RETRY') AND lease IS NULL AND finished_at IS NULL"
        " AND (ready_at IS NULL) = (blocked_reason IS NOT NULL))"
        " OR (status = 'STARTED' AND lease IS NOT NULL AND worker IS NOT NULL"
        " AND ready_at IS NULL AND finished_at IS NULL)"
        " OR (status IN ('SUCCESS', 'FAILURE', 'REVOKED') AND ready_at IS NULL AND finished_at IS NOT NULL)",
        name=f"{PREFIX}jobs_waiting_started_or_finished",
    ),
    # A permit that outlives its run would be lost for ever: it is nothing but this column.
    sa.CheckConstraint(
        "(held_at IS NOT NULL) = (coalesce(blocked_reason, '') = 'limit')"
        " AND (held_at IS NULL OR (limit_key IS NOT NULL AND status IN ('PENDING', 'RETRY')))"
        " AND (permit IS NULL OR status = 'STARTED')",
        name=f"{PREFIX}jobs_held_or_permitted",
    ),
    # An INSERT that gives an eta and forgets ready_at would run at once: refused instead.
    sa.CheckConstraint("eta IS NULL OR ready_at IS NULL OR ready_at >= eta", name=f"{PREFIX}jobs_not_before_eta"),
)

JOBS_STORAGE: Final = {
    # Room on each page for the next version of its rows: completions stay heap-only updates.
    "fillfactor": "70",
    # By default a vacuum waits until a fifth of the table is dead. Here the live rows are mostly
    # finished jobs that are kept, so a fifth of them would be hours of dead entries at the head of
    # the claim index, which every claim reads past.
    "autovacuum_vacuum_scale_factor": "0.02",
    # The plans of a queue follow how much of it waits, which changes faster than a tenth of all rows.
    "autovacuum_analyze_scale_factor": "0.05",
    # Never pause inside a vacuum: it is short when it comes often, and late when it sleeps.
    "autovacuum_vacuum_cost_delay": "0",
}
"""Storage parameters of the jobs table on PostgreSQL (its manual's page of CREATE TABLE)."""

# SQLAlchemy 2.0 has no `postgresql_with` for tables (2.1 has): set by a statement of its own.
sa.event.listen(
    jobs,
    "after_create",
    sa.DDL(  # type: ignore[no-untyped-call, unused-ignore]  # untyped in SQLAlchemy 2.1
        f"ALTER TABLE %(fullname)s SET ({', '.join(f'{name} = {value}' for name, value in JOBS_STORAGE.items())})"
    ).execute_if(dialect="postgresql"),
)

edges = sa.Table(
    f"{PREFIX}edges",
    metadata,
    sa.Column("predecessor", Name, primary_key=True, comment="dbqueue_jobs.id"),
    sa.Column("successor", Name, primary_key=True, comment="dbqueue_jobs.id: it waits for the predecessor"),
    sa.Column("event", Name, primary_key=True, comment="of the predecessor: success, error, or end (either)"),
    sa.Column("place", sa.Text, comment="of the result among the successor's arguments, as JSON; NULL: not passed"),
    sa.CheckConstraint("event IN ('success', 'error', 'end')", name=f"{PREFIX}edges_event"),
)
"""Which job waits for which; see `workflows`. No foreign keys: each edge would cost two more probes, and locks."""

groups = sa.Table(
    f"{PREFIX}groups",
    metadata,
    sa.Column("id", Name, primary_key=True),
    sa.Column("created_at", Time, nullable=False, server_default=database_now()),
    sa.Column("result", Json, nullable=False, comment="the ids that belong to it, as GroupResult.save wrote them"),
)
"""Groups that a program asked to be remembered, by their ids."""

workers = sa.Table(
    f"{PREFIX}workers",
    metadata,
    sa.Column("id", Name, primary_key=True, comment="name#random: one run of a worker"),
    sa.Column("name", Name, nullable=False),
    sa.Column("hostname", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("pool", sa.Text, nullable=False),
    sa.Column("concurrency", sa.Integer, nullable=False),
    sa.Column("queues", Json, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("lease_seconds", sa.Float, nullable=False, comment="dead when the heartbeat is older than this"),
    sa.Column("started_at", Time, nullable=False, server_default=database_now()),
    sa.Column("heartbeat_at", Time, nullable=False, server_default=database_now()),
    sa.Column("closed_at", Time, comment="stopped, or declared dead"),
)

control = sa.Table(
    f"{PREFIX}control",
    metadata,
    sa.Column("id", Name, primary_key=True),
    sa.Column("command_id", Name, comment="on a reply: the command that it answers"),
    sa.Column("worker", Name, comment="on a reply: dbqueue_workers.id"),
    sa.Column("method", sa.Text, comment="on a command: revoke, ping, ..."),
    sa.Column("destination", Json, comment="on a command: which workers; NULL: all"),
    sa.Column("body", Json, nullable=False, comment="the arguments of a command, or what a reply says"),
    sa.Column("created_at", Time, nullable=False, server_default=database_now()),
    sa.Column("expires_at", Time, nullable=False, comment="ignored from then on, and deleted by the next sender"),
    sa.CheckConstraint(
        "(method IS NOT NULL AND command_id IS NULL AND worker IS NULL)"
        " OR (method IS NULL AND command_id IS NOT NULL AND worker IS NOT NULL)",
        name=f"{PREFIX}control_command_or_reply",
    ),
)
"""Commands to workers and their replies; see `store.control`. No index: a row lives for a minute."""

events = sa.Table(
    f"{PREFIX}events",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(), primary_key=True),
    sa.Column("body", Json, nullable=False, comment="type, hostname, timestamp, uuid, ..."),
    sa.Column("created_at", Time, nullable=False, server_default=database_now()),
)
"""What happens to jobs and workers, for monitors; see `store.events`. No index: it holds a minute."""

paused_queues = sa.Table(
    f"{PREFIX}paused_queues",
    metadata,
    sa.Column("queue", Name, primary_key=True),
    sa.Column("paused_at", Time, nullable=False, server_default=database_now()),
)
"""Queues that no worker claims from; see `store.queues`."""

limits = sa.Table(
    f"{PREFIX}limits",
    metadata,
    sa.Column("key", Name, primary_key=True),
    sa.Column("max_running", sa.Integer, comment="jobs at once; NULL: any number"),
    sa.Column("rate", sa.Text, comment="starts: 100/m; NULL: as fast as they come"),
    sa.Column("full_at", sa.Float, comment="when the rate's tokens are complete again, in seconds since 1970"),
    sa.Column("task", Name, comment="whose code says so"),
    sa.Column("source", sa.Text, nullable=False, server_default="settings", comment="user: code does not change it"),
    sa.Column("updated_at", Time, nullable=False, server_default=database_now()),
    sa.CheckConstraint("max_running >= 0", name=f"{PREFIX}limits_max_running"),
    sa.CheckConstraint("source IN ('settings', 'call', 'user')", name=f"{PREFIX}limits_source"),
)
"""Limits over all workers, by the keys that jobs count against; see `store.held` and `store.limits`."""

unique_keys = sa.Table(
    f"{PREFIX}unique_keys",
    metadata,
    sa.Column("key", Name, primary_key=True),
    sa.Column("job_id", Name, nullable=False, comment="the job that stands for all calls of this key"),
    sa.Column("until", Time, comment="its success stands until then; NULL: no longer than it runs"),
)
"""Which job a unique call has become; see `store.unique`."""

schedules = sa.Table(
    f"{PREFIX}schedules",
    metadata,
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
    sa.Column("misfire", sa.Text, nullable=False, server_default="once", comment="after downtime: skip, once or all"),
    sa.Column(
        "source", sa.Text, nullable=False, server_default="user", comment="settings: removed when gone from them"
    ),
    sa.Column("app", Name, comment="the application whose settings name it"),
    # written by beat
    sa.Column("next_due_at", Time, comment="NULL: beat is to plan it, or it is never due"),
    sa.Column("planned_from", sa.Text, comment="what next_due_at was reckoned from: an edit shows"),
    sa.Column("last_due_at", Time, comment="the last due time that fired"),
    sa.Column("total_run_count", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("problem", sa.Text, comment="why it does not fire"),
    sa.Column("created_at", Time, nullable=False, server_default=database_now()),
    sa.Column(
        "updated_at", Time, nullable=False, server_default=database_now(), comment="by the settings or a command"
    ),
    sa.CheckConstraint("misfire IN ('skip', 'once', 'all')", name=f"{PREFIX}schedules_misfire"),
    sa.CheckConstraint("source IN ('settings', 'user')", name=f"{PREFIX}schedules_source"),
)
"""What is to be done again and again; see `store.schedules`. No index: beat reads all rows each time."""

NAMES: Final = tuple(name.removeprefix(PREFIX) for name in metadata.tables)
"""Of all tables, without the prefix: what statements call them in braces."""
