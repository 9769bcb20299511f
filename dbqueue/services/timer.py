"""Calls at their times, on a thread of their own: `worker.timer`, for steps of a worker and for cameras."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

logger: Final = logging.getLogger("dbqueue.worker")

LONGEST_SLEEP_SECONDS: Final = 3600.0
"""A call may be due in a thousand years: longer than a thread can be told to sleep."""


class Entry:
    """One call that is to come, or one that comes again and again; `cancel` calls it off."""

    def __init__(
        self, fun: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any] | None, every: float | None
    ) -> None:
        self.fun, self.args, self.kwargs, self.every = fun, tuple(args), dict(kwargs or {}), every
        self.canceled = False

    def cancel(self) -> None:
        self.canceled = True

    @property
    def cancelled(self) -> bool:
        return self.canceled

    def __call__(self) -> Any:
        return self.fun(*self.args, **self.kwargs)


class Timer:
    """Its thread starts with the first call that is asked for. `on_exit` is what a SystemExit in a call leads to."""

    def __init__(self, on_exit: Callable[[], None] = lambda: None) -> None:
        self._on_exit = on_exit
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Entry]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def call_after(
        self, secs: float, fun: Callable[..., Any], args: Sequence[Any] = (), kwargs: Any = None, priority: int = 0
    ) -> Entry:
        """Call once, after so many seconds. `priority` is Celery's and has no effect."""
        return self._enter(Entry(fun, args, kwargs, None), time.monotonic() + secs)

    def call_repeatedly(
        self, secs: float, fun: Callable[..., Any], args: Sequence[Any] = (), kwargs: Any = None, priority: int = 0
    ) -> Entry:
        """Call every so many seconds, the first time after that long."""
        return self._enter(Entry(fun, args, kwargs, secs), time.monotonic() + secs)

    def call_at(
        self,
        eta: float | datetime,
        fun: Callable[..., Any],
        args: Sequence[Any] = (),
        kwargs: Any = None,
        priority: int = 0,
    ) -> Entry:
        """Call once, at a time: a datetime, in UTC where it has no zone, or seconds as of `time.monotonic`."""
        if isinstance(eta, datetime):
            at = eta if eta.tzinfo is not None else eta.replace(tzinfo=UTC)
            return self.call_after((at - datetime.now(UTC)).total_seconds(), fun, args, kwargs)
        return self._enter(Entry(fun, args, kwargs, None), eta)

    def cancel(self, entry: Entry) -> None:
        entry.cancel()

    def stop(self) -> None:
        """Make no further call; returns when none is under way. May be called twice, and from a call."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _enter(self, entry: Entry, at: float) -> Entry:
        with self._changed:
            heapq.heappush(self._due, (at, next(self._order), entry))
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="timer", daemon=True)
                self._thread.start()
            self._changed.notify()
        return entry

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopped and not (self._due and self._due[0][0] <= time.monotonic()):
                    left = self._due[0][0] - time.monotonic() if self._due else LONGEST_SLEEP_SECONDS
                    self._changed.wait(min(left, LONGEST_SLEEP_SECONDS))
                if self._stopped:
                    return
                at, _, entry = heapq.heappop(self._due)
            if not entry.canceled:
                self._call(entry)
                if entry.every is not None and not entry.canceled:
                    # Not all that were missed, where a call took long.
                    self._enter(entry, max(at + entry.every, time.monotonic()))

    def _call(self, entry: Entry) -> None:
        try:
            entry()
        except SystemExit:
            self._on_exit()
        except Exception:
            logger.exception("A timer's call of %r failed; it goes on", entry.fun)
