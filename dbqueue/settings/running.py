"""The settings of what runs: the worker, its log, and beat."""

from __future__ import annotations

from typing import Final

from dbqueue.settings.kinds import (
    BOOL,
    CONCURRENCY,
    MAPPING,
    STRING,
    choice,
    integer,
    seconds,
)
from dbqueue.settings.setting import Setting

RUNNING: Final[dict[str, tuple[Setting, ...]]] = {
    "Worker": (
        Setting(
            "worker_concurrency",
            None,
            CONCURRENCY,
            "Tasks that run at the same time; None (or 0, or 'auto') is the number of cores. A worker of the pool "
            "prefork has 5000 processes at most.",
        ),
        Setting(
            "worker_pool",
            "prefork",
            choice(
                "prefork",
                "threads",
                "asyncio",
                "solo",
                aliases={"processes": "prefork", "aio": "asyncio"},
                refused={"gevent": "use threads or asyncio", "eventlet": "use threads or asyncio"},
            ),
            "How tasks are run: processes, threads, one event loop, or in the worker itself.",
        ),
        Setting(
            "worker_poll_interval",
            5.0,
            seconds(above=True),
            "Longest pause in seconds between two looks for work: the safety net behind the database's "
            "notifications. Not in Celery.",
        ),
        Setting(
            "worker_min_poll_interval",
            0.01,
            seconds(above=True),
            "Shortest pause in seconds between two looks for work where the database cannot notify "
            "(`database_pooler`); while nothing comes the pause grows up to `worker_poll_interval`. Not in Celery.",
        ),
        Setting(
            "worker_lease_seconds",
            30.0,
            seconds(1.0),
            "Seconds without a heartbeat after which a worker is dead and its jobs are taken back. Not in Celery.",
        ),
        Setting(
            "worker_heartbeat_interval",
            None,
            seconds(above=True),
            "Seconds between heartbeats; None is a third of `worker_lease_seconds`, of which it must be less than nine "
            "tenths. Not in Celery.",
        ),
        Setting(
            "worker_shutdown_timeout",
            None,
            seconds(),
            "Seconds that a warm shutdown waits for running tasks before it turns cold; None waits for their end. "
            "Not in Celery.",
        ),
        Setting(
            "worker_soft_shutdown_timeout",
            0.0,
            seconds(),
            "Seconds that a cold shutdown lets running tasks go on before it ends them; 0 ends them at once.",
        ),
        Setting(
            "worker_enable_soft_shutdown_on_idle",
            False,
            BOOL,
            "Whether a cold shutdown waits for `worker_soft_shutdown_timeout` where nothing runs, too.",
        ),
        Setting(
            "worker_max_tasks_per_child",
            None,
            integer(1, 1_000_000_000),
            "Tasks after which a pool process is replaced; in threads and asyncio, beside those that still run there.",
        ),
        Setting(
            "worker_max_memory_per_child",
            None,
            integer(1, 1_000_000_000_000),
            "Kilobytes of resident memory after which a pool process is replaced.",
        ),
        Setting(
            "worker_pool_restarts",
            False,
            BOOL,
            "Whether `control.pool_restart()` is obeyed, which replaces the pool's processes.",
        ),
        Setting("worker_disable_rate_limits", False, BOOL, "Whether the rate limits of tasks are ignored."),
        Setting(
            "worker_enable_remote_control",
            True,
            BOOL,
            "Whether the worker obeys `inspect` and `control`. Without, a run cannot be ended from outside.",
        ),
        Setting(
            "worker_send_task_events",
            False,
            BOOL,
            "Whether workers send events about their tasks to monitors, as with `-E`.",
        ),
    ),
    "Log": (
        Setting(
            "worker_hijack_root_logger",
            True,
            BOOL,
            "Whether the worker sets up the root logger; with False logging is the application's own.",
        ),
        Setting(
            "worker_log_format",
            "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s",
            STRING,
            "The format of the worker's log lines, as in `logging.Formatter`.",
        ),
        Setting(
            "worker_task_log_format",
            "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s",
            STRING,
            "The format of lines that tasks log; `task_name` and `task_id` may be used in it.",
        ),
        Setting(
            "worker_log_color", None, BOOL, "Whether log lines have colours; None has them where a terminal shows them."
        ),
        Setting(
            "worker_redirect_stdouts",
            True,
            BOOL,
            "Whether what tasks print is logged, by the logger `dbqueue.redirected`.",
        ),
        Setting(
            "worker_redirect_stdouts_level",
            "WARNING",
            choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"),
            "The level of what is printed, in the log.",
        ),
    ),
    "Beat": (
        Setting(
            "beat_schedule",
            {},
            MAPPING,
            "The periodic tasks by name: each a dict with `task`, `schedule`, `args`, `kwargs`, `options`, `relative`, "
            "and beyond Celery `misfire` (`skip`, `once` or `all`) and `timezone`.",
            unset={},
        ),
        Setting(
            "beat_max_loop_interval",
            0,
            seconds(),
            "Longest pause in seconds between two looks at the table of schedules; 0 is 2 seconds.",
        ),
        Setting(
            "beat_cron_starting_deadline",
            None,
            seconds(),
            "Seconds after which a missed due time of a crontab is not made up for; None is never.",
        ),
    ),
}
