"""`dbqueue worker`: from the command line to a worker that runs."""

from __future__ import annotations

import faulthandler
import logging
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dbqueue.cli.detach import Daemon, daemon_flags
from dbqueue.cli.log_options import filled, level_number, log_flags, log_options, set_up_log
from dbqueue.cli.output import count
from dbqueue.cli.pidfile import holding
from dbqueue.cli.target import Target, importing
from dbqueue.cli.user_options import own_options
from dbqueue.cli.values import Seconds, names_in
from dbqueue.cli.worker_options import celery_options, unused
from dbqueue.errors import ImproperlyConfigured
from dbqueue.queue_patterns import resolve

if TYPE_CHECKING:
    from dbqueue.services.workers import Worker
    from dbqueue.utils.log import LogOptions

logger: Final = logging.getLogger("dbqueue.worker")


def _pool(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A kind of pool, in any of its names."""
    from dbqueue.settings import check

    try:
        return None if value is None else str(check("worker_pool", value))
    except ImproperlyConfigured as error:
        raise click.BadParameter(str(error), ctx, param) from error


class _Concurrency(click.IntRange):
    """A number, or Celery's `auto`: the default."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return None if value == "auto" else super().convert(value, param, ctx)


def _bounds(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """`10,3` is from 3 to 10; `10` is from 1 to 10."""
    if value is None:
        return None
    maximum, _, minimum = value.partition(",")
    try:
        return int(maximum), int(minimum or 0)
    except ValueError as error:
        raise click.BadParameter(f"this must be two numbers, as in 10,3, not {value!r}", ctx, param) from error


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says about the worker itself; None is: by the settings."""

    loglevel: str
    concurrency: int | None
    pool: str | None
    queues: str | None
    exclude_queues: str | None
    hostname: str | None
    logfile: str | None
    include: str | None
    time_limit: float | None
    soft_time_limit: float | None
    max_tasks_per_child: int | None
    max_memory_per_child: int | None
    autoscale: tuple[int, int] | None
    purge: bool
    beat: bool
    task_events: bool
    own: dict[str, Any]
    """The application's own options, see `user_options`."""


@click.command("worker")
@log_flags
@click.option(
    "-c",
    "--concurrency",
    type=_Concurrency(min=1),
    help="Tasks that run at once. Default, and 'auto': the number of cores.",
)
@click.option("-P", "--pool", callback=_pool, metavar="POOL", help="prefork (default), threads, asyncio or solo.")
@click.option(
    "-Q",
    "--queues",
    metavar="NAMES",
    help="Take jobs from these queues, with commas between them; 'reports.*' is all that begin so.",
)
@click.option("-X", "--exclude-queues", metavar="NAMES", help="Do not take jobs from these queues.")
@click.option(
    "-n",
    "--hostname",
    metavar="NAME",
    help="The worker's name; %h is the host, %n its name, %d its domain. Default: celery@%h.",
)
@click.option(
    "--time-limit",
    type=Seconds(min=0, min_open=True),
    metavar="SECONDS",
    help="End a task that runs longer, unless it has a limit of its own.",
)
@click.option(
    "--soft-time-limit",
    type=Seconds(min=0, min_open=True),
    metavar="SECONDS",
    help="Raise SoftTimeLimitExceeded in a task that runs longer.",
)
@click.option(
    "--max-tasks-per-child",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="Replace a pool process after this many tasks.",
)
@click.option(
    "--max-memory-per-child",
    type=click.IntRange(min=1),
    metavar="KILOBYTES",
    help="Replace a pool process that has grown larger than this.",
)
@click.option(
    "--autoscale",
    callback=_bounds,
    metavar="MAX,MIN",
    help="Between so many pool processes, as there is work. For prefork.",
)
@click.option("-I", "--include", metavar="MODULES", help="Import these modules too, with commas between them.")
@daemon_flags
@click.option("--purge", "--discard", "purge", is_flag=True, help="First delete what waits in the worker's queues.")
@click.option("-E", "--task-events", "--events", "task_events", is_flag=True, help="Send events to monitors.")
@click.option("-B", "--beat", is_flag=True, help="Enqueue periodic tasks, too; any number of workers may.")
@celery_options
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Start a worker: it takes jobs from the database and runs them.

    TERM or Ctrl-C lets running tasks end (warm shutdown); a second one, or QUIT, ends them and hands them back.
    """
    target: Target = ctx.obj
    daemon = Daemon.take(given)
    options = Options(**given, own=own_options(ctx))
    raise click.exceptions.Exit(_run(target, options, daemon, unused(ctx), colour=ctx.color))


def _run(target: Target, options: Options, daemon: Daemon, note: str | None, *, colour: bool | None) -> int:
    from dbqueue.cli.database_wait import Stopped, stopping_at_once, wait_for_database
    from dbqueue.utils import log
    from dbqueue.utils.redirected import streams_kept

    app = target.app
    ready = daemon.enter()
    logs: list[LogOptions] = []
    held = ExitStack()
    with importing():
        if options.include:
            app.conf.include = [*app.conf.include, *names_in(options.include)]
        # Made before the log is set up, for its name may be in the log's file's.
        worker = _make(target, options, start_child=lambda name: log.enter_child(logs[0], name), at_exit=held.close)
    logs.append(log_options(target, options.loglevel, options.logfile, worker.config.name, colour))
    with held:
        held.enter_context(holding(Path(filled(daemon.pidfile, worker.config.name)) if daemon.pidfile else None))
        held.enter_context(streams_kept())
        if not target.quiet:
            log.announce(_banner(target, worker, options))
        set_up_log(logs[0])
        _show_stacks_when_asked()
        if note:
            logger.warning("%s", note)
        ready()

        def wait() -> None:
            wait_for_database(app.database)
            logger.info("Connected to %s", app.database.url)

        held.callback(worker.close)
        try:
            with stopping_at_once():
                worker.prepare(wait)
                if options.purge:
                    _purge(target, worker)
                return worker.run()
        except Stopped as stop:
            logger.warning("worker: stopped by %s before it had started", stop)
            return 0


def _show_stacks_when_asked() -> None:
    """On USR1, as Celery does; without it the signal would end the worker, and all its tasks with it.

    Where tasks run in this process (solo) it is the signal of their soft limits.
    """
    if sys.__stderr__ is not None:
        with suppress(AttributeError, ValueError, OSError):  # no such signals here, or no standard error
            faulthandler.register(signal.SIGUSR1, sys.__stderr__)


def _make(
    target: Target, options: Options, *, start_child: Callable[[str], None], at_exit: Callable[[], None]
) -> Worker:
    worker: list[Worker] = []
    worker.append(
        target.app.Worker(
            hostname=options.hostname,
            pool=options.pool,
            concurrency=options.concurrency,
            queues=options.queues,
            exclude_queues=options.exclude_queues,
            time_limit=options.time_limit,
            soft_time_limit=options.soft_time_limit,
            max_tasks_per_child=options.max_tasks_per_child,
            max_memory_per_child=options.max_memory_per_child,
            autoscale=options.autoscale,
            beat=options.beat,
            task_events=options.task_events or None,
            start_child=start_child,
            at_exit=at_exit,
            loglevel=options.loglevel,
            logfile=options.logfile,
            on_ready=lambda: logger.info("%s ready.", worker[0].config.name),
            **options.own,
        )
    )
    return worker[0]


def _purge(target: Target, worker: Worker) -> None:
    from dbqueue.store import changes, queries

    store = target.app.database.store
    present = [each.queue for each in queries.queue_counts(store)]
    queues = resolve(worker.config.queues, present, worker.config.excluded)
    purged = changes.purge(store, queues=queues) if queues else 0
    click.echo(f"Purged {count(purged, 'message')}.")


def _banner(target: Target, worker: Worker, options: Options) -> str:
    from dbqueue.store.tables import jobs
    from dbqueue.worker.banner import banner

    app = target.app
    schema = app.conf.database_schema
    return banner(
        worker.config,
        app=f"{app.main or '__main__'}:{id(app):#x}",
        url=app.database.url,
        table=f"{schema}.{jobs.name}" if schema else jobs.name,
        now=datetime.now().astimezone(),
        tasks=list(app.tasks.declared()) if level_number(options.loglevel) <= logging.INFO else None,
    )
