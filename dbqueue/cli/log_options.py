"""The options of a service's log, shared by `worker` and `beat`, and what they come to."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from dbqueue.cli.target import Target

if TYPE_CHECKING:
    from dbqueue.utils.log import LogOptions

F = TypeVar("F", bound=Callable[..., Any])

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL")


def log_flags(command: F) -> F:
    """The options `--loglevel` and `--logfile`."""
    for add in (
        click.option(
            "-f",
            "--logfile",
            metavar="FILE",
            help="Log to this file; %n and %h are parts of the name, %i is a pool process's number.",
        ),
        click.option(
            "-l",
            "--loglevel",
            type=click.Choice(LEVELS, case_sensitive=False),
            default="WARNING",
            envvar="DBQUEUE_LOGLEVEL",
            show_default=True,
            help="Log from this level on.",
        ),
    ):
        command = add(command)
    return command


def log_options(target: Target, level: str, file: str | None, name: str, colour: bool | None) -> LogOptions:
    """The log of a process called `name`; `file` may hold placeholders, see `filled`."""
    from dbqueue.utils.log import LogOptions

    conf = target.app.conf
    wanted = conf.worker_log_color if conf.worker_log_color is not None else sys.stderr.isatty()
    return LogOptions(
        level=level_number(level),
        format=conf.worker_log_format,
        task_format=conf.worker_task_log_format,
        colour=wanted and colour is not False and file is None,
        file=partial(filled, os.path.abspath(file), name) if file else None,
        hijack_root=conf.worker_hijack_root_logger,
        redirect=level_number(conf.worker_redirect_stdouts_level) if conf.worker_redirect_stdouts else None,
    )


def set_up_log(options: LogOptions) -> None:
    """Raises ClickException for a file that cannot be opened."""
    from dbqueue.utils import log

    try:
        log.setup(options)
    except OSError as error:
        raise click.ClickException(f"the log file cannot be opened: {error}") from error


def level_number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def filled(pattern: str, worker: str, number: int = 0) -> str:
    """A file's name with Celery's placeholders filled in: those of the worker's name, and %i %I of the process."""
    name, _, host = worker.partition("@")
    values = {
        "%p": worker,
        "%n": name,
        "%h": host,
        "%d": host.partition(".")[2],
        "%i": str(number),
        "%I": f"-{number}" if number else "",
    }
    for placeholder, value in values.items():
        pattern = pattern.replace(placeholder, value)
    return pattern.replace("%%", "%")
