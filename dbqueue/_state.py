"""The current application and task, under the module name of `celery._state`."""

from __future__ import annotations

from dbqueue import current_app, current_task
from dbqueue.app_registry import set_default as set_default_app
from dbqueue.shared import current_app as get_current_app
from dbqueue.shared import current_task as get_current_task

get_current_worker_task = get_current_task

__all__ = [
    "current_app",
    "current_task",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "set_default_app",
]
