"""What a claim returned, made into jobs when somebody looks at them.

A worker does so while the server works on its next round: reading rows takes a third as long as claiming them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, overload

import psycopg

from dbqueue.jobs import ClaimedJob

_INPUTS: Final = ClaimedJob._fields.index("inputs") - 1
"""Its place among the columns, which are the fields without the lease."""


class ClaimedRows(Sequence[ClaimedJob]):
    """The rows that a cursor has got, as jobs that are held under `lease`."""

    __slots__ = ("_cursor", "_jobs", "_lease")

    def __init__(self, cursor: psycopg.Cursor[tuple[Any, ...]], lease: str) -> None:
        self._cursor, self._lease = cursor, lease
        self._jobs: list[ClaimedJob] | None = None

    @property
    def have_inputs(self) -> bool:
        """Whether predecessors have left anything for one of them; without reading the rest of the rows."""
        result = self._cursor.pgresult
        return result is not None and any(result.get_value(row, _INPUTS) == b"t" for row in range(len(self)))

    def _read(self) -> list[ClaimedJob]:
        if self._jobs is None:
            lease = self._lease
            self._jobs = [ClaimedJob._make((row[0], lease, *row[1:])) for row in self._cursor.fetchall()]
        return self._jobs

    def __len__(self) -> int:
        return self._cursor.rowcount

    def __iter__(self) -> Iterator[ClaimedJob]:
        return iter(self._read())

    @overload
    def __getitem__(self, index: int) -> ClaimedJob: ...
    @overload
    def __getitem__(self, index: slice) -> list[ClaimedJob]: ...
    def __getitem__(self, index: int | slice) -> ClaimedJob | list[ClaimedJob]:
        return self._read()[index]
