"""An application all of whose tasks may run twice: with another among them no claim would be left to a crash."""

from __future__ import annotations

from typing import Any

from dbqueue import DBQueue
from tests.worker import sample


def make_app(url: str, **settings: Any) -> DBQueue:
    app = DBQueue("holding", broker=url, set_as_current=False, **settings)
    app.task(name="holding.hold")(sample.hold)
    return app
