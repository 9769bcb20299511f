"""What tasks print, as lines of the log: the setting `worker_redirect_stdouts`."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

REDIRECTED_LOGGER: Final = "dbqueue.redirected"


class LoggingProxy:
    """In the place of `sys.stdout` or `sys.stderr`: each text that is written is logged.

    `stream` is what it stands for: its `fileno` and its `buffer` are still there, for what starts processes.
    """

    mode = "w"
    name: str | None = None
    closed = False
    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, logger: logging.Logger, loglevel: int | None = None, *, stream: Any = None) -> None:
        self.logger, self.loglevel = logger, loglevel or logger.level or logging.WARNING
        self._stream = stream
        self._here = threading.local()

    def write(self, data: str | bytes) -> int:
        """Log what is whole lines, and keep the rest for the next call; nothing of what the log itself prints."""
        here = self._here
        if self.closed or getattr(here, "logging", False):
            return len(data)
        text = data.decode(self.encoding, self.errors) if isinstance(data, bytes) else data
        # `print("a", "b")` writes four times.
        lines, newline, here.rest = (getattr(here, "rest", "") + text).rpartition("\n")
        if newline:
            self._log(lines)
        return len(data)

    def _log(self, text: str) -> None:
        if text.strip():
            self._here.logging = True
            try:
                self.logger.log(self.loglevel, "%s", text.rstrip())
            finally:
                self._here.logging = False

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log what is not a whole line yet."""
        rest, self._here.rest = getattr(self._here, "rest", ""), ""
        self._log(rest)

    def close(self) -> None:
        self.closed = True

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redirect_to(logger: logging.Logger, level: int, *, stdout: bool = True, stderr: bool = True) -> LoggingProxy:
    """From now on, what this process prints goes to the logger."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # a full disk
            stream.flush()  # or each pool process would end with a copy of what is held back here
    proxy = LoggingProxy(logger, level, stream=sys.__stdout__)
    if stdout:
        sys.stdout = proxy
    if stderr:
        sys.stderr = LoggingProxy(logger, level, stream=sys.__stderr__)
    return proxy


@contextmanager
def streams_kept() -> Iterator[None]:
    """What is printed after the block goes where it went before it."""
    before = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
