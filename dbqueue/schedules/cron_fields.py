"""The fields of a crontab: what may stand in one, and the numbers that it means.

A field is a whole number, a text (`*`, `*/15`, `0,8-17/2`, `mon-fri`), or a collection of numbers
and texts. Ranges may go over the end: `fri-mon` is Friday to Monday, `22-2` the hours around
midnight.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

FieldSpec: TypeAlias = int | str | Iterable[int | str]

_WEEKDAYS: Final = {name: number for number, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_MONTH_NAMES: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_MONTHS: Final = {name: number for number, name in enumerate(_MONTH_NAMES, 1)}
_NAME_LETTERS: Final = 3
"""Names count by their first letters: `sun`, `Sunday`."""


class ParseException(ValueError):
    """A schedule's text, or a field of a crontab, that cannot be read."""


@dataclass(frozen=True, slots=True)
class Field:
    """One of the five: its name, the numbers from `low` to `high`, and words for them."""

    name: str
    low: int
    high: int
    words: Mapping[str, int] | None = None
    also: Mapping[int, int] | None = None
    """Numbers beyond the range that stand for one in it: cron's 7 for Sunday."""

    def expand(self, spec: FieldSpec) -> frozenset[int]:
        """The numbers that `spec` means. Raises ParseException (a ValueError), TypeError for another type."""
        if isinstance(spec, bool) or not isinstance(spec, int | str | Iterable):
            raise TypeError(f"{self.name} must be a number, a text or a collection of them, not {spec!r}")
        if isinstance(spec, int):
            return frozenset({self._in_range(self._number(str(spec)))})
        if isinstance(spec, str):
            return frozenset().union(*(self._part(part.strip()) for part in spec.split(",")))
        found = frozenset[int]().union(*(self.expand(each) for each in spec))
        if not found:
            raise ParseException(f"{self.name} must not be empty: it would never be due")
        return found

    def text(self, spec: FieldSpec) -> str:
        """`spec` as a field of cron text: a text as it is, without spaces, else numbers with commas."""
        if isinstance(spec, str):
            return "".join(spec.split())
        return ",".join(map(str, sorted(self.expand(spec))))

    def _part(self, part: str) -> frozenset[int]:
        """One element of a list: a number, a word, a range or a star, each with a step or without."""
        span, slash, step_text = part.partition("/")
        step = self._step(step_text, part) if slash else 1
        if span == "*":
            return frozenset(range(self.low, self.high + 1, step))
        first, dash, last = span.partition("-")
        start = self._number(first)
        if not dash:
            start = self._in_range(start)
            return frozenset(range(start, self.high + 1, step)) if slash else frozenset({start})
        end = self._number(last)
        if end >= start:
            return frozenset(self._in_range(number) for number in range(start, end + 1, step))
        around = [*range(start, self.high + 1), *range(self.low, end + 1)]
        return frozenset(around[::step])

    def _step(self, text: str, part: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) == 0:
            raise self._wrong(part, "a whole number from 1 as a step")
        return int(text)

    def _number(self, text: str) -> int:
        """A number or a word of this field; a 7 for Sunday stays a 7: `0-7` are all days, `7-7` is one."""
        text = text.strip().lower()
        if text.isascii() and text.isdigit():
            number = int(text)
        else:
            known = (self.words or {}).get(text[:_NAME_LETTERS]) if text.isalpha() else None
            if known is None:
                raise self._wrong(text, f"numbers from {self.low} to {self.high}" + self._hint())
            number = known
        if not self.low <= self._in_range(number) <= self.high:
            raise self._wrong(text, f"numbers from {self.low} to {self.high}")
        return number

    def _in_range(self, number: int) -> int:
        return (self.also or {}).get(number, number)

    def _hint(self) -> str:
        return f" or {', '.join(self.words)}" if self.words else ""

    def _wrong(self, found: str, wanted: str) -> ParseException:
        return ParseException(f"{self.name} of a crontab takes {wanted}: {found!r} was found")


MINUTE: Final = Field("minute", 0, 59)
HOUR: Final = Field("hour", 0, 23)
DAY_OF_MONTH: Final = Field("day_of_month", 1, 31)
MONTH_OF_YEAR: Final = Field("month_of_year", 1, 12, _MONTHS)
DAY_OF_WEEK: Final = Field("day_of_week", 0, 6, _WEEKDAYS, also={7: 0})
