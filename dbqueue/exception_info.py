"""What hooks and signals are told of an exception: Celery's `einfo`."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType

from dbqueue.codec import describe_exception

MAX_TRACEBACK_BYTES = 1_048_576


class ExceptionInfo:
    """An exception with its traceback as text; `str(einfo)` is that text.

    The text is made when it is first asked for: most receivers only look at the exception.
    """

    internal = False

    def __init__(self, exception: BaseException, cause: BaseException | None = None) -> None:
        """`cause` is what the traceback is of: a Retry that stands for it was raised nowhere."""
        self.exception = exception
        self._shown = cause or exception
        self.type: type[BaseException] = type(exception)

    @property
    def tb(self) -> TracebackType | None:
        """The traceback as Python has it."""
        return self._shown.__traceback__

    @cached_property
    def traceback(self) -> str:
        """The traceback as text, as the job's row has it."""
        return describe_exception(self._shown, max_bytes=MAX_TRACEBACK_BYTES)[1] or ""

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        try:
            return f"<ExceptionInfo: {self.exception!r}>"
        except BaseException:  # noqa: BLE001 - an exception whose own repr raises
            return f"<ExceptionInfo: {self.type.__name__}>"
