"""Where claims begin to look while dead entries stand at the head of the claim index.

A transaction that stays open, anywhere in the database, keeps the server from forgetting what has been claimed since:
each claim walks past all of it (140,000 jobs later a round took 90 ms in the place of 8, and the rate fell to a
twelfth). So a worker remembers, for each queue and priority, the last place from which it claimed, and begins
there while the walk from the bottom is slow.

It is a hint. A job may come below it: one whose enqueue was committed late, or that another worker handed back (what
this one hands back lowers it). A look from the bottom finds those, and is what every claim does unless it is measurably
slow: after two slow ones in turn looks take at most a twentieth of the time. One alone may have waited for the disk or
for a lock, and is believed for seconds only: a worker that starts beside millions of dead entries, where a look takes
two seconds, need not take two of them to begin.

What is slow depends on the machine. A round with hints tells what a row costs here, and under load there is one now and
then: so a walk past some ten thousand entries is noticed too, which takes as long as all else in its round.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

from dbqueue.jobs import ClaimedJob
from dbqueue.store.records import Claim

SLOW_SECONDS: Final = 0.03
SLOW_SECONDS_A_ROW: Final = 0.0003
"""On any machine: a round without dead entries takes a third of this, for each row that it ends or claims, or less."""
MEASURED_ROWS: Final = 200
"""A round of fewer says little of what a row costs."""
DEARER: Final = 1.2
"""How much more than with hints a row may cost in a look from the bottom."""
BESIDE_ROWS_SECONDS: Final = 0.005
"""What a round takes whatever its rows; and what it may wait for, a commit for one."""
MEASURED_FOR_SECONDS: Final = 30.0
"""How long to believe what a row has cost."""
PATIENCE: Final = 20
"""How much longer than a slow look from the bottom the time until the next one is."""
LONGEST_SECONDS: Final = 60.0
FIRST_PATIENCE: Final = 4
"""After one slow look that followed a quick one."""
FIRST_LONGEST_SECONDS: Final = 5.0
MOST_LEVELS: Final = 1000
LOWEST, HIGHEST = -(2**15) - 1, 2**15
"""Beside the priorities of a smallint."""

Level = tuple[str, int]


class Floors:
    """What one worker's session remembers. Times come as the database's text, all in UTC: they sort as text."""

    def __init__(self) -> None:
        self._floors: dict[Level, tuple[str, str]] = {}
        self._bottom_at = 0.0
        """When to look from the bottom again, on the monotonic clock."""
        self.slow = False
        """Whether claims are, by any machine's measure: the last look from the bottom was."""
        self._walked = False
        """Whether the last look from the bottom was slower than one with hints."""
        self._row_seconds: float | None = None
        """What a row costs in a round with hints."""
        self._measured_at = 0.0

    @property
    def seconds_to_bottom(self) -> float:
        """How long hints are used yet; 0: they are not."""
        return max(0.0, self._bottom_at - time.monotonic())

    def hints(self, queues: Sequence[str]) -> dict[str, Any] | None:
        """Parameters of the statements that use them; None: look from the bottom."""
        if self.seconds_to_bottom == 0.0:
            return None
        known: list[tuple[int, str, int, str, str]] = []
        gaps: list[tuple[int, str, int, int]] = []
        for position, queue in enumerate(queues):
            above = HIGHEST
            for priority in sorted((level[1] for level in self._floors if level[0] == queue), reverse=True):
                known.append((position, queue, priority, *self._floors[queue, priority]))
                gaps.append((position, queue, above, priority))
                above = priority
            gaps.append((position, queue, above, LOWEST))
        names = ("level_position", "level_queue", "level_priority", "level_ready_at", "level_id")
        gap_names = ("gap_position", "gap_queue", "gap_below", "gap_above")
        columns: dict[str, Any] = {name: [row[place] for row in known] for place, name in enumerate(names)}
        return columns | {name: [row[place] for row in gaps] for place, name in enumerate(gap_names)}

    def learn(self, claim: Claim, claimed: Sequence[ClaimedJob], *, hinted: bool, seconds: float, rows: int) -> None:
        """What came of a claim; with it the round took so long, for so many rows."""
        now = time.monotonic()
        full = len(claimed) >= claim.limit
        measured = rows >= MEASURED_ROWS
        if hinted:
            if measured and full:
                self._measure(seconds / rows, now)
        else:
            self.slow = seconds > SLOW_SECONDS + SLOW_SECONDS_A_ROW * rows
            again, self._walked = self._walked, self.slow or (measured and self._is_dear(seconds, rows))
            if self._walked:
                patience, longest = (PATIENCE, LONGEST_SECONDS) if again else (FIRST_PATIENCE, FIRST_LONGEST_SECONDS)
                self._bottom_at = now + min(patience * seconds, longest)
            elif measured and full and now - self._measured_at > MEASURED_FOR_SECONDS:
                self._bottom_at = now + seconds  # one round with hints, to compare
            else:
                self._bottom_at = 0.0
                return  # the hints are not used, and will not be before there was a slow look
        last = {(job.queue, job.priority): (job.ready_at, job.id) for job in claimed}
        if hinted or full:  # there may be more right behind it
            self._floors.update(last)
        else:
            for level, place in last.items():
                self._floors[level] = max(place, self._floors.get(level, place))
        if len(self._floors) > MOST_LEVELS:
            self._floors.clear()

    def _measure(self, row_seconds: float, now: float) -> None:
        known = self._row_seconds
        self._row_seconds = row_seconds if known is None else known + 0.3 * (row_seconds - known)
        self._measured_at = now

    def _is_dear(self, seconds: float, rows: int) -> bool:
        return self._row_seconds is not None and seconds > BESIDE_ROWS_SECONDS + DEARER * self._row_seconds * rows

    def forget(self) -> None:
        """Jobs are back at places that nobody has told: the next claim looks from the bottom."""
        self._bottom_at = 0.0

    def lower(self, level: Level, place: tuple[str, str]) -> None:
        """A job of this worker's is back at this place: it is not to wait for the next look from the bottom."""
        if level in self._floors and self._floors[level] >= place:
            self._floors[level] = (place[0], "")  # ids are not empty: this is right below it
