"""The class of tasks in a Django project: calls that wait for the commit. Celery's `DjangoTask`."""

from __future__ import annotations

import functools
import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ParamSpec, TypeVar

from dbqueue.task import Task

P = ParamSpec("P")
R = TypeVar("R")


class DjangoTask(Task[P, R]):
    """What `app.Task` is where DJANGO_SETTINGS_MODULE is set.

    A call through Django's own connection (`dbqueue.using(connection)`) commits with the transaction, too, and cannot
    be lost between the two.
    """

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """`delay` when the transaction that is open in Django commits; at once without one, never after a rollback."""
        import_module("django.db.transaction").on_commit(functools.partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """`apply_async` when the transaction that is open in Django commits."""
        import_module("django.db.transaction").on_commit(functools.partial(self.apply_async, *args, **kwargs))


def in_django() -> bool:
    """Whether this is a process of a Django project."""
    return bool(os.environ.get("DJANGO_SETTINGS_MODULE")) and find_spec("django") is not None
