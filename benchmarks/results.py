"""The figures of one run, and what they say about the bars."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from benchmarks.rows import Bar, Row

Rounds = list[dict[str, float] | None]
"""What a contestant did in each round; None where it failed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    bar: Bar
    value: float | None
    """The figure, or its ratio to the peer's; None where one of them is missing."""

    @property
    def word(self) -> str:
        if self.value is None:
            return "unknown"
        met = self.value >= self.bar.limit if self.bar.at_least else self.value <= self.bar.limit
        return "met" if met else "MISSED"


@dataclass(slots=True)
class Result:
    """Of one row."""

    name: str
    row: Row
    rounds: dict[str, Rounds] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def median(self, contestant: str, figure: str) -> float | None:
        values = [each for each in self._values(contestant, figure) if each is not None]
        return statistics.median(values) if values else None

    def ratio(self, one: str, figure: str, other: str, other_figure: str) -> float | None:
        """The median of the rounds' ratios: both were measured within seconds of each other."""
        pairs = zip(self._values(one, figure), self._values(other, other_figure), strict=False)
        ratios = [own / peer for own, peer in pairs if own is not None and peer]
        return statistics.median(ratios) if ratios else None

    def verdicts(self) -> list[Verdict]:
        return [Verdict(bar, self._value(bar)) for bar in self.row.bars]

    def _value(self, bar: Bar) -> float | None:
        if bar.peer is None:
            return self.median(bar.own, bar.figure)
        return self.ratio(bar.own, bar.figure, bar.peer, bar.peer_figure or bar.figure)

    def _values(self, contestant: str, figure: str) -> list[float | None]:
        return [each.get(figure) if each else None for each in self.rounds.get(contestant, [])]
