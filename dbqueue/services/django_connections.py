"""A worker of a Django project: it sets Django up, and closes connections of Django's that have died or are too old.

A web server does the latter around each request; a worker must around each task, or its tasks fail from the moment
the database was restarted, or CONN_MAX_AGE is over.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dbqueue import signals
from dbqueue.task.django_task import in_django


def prepare() -> None:
    """Set Django up and see to its connections; nothing outside of a Django project."""
    if not in_django():
        return
    if not import_module("django.apps").apps.ready:
        import_module("django").setup()
    signals.task_prerun.connect(_close_old, dispatch_uid=__name__)
    signals.task_postrun.connect(_close_old, dispatch_uid=__name__)


def before_fork() -> None:
    """Close what modules of the project have opened while they were imported: pool processes must not share it."""
    if in_django():
        import_module("django.db").connections.close_all()


def _close_old(task: Any = None, **kwargs: Any) -> None:
    # In eager mode a task runs in the middle of its caller's transaction.
    if task is None or not task.request.is_eager:
        import_module("django.db").close_old_connections()
