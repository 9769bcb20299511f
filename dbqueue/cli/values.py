"""Kinds of values that options take, where click's own let through what nothing can be done with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import click

from dbqueue.jobs import A_NAME, is_name


class Seconds(click.FloatRange):
    """A length of time: a number, and neither `nan` nor one that is without end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is no length of time.", param, ctx)
        return seconds


def queue_names(ctx: click.Context, param: click.Parameter, names: Sequence[str]) -> Sequence[str]:
    """Names of queues as a call may have them; the bytes of an argument may be no text."""
    for name in names:
        if not is_name(name):
            raise click.BadParameter(f"the name of a queue is {A_NAME}, not {name[:100]!a}")
    return names


def names(ctx: click.Context, param: click.Parameter, text: str | None) -> list[str]:
    """The names in a text with commas; none where the option is not given.

    One that is given and names nothing is refused, as an unset variable of a script leaves it: it would stand for all.
    """
    found = names_in(text)
    if text is not None and not found:
        raise click.BadParameter("this names nothing: leave it out for all")
    return found


def names_in(text: str | None) -> list[str]:
    """The names in a text with commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


SOME: Final = click.IntRange(min=1, max=2**31 - 1)
"""How many to show at most; the upper bound is one that every database takes."""
