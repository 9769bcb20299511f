"""Logging: the loggers of tasks, and what a worker's log looks like.

    from dbqueue.utils.log import get_task_logger

    logger = get_task_logger(__name__)

Lines of such a logger carry the name and the id of the task that runs. Handlers are made by
`setup`, which only the worker's command calls: a program that embeds a worker keeps its own.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import socket
import stat
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from dbqueue import signals
from dbqueue.context import current_request
from dbqueue.errors import SoftTimeLimitExceeded
from dbqueue.shown import harmless
from dbqueue.utils.redirected import REDIRECTED_LOGGER, LoggingProxy, redirect_to

TASK_LOGGER: Final = "dbqueue.task"
"""The parent of all loggers of tasks, which has their handler."""
_numbers: Final = logging.getLevelNamesMapping()
LOG_LEVELS: Final[dict[Any, Any]] = {**_numbers, **dict(zip(_numbers.values(), _numbers, strict=True))}
"""Levels by their names, and names by their numbers."""
base_logger: Final = logging.getLogger("dbqueue")
task_logger: Final = logging.getLogger(TASK_LOGGER)
worker_logger: Final = logging.getLogger("dbqueue.worker")
NO_TASK: Final = "???"
"""Celery's word for the task in a line that no task has logged."""

QUIET: Final = ("alembic", "asyncio", "sqlalchemy")
"""Libraries whose INFO lines are every statement: they speak from WARNING on, unless the application says otherwise."""

READER_SECONDS: Final = 1.0
"""How long a line waits for the reader of a pipe that is full; those after it do not, until one is taken again."""

_COLOURS: Final = {logging.DEBUG: 34, logging.WARNING: 33, logging.ERROR: 31, logging.CRITICAL: 35}
"""ANSI colours by level, as Celery has them."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What the worker's log is to be; `file` gives the log file of a process by its number, 0 for the main one."""

    level: int
    format: str
    task_format: str
    colour: bool = False
    file: Callable[[int], str] | None = None
    hijack_root: bool = True
    """Whether the handlers that the root logger has are replaced; False leaves logging to the application."""
    redirect: int | None = None
    """The level at which what is printed is logged; None leaves standard output as it is."""


class LineFormatter(logging.Formatter):
    """Celery's line, in the level's colour where that is wanted."""

    def __init__(self, text: str, *, colour: bool = False) -> None:
        super().__init__(text)
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        code = _COLOURS.get(record.levelno) if self._colour else None
        return line if code is None else f"\033[{code}m{line}\033[0m"


class TaskFormatter(LineFormatter):
    """A line that may name the running task by `%(task_name)s` and `%(task_id)s`."""

    def format(self, record: logging.LogRecord) -> str:
        request = current_request.get()
        record.__dict__.setdefault("task_id", harmless((request and request.id) or NO_TASK))
        record.__dict__.setdefault("task_name", harmless((request and request.task) or NO_TASK))
        return super().format(record)


ColorFormatter = LineFormatter
"""Celery's name."""


class PipeHandler(logging.Handler):
    """Writes to a pipe or a socket, and drops the lines that its reader leaves standing.

    Whatever collects logs may stop reading: a worker that waited for it would heed no signal and no time limit, and
    would not end its runs when it is cut off.
    """

    def __init__(self, end: io.FileIO | socket.socket, write: Callable[[bytes], int]) -> None:
        """`end` is closed with the handler; `write` writes to it without waiting."""
        super().__init__()
        self._end, self._write, self._open = end, write, True
        self._dropped = 0
        """Lines since the last that was taken."""
        self._cut = False
        """Whether a part of one was taken."""

    @classmethod
    def of(cls, stream: Any) -> PipeHandler | None:
        """For the reader of this stream; None where it is no pipe, or cannot be opened a second time.

        Others that share it, such as the shell, go on as before: a pipe is opened anew, a socket is asked each time.
        """
        try:
            number = stream.fileno()
            mode = os.fstat(number).st_mode if sys.platform == "linux" else 0
            if stat.S_ISSOCK(mode):
                # SOCK_NONBLOCK is for this object alone: without it, an application's default timeout would be set on
                # what all share. The family is of no concern to who only sends.
                end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, fileno=os.dup(number))
                return cls(end, lambda data: end.send(data, socket.MSG_DONTWAIT))
            if stat.S_ISFIFO(mode):
                pipe = io.FileIO(os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_NONBLOCK), "wb")
                return cls(pipe, lambda data: os.write(pipe.fileno(), data))
        except (AttributeError, OSError, ValueError):  # no file, or one of a user that is not ours any more
            pass
        return None

    def emit(self, record: logging.LogRecord) -> None:
        if not self._open:
            return
        try:
            dropped = f"({self._dropped} lines were dropped: nobody read the log)\n" if self._dropped else ""
            data = f"{dropped}{self.format(record)}\n".encode(errors="backslashreplace")
            left = self.offer(b"\n" + data if self._cut else data)
            self._cut = 0 < len(left) < len(data) or (self._cut and bool(left))
            self._dropped = self._dropped + 1 if left else 0
        except (RecursionError, SoftTimeLimitExceeded):  # a task's limit may pass while its line waits
            raise
        except Exception:  # noqa: BLE001 - as in every handler of the standard library
            self.handleError(record)

    def offer(self, data: bytes) -> bytes:
        """What the reader has not taken of it."""
        until = time.monotonic() + (0.0 if self._dropped else READER_SECONDS)
        while data:
            try:
                data = data[self._write(data) :]
            except BlockingIOError:
                seconds = until - time.monotonic()
                if seconds <= 0:
                    break
                poll = select.poll()
                poll.register(self._end, select.POLLOUT)
                poll.poll(seconds * 1000)
        return data

    def close(self) -> None:
        self.acquire()
        try:
            self._open = False
            self._end.close()
        finally:
            self.release()
        super().close()


