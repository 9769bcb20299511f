"""The log in a file, in a module of its own: who logs to none is spared what it imports."""

from __future__ import annotations

import logging
from logging.handlers import WatchedFileHandler


class LogFileHandler(WatchedFileHandler):
    """Opens its file anew when logrotate has moved it.

    Where that fails, for its folder is gone or another user's, say, lines are lost until it can be opened again: what
    the standard library's handler raises then would end whatever has logged.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)
