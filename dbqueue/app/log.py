"""`app.log`: the log of a worker, for programs that set it up themselves; Celery's `celery.app.log`."""

from __future__ import annotations

import logging
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from dbqueue import signals
from dbqueue.utils import log
from dbqueue.utils.log import ColorFormatter, TaskFormatter
from dbqueue.utils.redirected import REDIRECTED_LOGGER, LoggingProxy, redirect_to

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

__all__ = ["Logging", "TaskFormatter"]


class Logging:
    """`app.log`; Celery's class of that name."""

    def __init__(self, app: DBQueue) -> None:
        self.app = app
        self.already_setup = False

    @cached_property
    def loglevel(self) -> int:
        """The level where none is given."""
        return logging.WARNING

    @property
    def format(self) -> str:
        return str(self.app.conf.worker_log_format)

    @property
    def task_format(self) -> str:
        return str(self.app.conf.worker_task_log_format)

    def setup(
        self,
        loglevel: str | int | None = None,
        logfile: str | None = None,
        redirect_stdouts: bool = False,
        redirect_level: str | int = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> bool:
        """Set up the log of this process, as `dbqueue worker` does; whether a receiver of `setup_logging` did it."""
        handled = bool(signals.setup_logging.receivers)
        self.setup_logging_subsystem(loglevel, logfile, colorize=colorize, hostname=hostname)
        if redirect_stdouts and not handled:
            self.redirect_stdouts(redirect_level)
        return handled

    def setup_logging_subsystem(
        self,
        loglevel: str | int | None = None,
        logfile: str | None = None,
        format: str | None = None,
        colorize: bool | None = None,
        hostname: str | None = None,
        **kwargs: Any,
    ) -> None:
        """The handlers of the root logger and of the tasks'; once, however often it is called."""
        if self.already_setup:
            return
        self.already_setup = True
        options = log.LogOptions(
            level=log.mlevel(loglevel) or self.loglevel,
            format=format or self.format,
            task_format=self.task_format,
            colour=self.supports_color(colorize, logfile),
            file=(lambda number: logfile) if logfile else None,
            hijack_root=bool(self.app.conf.worker_hijack_root_logger),
        )
        log.setup(options)

    setup_task_loggers = setup_logging_subsystem

    def setup_handlers(
        self,
        logger: logging.Logger,
        logfile: str | None,
        format: str,
        colorize: bool | None,
        formatter: Any = ColorFormatter,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give a logger a handler of Celery's kind, unless it has one."""
        if not logger.handlers:
            handler: logging.Handler = logging.FileHandler(logfile) if logfile else logging.StreamHandler()
            handler.setFormatter(formatter(format, colour=self.supports_color(colorize, logfile)))
            logger.addHandler(handler)
        return logger

    def supports_color(self, colorize: bool | None = None, logfile: str | None = None) -> bool:
        """Whether lines have colours: as it is said, else by the setting, else where a terminal shows them."""
        wanted = self.app.conf.worker_log_color if colorize is None else colorize
        return logfile is None and (sys.stderr.isatty() if wanted is None else bool(wanted))

    def redirect_stdouts(self, loglevel: str | int | None = None, name: str = REDIRECTED_LOGGER) -> None:
        """Log what this process prints from now on."""
        self.redirect_stdouts_to_logger(logging.getLogger(name), loglevel)

    def redirect_stdouts_to_logger(
        self, logger: logging.Logger, loglevel: str | int | None = None, stdout: bool = True, stderr: bool = True
    ) -> LoggingProxy:
        """Let a logger have what this process prints from now on, at `loglevel` (default: WARNING)."""
        return redirect_to(logger, log.mlevel(loglevel) or logging.WARNING, stdout=stdout, stderr=stderr)

    def get_default_logger(self, name: str = "dbqueue", **kwargs: Any) -> logging.Logger:
        """dbqueue's own logger."""
        return logging.getLogger(name)
