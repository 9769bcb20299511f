"""What workers leave open (I10): looked at when the faults have ended, and when the workers have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from tests.waiting import wait_until

SESSIONS: Final = 2
"""Of a worker: one for the rounds, one for heartbeats."""
FEW: Final = 16
"""So many descriptors come and go: of pool processes that are replaced, of a pool of connections."""


def descriptors(pid: int) -> int:
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except FileNotFoundError:
        return 0


def await_descriptors(before: Mapping[int, int]) -> None:
    """Until each of these processes has about as few as it had `before`."""

    def too_many() -> dict[int, int]:
        return {pid: found for pid, count in before.items() if (found := descriptors(pid)) > count + FEW}

    _await_none(too_many, "descriptors of workers: about as few as at the start")


def await_sessions(store: Any, most: int) -> None:
    """Until workers have at most so many sessions, and nobody of theirs is idle in a transaction (PostgreSQL)."""
    if store.dialect != "postgresql":
        return

    def too_many() -> list[tuple[Any, ...]]:
        with store.connect() as connection:
            found = [tuple(each) for each in connection.execute(sa.text(_SESSIONS))]
        of_workers = [each for each in found if each[0].startswith("dbqueue ")]
        idle = [each for each in found if each[1].startswith("idle in transaction")]
        return idle if len(of_workers) <= most else of_workers

    _await_none(too_many, f"sessions of workers: at most {most}, and none idle in a transaction")


_SESSIONS: Final = """
SELECT application_name, state, query FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
  AND application_name <> 'shop' AND state IS NOT NULL"""


def _await_none(too_many: Callable[[], Sized], what: str) -> None:
    try:
        wait_until(lambda: not too_many(), timeout=30.0, what=what)
    except AssertionError as error:
        raise AssertionError(f"{error}; {too_many()}") from None
