"""`dbqueue beat`: the service that enqueues periodic tasks."""

from __future__ import annotations

import logging
import signal
import socket
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dbqueue.cli.detach import Daemon, daemon_flags
from dbqueue.cli.log_options import filled, log_flags, log_options, set_up_log
from dbqueue.cli.pidfile import holding
from dbqueue.cli.target import Target, importing
from dbqueue.cli.values import Seconds
from dbqueue.version import __version__

if TYPE_CHECKING:
    from dbqueue.worker.beat import Beat

logger: Final = logging.getLogger("dbqueue.beat")

_UNUSED: Final = {
    "schedule_file": ("--schedule", "the times of the last runs are in the database"),
    "executable": ("--executable", "the service goes on in the interpreter that was called"),
    "scheduler": ("--scheduler", "the schedules are in the table dbqueue_schedules"),
}
"""Celery's options that mean nothing here, and why."""


@click.command("beat")
@log_flags
@daemon_flags
@click.option(
    "--max-interval",
    type=Seconds(min=0, min_open=True),
    metavar="SECONDS",
    help="Look at the table at least this often. Default: the setting beat_max_loop_interval, or 2.",
)
@click.option("-s", "--schedule", "schedule_file", hidden=True)
@click.option("-S", "--scheduler", hidden=True)
@click.option("--executable", hidden=True)
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Start a beat: it enqueues periodic tasks when they are due.

    Any number may run, on any hosts, and so may `worker -B`: each due time fires once. TERM or Ctrl-C ends it.
    """
    target: Target = ctx.obj
    unused = [f"{flag} ({reason})" for name, (flag, reason) in _UNUSED.items() if given[name] is not None]
    _run(target, given, Daemon.take(given), unused, colour=ctx.color)


def _run(target: Target, given: dict[str, Any], daemon: Daemon, unused: list[str], *, colour: bool | None) -> None:
    from dbqueue.cli.database_wait import Stopped, stopping_at_once, wait_for_database
    from dbqueue.services.beats import announce, make_beat
    from dbqueue.utils import log
    from dbqueue.utils.redirected import streams_kept

    app = target.app
    ready = daemon.enter()
    name = f"beat@{socket.gethostname()}"
    with importing():
        app.import_tasks()
        beat = make_beat(app, max_interval=given["max_interval"])
    with ExitStack() as held:
        held.enter_context(holding(Path(filled(daemon.pidfile, name)) if daemon.pidfile else None))
        held.enter_context(streams_kept())
        if not target.quiet:
            log.announce(_banner(target, beat, given))
        set_up_log(log_options(target, given["loglevel"], given["logfile"], name, colour))
        if unused:
            logger.warning("Without effect here: %s", "; ".join(unused))
        ready()
        try:
            with stopping_at_once():
                wait_for_database(app.database)
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, lambda *_: beat.stop())
                logger.info("beat: Starting...")
                announce(beat, embedded=False)
                logger.info("beat is ready.")
                beat.run()
                logger.info("beat: Stopped")
        except Stopped as stop:
            logger.warning("beat: stopped by %s before it had started", stop)


def _banner(target: Target, beat: Beat, given: dict[str, Any]) -> str:
    app = target.app
    return "\n".join(
        (
            f"dbqueue beat v{__version__} is starting.",
            f"LocalTime -> {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}",
            "Configuration ->",
            f"    . app         -> {app.main or '__main__'}:{id(app):#x}",
            f"    . broker      -> {app.database.url}",
            f"    . timezone    -> {app.conf.timezone}",
            f"    . logfile     -> {given['logfile'] or '[stderr]'}@%{given['loglevel'].upper()}",
            f"    . maxinterval -> {beat.max_interval:g} s",
        )
    )
