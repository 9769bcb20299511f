"""The sample's application in a worker that breaks: in a place, and for as long, as a file says.

The faults are put in from outside, since the worker has no place of its own where any code may fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbqueue import DBQueue
from dbqueue.store.postgres.watch_session import PostgresWatchSession
from dbqueue.store.sqlite.watch_session import SqliteWatchSession
from dbqueue.worker.supervising.supervisor import Supervisor
from tests.worker import sample

LOOP = "BREAK_LOOP"
WATCH = "BREAK_WATCH"
"""Variables that name a file: while it is there, the loop or the watch raises."""


def make_app(url: str, **settings: Any) -> DBQueue:
    _break(Supervisor, "_look_after", LOOP)
    for session in (PostgresWatchSession, SqliteWatchSession):
        _break(session, "heartbeat", WATCH)
    return sample.make_app(url, **settings)


def _break(owner: type, name: str, variable: str) -> None:
    whole: Callable[..., Any] = getattr(owner, name)
    path = os.environ.get(variable)

    def broken(*arguments: Any) -> Any:
        if path is not None and Path(path).exists():
            raise LookupError(f"{name} is broken")
        return whole(*arguments)

    setattr(owner, name, broken)
