"""The sample's application in a worker whose pool processes are late, all but one: until a file is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dbqueue import DBQueue, signals
from tests.waiting import wait_until
from tests.worker import sample

UNTIL = "LATE_UNTIL"
"""A variable that names the file."""


def make_app(url: str, **settings: Any) -> DBQueue:
    signals.worker_process_init.connect(wait_for_it, weak=False)
    return sample.make_app(url, **settings)


def wait_for_it(**given: Any) -> None:
    until = Path(os.environ[UNTIL])
    try:
        until.with_name("first").touch(exist_ok=False)
    except FileExistsError:
        wait_until(until.exists, what="the file")
