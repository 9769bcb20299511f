"""The application of the tests of limits: tasks that note when they begin and end."""

from __future__ import annotations

import os
import time
from typing import Any

from dbqueue import DBQueue, Limit
from tests.worker.sample import note


def span(path: str, name: Any, seconds: float = 0.0, key: str = "") -> Any:
    """Note `+ name pid key time`, wait, note the same with a minus."""
    note(path, f"+ {name} {os.getpid()} {key} {time.time()}")
    time.sleep(seconds)
    note(path, f"- {name} {os.getpid()} {key} {time.time()}")
    return name


def make_app(url: str, **settings: Any) -> DBQueue:
    app = DBQueue("limited", broker=url, set_as_current=False, **settings)
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "two": {"limit": Limit(running=2)},
        "by_key": {"limit": Limit(running=1, key="by-{key}")},
        "paced": {"limit": Limit(rate="10/s")},
        "slow": {"rate_limit": "10/s"},
        "hourly": {"rate_limit": "1/h"},
    }
    for name, chosen in options.items():
        app.task(name=f"limited.{name}", **chosen)(span)
    return app