def mlevel(level: str | int | None) -> int:
    """A level as a number: of a name, in either case, or of a number."""
    return logging.getLevelNamesMapping()[level.upper()] if isinstance(level, str) else level or 0


def get_logger(name: str) -> logging.Logger:
    """The logger of that name: Celery's function."""
    return logging.getLogger(name)


def get_task_logger(name: str) -> logging.Logger:
    """A logger for a module of tasks; in a worker its lines have the setting `worker_task_log_format`.

    Elsewhere it is an ordinary logger. Raises RuntimeError for a name of dbqueue's own.
    """
    if name in ("dbqueue", TASK_LOGGER):
        raise RuntimeError(f"the logger {name!r} is dbqueue's own: use __name__")
    logger = logging.getLogger(name)
    above: logging.Logger | None = logger
    while above is not None and above.name != TASK_LOGGER:
        above = above.parent
    if above is None:
        logger.parent = logging.getLogger(TASK_LOGGER)
    return logger


def setup(options: LogOptions, *, number: int = 0) -> None:
    """Set up the log of this process; `number` is a pool process's own.

    A receiver of the signal `setup_logging` does that in our place. Raises OSError for a file that cannot be opened.
    """
    told = {
        "loglevel": options.level,
        "logfile": None if options.file is None else options.file(number),
        "format": options.format,
        "colorize": options.colour,
    }
    if signals.setup_logging.receivers:
        signals.setup_logging.send(sender=None, **told)
        return
    if not options.hijack_root:
        return
    for name in QUIET:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
    root, tasks = logging.getLogger(), logging.getLogger(TASK_LOGGER)
    _replace_handler(root, _handler(options, number), LineFormatter(options.format, colour=options.colour))
    _replace_handler(tasks, _handler(options, number), TaskFormatter(options.task_format, colour=options.colour))
    root.setLevel(options.level)
    tasks.propagate = False
    logging.captureWarnings(capture=True)
    signals.after_setup_logger.send(sender=None, logger=root, **told)
    signals.after_setup_task_logger.send(sender=None, logger=tasks, **{**told, "format": options.task_format})
    if options.redirect is not None:
        redirect_to(logging.getLogger(REDIRECTED_LOGGER), options.redirect)


def announce(text: str) -> None:
    """Print what a service says of itself before its log begins: as little as a line of that may it end or hold it up.

    Python's buffer would keep what a full disk has refused, for the next flush to fail, here and in each pool process.
    """
    data = f"{text}\n".encode(errors="backslashreplace")
    if sys.stdout is None:  # it was closed before the interpreter began
        return
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        pipe = PipeHandler.of(sys.stdout)
        if pipe is not None:
            with contextlib.closing(pipe):
                pipe.offer(data)
            return
        try:
            number = sys.stdout.fileno()
        except (AttributeError, OSError, ValueError):  # no file: a program's own
            print(text, flush=True)  # noqa: T201
        else:
            os.write(number, data)


def enter_child(options: LogOptions, name: str) -> None:
    """Name this pool process in its log lines (`ForkPoolWorker-1`); where each has a file of its own, log to that."""
    _name_process(name)
    number = int(name.rpartition("-")[2])
    if options.file is not None and options.file(number) != options.file(0):
        setup(options, number=number)


def _name_process(name: str) -> None:
    """As multiprocessing does it where that is loaded; a worker that has no use for it saves itself 0.3 MB."""
    loaded = sys.modules.get("multiprocessing")
    if loaded is not None:
        loaded.current_process().name = name
    make = logging.getLogRecordFactory()

    def make_named(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        if record.processName == "MainProcess":  # a task's own processes have names of their own
            record.processName = name
        return record

    logging.setLogRecordFactory(make_named)


def _handler(options: LogOptions, number: int) -> logging.Handler:
    if options.file is None:
        # What is printed goes to the log, but the log itself to where it went before.
        stream = sys.__stderr__ if isinstance(sys.stderr, LoggingProxy) else sys.stderr
        return PipeHandler.of(stream) or logging.StreamHandler(stream)
    from dbqueue.utils.log_file import LogFileHandler

    # A pool process that could not open its own would end, and so would the next one.
    return LogFileHandler(options.file(number), encoding="utf-8", delay=number > 0)


def _replace_handler(logger: logging.Logger, handler: logging.Handler, formatter: logging.Formatter) -> None:
    handler.setFormatter(formatter)
    for old in list(logger.handlers):
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
