"""`dbqueue result --follow`: a job's states as they come, as a bar where the job counts (`dbqueue.track`)."""

from __future__ import annotations

import sys
import time
from typing import Any, Final, TypeGuard

import click

from dbqueue.shown import harmless

LOOK_SECONDS: Final = 0.25
"""Between two looks at the row: the pace at which workers write progress."""
BAR_WIDTH: Final = 32
META_WIDTH: Final = 60
"""Characters of a meta that is no count: a line is for a glance."""


def show_progress(result: Any, timeout: float | None) -> None:
    """Print the job's states to standard error until it has ended, for at most `timeout` seconds.

    On a terminal they take each other's place on one line; elsewhere each that differs has its own.
    """
    terminal, shown = sys.stderr.isatty(), ""
    deadline = None if timeout is None else time.monotonic() + timeout
    while result.exists() and not result.ready() and (deadline is None or time.monotonic() < deadline):
        text = _line(result.state, result.info)
        if text != shown:
            shown = text
            click.echo(f"\r\033[K{text}" if terminal else text, nl=not terminal, err=True)
        result.app.database.waiter.wait(result.id, timeout=LOOK_SECONDS, interval=LOOK_SECONDS)
    if terminal and shown:
        click.echo("\r\033[K", nl=False, err=True)


def _line(state: str, info: Any) -> str:
    """`PROGRESS [#####---] 5/8`, `COUNTING {'rows': 3}` or the state alone."""
    who_runs_it = isinstance(info, dict) and info.keys() == {"pid", "hostname"}
    if isinstance(info, BaseException) or info is None or who_runs_it:
        return harmless(state)
    current, total = (info.get("current"), info.get("total")) if isinstance(info, dict) else (None, None)
    if not _counts(current):
        text = harmless(repr(info))
        return harmless(state) + " " + (text if len(text) <= META_WIDTH else text[: META_WIDTH - 3] + "...")
    if not _counts(total) or total <= 0:
        return f"{harmless(state)} {current:g}"
    done = min(max(current / total, 0.0), 1.0)
    filled = int(done * BAR_WIDTH)
    return f"{harmless(state)} [{'#' * filled}{'-' * (BAR_WIDTH - filled)}] {current:g}/{total:g} ({done:.0%})"


def _counts(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
