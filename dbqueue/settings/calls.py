"""The settings of an application that enqueues: its database, its tasks, their content, routes and results."""

from __future__ import annotations

from typing import Final

from dbqueue.jobs import MAX_PRIORITY, MIN_PRIORITY
from dbqueue.settings.kinds import (
    ANY,
    BOOL,
    COMPRESSION,
    CONTENT_NAMES,
    EXPIRY,
    MAPPING,
    NAMES,
    SCHEMA,
    SERIALIZER,
    SIGNING_KEYS,
    STRING,
    TIMEZONE,
    URL,
    choice,
    integer,
    seconds,
)
from dbqueue.settings.setting import Setting

_DAY_SECONDS: Final = 86_400
_MAX_BYTES: Final = 1_000_000_000
"""PostgreSQL's limit for one field is 1 GB."""

CALLS: Final[dict[str, tuple[Setting, ...]]] = {
    "Database": (
        Setting(
            "broker_url",
            None,
            URL,
            "The database that holds the jobs: `postgresql://user:password@host/name` or `sqlite:///jobs.db`. Celery's "
            "`sqla+` and `db+` prefixes are understood.",
        ),
        Setting(
            "result_backend",
            None,
            URL,
            "For ported configurations: unset, or the same database as `broker_url`: a job's row holds its result.",
        ),
        Setting("database_url", None, URL, "Another name for `broker_url`; if both are set they must agree."),
        Setting(
            "database_schema",
            None,
            SCHEMA,
            "The PostgreSQL schema of the tables; None is the first of the connection's search path. Not in Celery.",
        ),
        Setting(
            "database_pool_size",
            5,
            integer(1, 10_000),
            "Most connections that one process keeps for enqueueing and reading results. Not in Celery.",
        ),
        Setting(
            "database_connect_timeout",
            10.0,
            seconds(above=True),
            "Seconds after which a connection that is not made yet fails with OperationalError, at most 3600; the "
            "URL's `connect_timeout` goes before it. Not in Celery.",
        ),
        Setting(
            "database_pooler",
            False,
            BOOL,
            "Whether the URL leads through a pooler in transaction mode (PgBouncer), where there are no prepared "
            "statements, no settings of a session and no LISTEN. Workers poll then, unless there is a "
            "`database_listen_url`. Not in Celery.",
        ),
        Setting(
            "database_listen_url",
            None,
            URL,
            "A URL of the same database past the pooler, for the two connections of each worker. Not in Celery.",
        ),
    ),
    "Content": (
        Setting("task_serializer", "json", SERIALIZER, "How arguments are written, unless the task says otherwise."),
        Setting("result_serializer", "json", SERIALIZER, "How results are written, unless the task says otherwise."),
        Setting(
            "accept_content",
            ["json"],
            CONTENT_NAMES,
            "Serializers or content types that are read; a row in another one is refused, not decoded.",
        ),
        Setting(
            "result_accept_content",
            None,
            CONTENT_NAMES,
            "As `accept_content`, for results; None is the same list. JSON results are always read.",
        ),
        Setting(
            "task_compression",
            None,
            COMPRESSION,
            "Whether arguments are compressed: with zlib, whatever the name, where they are not JSON. JSON stays text.",
        ),
        Setting("result_compression", None, COMPRESSION, "As `task_compression`, for results."),
        Setting(
            "task_signing_keys",
            None,
            SIGNING_KEYS,
            "Secrets with which calls are signed (by the first) and verified by workers (with each): a job that is not "
            "signed, or was changed in the table, ends as FAILURE. Not in Celery.",
        ),
        Setting(
            "max_payload_bytes",
            1_048_576,
            integer(1024, _MAX_BYTES),
            "Longest encoded arguments, or result, of one job in bytes; more raises PayloadTooLarge. Not in Celery.",
        ),
        Setting(
            "max_input_bytes",
            67_108_864,
            integer(1024, _MAX_BYTES),
            "Most bytes of results that a job takes from the jobs before it (a chord's body takes those of its whole "
            "header); with more it ends as FAILURE. A worker reads about as much at once. Not in Celery.",
        ),
    ),
    "Time": (
        Setting(
            "timezone",
            "UTC",
            TIMEZONE,
            "The zone in which schedules are read and naive datetimes are meant, by its IANA name.",
            unset="UTC",
        ),
        Setting(
            "enable_utc",
            True,
            BOOL,
            "Whether datetimes are shown in UTC rather than in `timezone`; what is stored is a point in time.",
        ),
    ),
    "Tasks": (
        Setting("imports", [], NAMES, "Modules that the worker imports at its start, for the tasks in them.", unset=[]),
        Setting("include", [], NAMES, "As `imports`; both lists are imported.", unset=[]),
        Setting("task_default_queue", "celery", STRING, "The queue of a call that names none."),
        Setting(
            "task_default_priority",
            0,
            integer(MIN_PRIORITY, MAX_PRIORITY),
            "The priority of a call that names none. A higher number runs first.",
            unset=0,
        ),
        Setting("task_ignore_result", False, BOOL, "Whether results are thrown away, unless the task says otherwise."),
        Setting(
            "task_store_errors_even_if_ignored",
            False,
            BOOL,
            "Without effect: the errors of tasks whose results are thrown away are always kept, in the row.",
        ),
        Setting(
            "task_track_started",
            True,
            BOOL,
            "Whether AsyncResult shows a running job as STARTED; with False it stays PENDING. Celery: False.",
        ),
        Setting(
            "task_acks_late",
            True,
            BOOL,
            "Whether a job whose run dies with its process is run again. With False it never is. Celery: False.",
        ),
        Setting(
            "task_reject_on_worker_lost",
            None,
            BOOL,
            "False fails a job at the first run that dies with its process, although `task_acks_late` is on. None and "
            "True run it again, up to `task_max_losses`.",
        ),
        Setting(
            "task_transaction_idle_timeout",
            60.0,
            seconds(above=True),
            "Seconds that the transaction of a task with `transactional=True` may be idle between two statements, "
            "before PostgreSQL ends it and frees its locks: a process that was stopped must not hold others up. None: "
            "for ever. Not in Celery.",
        ),
        Setting(
            "task_max_losses",
            10,
            integer(1, 1_000_000),
            "Runs of one job that may die with their process before it fails with WorkerLostError, so that a job that "
            "kills its worker does not do so for ever. Not in Celery.",
        ),
        Setting("task_default_rate_limit", None, ANY, "The rate limit of tasks without one, in each worker: `'10/m'`."),
        Setting("task_time_limit", None, seconds(above=True), "Seconds after which a job's process is ended."),
        Setting(
            "task_soft_time_limit",
            None,
            seconds(above=True),
            "Seconds after which SoftTimeLimitExceeded is raised in a running task.",
        ),
        Setting(
            "task_annotations",
            None,
            ANY,
            "Attributes to change on tasks: a dict of dicts by the task's name, where '*' is every task; an object "
            "with `annotate(task)`; or a list of these.",
        ),
        Setting(
            "task_always_eager",
            False,
            BOOL,
            "Whether `delay()` runs the task in place instead of enqueueing it: for tests.",
        ),
        Setting("task_eager_propagates", False, BOOL, "Whether an eager task's exception is raised."),
        Setting(
            "task_store_eager_result",
            False,
            BOOL,
            "Whether the results of eager tasks are stored in the database too, unless they are ignored.",
        ),
        Setting(
            "task_inherit_parent_priority",
            False,
            BOOL,
            "Whether a call from inside a task has that job's priority, where neither call nor task has one.",
        ),
        Setting(
            "task_allow_error_cb_on_chord_header",
            False,
            BOOL,
            "Whether a chord's error callbacks are called for its header jobs too.",
        ),
        Setting(
            "task_remote_tracebacks",
            False,
            BOOL,
            "Whether an exception that `get()` raises again has the worker's traceback as its cause, and so shows it.",
        ),
        Setting(
            "task_send_sent_event",
            False,
            BOOL,
            "Whether enqueueing sends the event task-sent to monitors: one more statement for each enqueue.",
        ),
        Setting(
            "task_repr_maxlevels",
            3,
            integer(0, 100),
            "The depth to which events show arguments and results; what lies deeper is `...`.",
        ),
    ),
    "Queues and routes": (
        Setting(
            "task_create_missing_queues",
            True,
            BOOL,
            "Whether a queue that `task_queues` does not name may be used; with False it raises QueueNotFound.",
        ),
        Setting(
            "task_queues",
            None,
            ANY,
            "The queues that a worker without `-Q` takes jobs from: names, or objects with a `name` (and a "
            "`routing_key` for calls and routes that give one).",
        ),
        Setting(
            "task_routes",
            None,
            ANY,
            "Which task goes to which queue: a dict by name or glob, pairs (with regular expressions too), a function, "
            "or a list of these.",
        ),
        Setting(
            "worker_queue_order",
            "round_robin",
            choice("round_robin", "strict"),
            "How a worker goes through its queues: each in its turn first, or always in the order of `-Q`, so that a "
            "later queue waits while an earlier one has jobs. Not in Celery.",
        ),
        Setting(
            "worker_queue_weights",
            {},
            MAPPING,
            "How large a share of a busy worker each queue gets, as whole numbers by its name or a pattern: "
            "`{'mail': 3, 'reports.*': 1}`; a queue that is not named has 1. Not in Celery.",
            unset={},
        ),
    ),
    "Results": (
        Setting(
            "result_expires",
            _DAY_SECONDS,
            EXPIRY,
            "Seconds (or a timedelta) after its end at which a job's row may be deleted. None and 0 keep it for ever.",
            takes_none=True,
        ),
        Setting(
            "result_max_kept",
            None,
            integer(1, 1_000_000_000_000),
            "Finished jobs whose rows are kept at most: the oldest ones beyond are deleted, though they have not "
            "expired. Not in Celery.",
        ),
        Setting(
            "result_extended",
            False,
            BOOL,
            "Without effect: name, arguments, queue, worker and retries are always in the row.",
        ),
    ),
}
