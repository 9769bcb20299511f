"""Celery's options of `worker` that mean nothing here.

They are taken, so that a command line can be ported as it is, and named in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

WITHOUT_MEANING: Final[tuple[tuple[tuple[str, ...], bool, str], ...]] = (
    (("--without-gossip",), True, "workers do not talk to each other"),
    (("--without-mingle",), True, "workers do not talk to each other"),
    (("--without-heartbeat",), True, "the heartbeat is what keeps a worker's jobs its own"),
    (("--heartbeat-interval",), False, "see the setting worker_heartbeat_interval"),
    (("-O", "--optimization"), False, "jobs always go to the pool process that is free (fair)"),
    (("--prefetch-multiplier",), False, "how much to claim ahead is measured"),
    (("--disable-prefetch",), True, "how much to claim ahead is measured"),
    (("-S", "--statedb"), False, "the state is in the database"),
    (("-s", "--schedule-filename", "--schedule"), False, "beat's state is in the database"),
    (("--pool-start-method",), False, "processes are forked"),
    (("--executable",), False, "the service goes on in the interpreter that was called"),
    (("--scheduler",), False, "the schedules are in the table dbqueue_schedules"),
)
"""Names, whether it is a flag, and why it means nothing."""


def celery_options(command: F) -> F:
    """Add all of these to a command, hidden in its help; see `unused`."""
    for names, is_flag, reason in WITHOUT_MEANING:
        command = _option(names, is_flag, _note(reason))(command)
    return command


NOTES: Final = f"{__name__}.notes"
"""Where a context keeps the options without meaning that were given, by the reason."""


def unused(ctx: click.Context) -> str | None:
    """One sentence about the options without meaning that were given; None if there are none."""
    given: dict[str, list[str]] = ctx.meta.get(NOTES, {})
    if not given:
        return None
    return "Without effect here: " + "; ".join(f"{', '.join(names)} ({reason})" for reason, names in given.items())


def _option(names: tuple[str, ...], is_flag: bool, callback: Callable[..., None]) -> Callable[[F], F]:
    return click.option(*names, is_flag=is_flag, hidden=True, expose_value=False, callback=callback)


def _note(reason: str) -> Callable[..., None]:
    def note(ctx: click.Context, param: click.Parameter, value: object) -> None:
        if value:
            ctx.meta.setdefault(NOTES, {}).setdefault(reason, []).append(max(param.opts, key=len))

    return note
