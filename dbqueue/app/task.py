"""Tasks, under the module name of `celery.app.task`."""

from __future__ import annotations

from dbqueue.context import Context
from dbqueue.task import Task

__all__ = ["Context", "Task"]
