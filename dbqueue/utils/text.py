"""Texts for people: what programs import of `celery.utils.text`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable


def truncate(text: str, maxlen: int = 128, suffix: str = "...") -> str:
    """The text, or its beginning and the suffix where it is longer than `maxlen`."""
    return text if len(text) <= maxlen else text[:maxlen].rpartition(" ")[0] + suffix


def abbr(text: str | None, max: int, ellipsis: str | bool = "...") -> str:
    """The text, cut to `max` characters with the ellipsis as the last of them."""
    if text is None:
        return "???"
    if len(text) <= max:
        return text
    end = ellipsis if isinstance(ellipsis, str) else ""
    return text[: max - len(end)] + end


def indent(text: str, indent: int = 0, sep: str = "\n") -> str:
    """Each line moved to the right by so many spaces."""
    return sep.join(" " * indent + line for line in text.split(sep))


def dedent(text: str, sep: str = "\n") -> str:
    """The lines without the margin that they share."""
    return textwrap.dedent(text).strip(sep)


def join(lines: Iterable[str], sep: str = "\n") -> str:
    """The lines that are not empty, as one text."""
    return sep.join(line for line in lines if line)


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """The word, with the suffix where there is not one."""
    return text if n == 1 else text + suffix


def str_to_list(text: str | Iterable[str]) -> list[str]:
    """`'a, b'` as `['a', 'b']`."""
    return [part.strip() for part in text.split(",")] if isinstance(text, str) else list(text)
