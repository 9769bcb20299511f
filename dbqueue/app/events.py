"""Events for monitors, under the module name of `celery.app.events`."""

from __future__ import annotations

from dbqueue.events import Events

__all__ = ["Events"]
