"""What commands print: tables, JSON, ages, colours.

Text from the database is made harmless before it reaches a terminal: whoever may enqueue could
otherwise send it control sequences.
"""

from __future__ import annotations

import dataclasses
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

import click

from dbqueue import codec
from dbqueue.errors import DecodeError
from dbqueue.jobs import FAILURE, PENDING, RETRY, REVOKED, STARTED, SUCCESS
from dbqueue.shown import harmless

F = TypeVar("F", bound=Callable[..., Any])

STATUS_COLOURS: Final = {
    PENDING: "blue",
    STARTED: "cyan",
    RETRY: "yellow",
    SUCCESS: "green",
    FAILURE: "red",
    REVOKED: "magenta",
}

_HALVES: Final = re.compile("[\ud800-\udfff]")
"""Of surrogate pairs, which no terminal takes."""
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def json_option(command: F) -> F:
    """The option `-j` or `--json`, as the argument `as_json`."""
    return click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")(command)


def print_json(value: Any) -> None:
    """Dataclasses and datetimes included; other alphabets stay readable."""
    text = json.dumps(value, default=_plain, ensure_ascii=False, indent=2)
    click.echo(_HALVES.sub(lambda half: f"\\u{ord(half[0]):x}", text))


def from_row(text: str | None) -> Any:
    """The value of a JSON column; its text where that is no JSON that can be read."""
    try:
        return None if text is None else codec.loads(text, typed=False)
    except DecodeError:
        return text


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[int] = ()) -> None:
    """Columns under their names; those with the indexes `right` are flush right. Statuses have their colours."""
    table = [[harmless(str(cell)) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(header, *table, strict=True)]
    right = frozenset(right)

    def line(cells: Sequence[str]) -> str:
        padded = (
            " " * (width - _width(cell)) + cell if index in right else cell + " " * (width - _width(cell))
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    click.secho(line(header), bold=True)
    for row in table:
        text = line(row)
        for status in (cell for cell in row if cell in STATUS_COLOURS):
            text = text.replace(status, click.style(status, fg=STATUS_COLOURS[status]), 1)
        click.echo(text)


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else not unicodedata.combining(char) for char in text)


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `3 s`, `2 h 5 min`."""
    if seconds < 1:
        return f"{seconds:.2g} s" if seconds >= 0.001 else "0 s"
    left = round(seconds)
    parts: list[tuple[int, str]] = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count)


def age(moment: datetime | None, now: datetime) -> str:
    """How long ago, or `in ...` where it is to come."""
    if moment is None:
        return "-"
    seconds = (now - moment) / timedelta(seconds=1)
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def no_such_job(job_id: str) -> str:
    return f"there is no job {harmless(job_id)!r}: it was never enqueued, or deleted after result_expires"


def count(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
