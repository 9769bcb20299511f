"""dbqueue: Celery's API on the SQL database an application already has.

from dbqueue import DBQueue

app = DBQueue("cele", broker="postgresql://localhost/shop")

@app.task
def add(x, y):
    return x + y

add.delay(1, 2).get(timeout=10)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dbqueue.version import __version__

if TYPE_CHECKING:
    from dbqueue.app import Celery as Celery
    from dbqueue.app import DBQueue as DBQueue
    from dbqueue.canvas import Signature as Signature
    from dbqueue.canvas import batch as batch
    from dbqueue.canvas import chain as chain
    from dbqueue.canvas import chord as chord
    from dbqueue.canvas import chunks as chunks
    from dbqueue.canvas import dag as dag
    from dbqueue.canvas import group as group
    from dbqueue.canvas import maybe_signature as maybe_signature
    from dbqueue.canvas import signature as signature
    from dbqueue.canvas import subtask as subtask
    from dbqueue.canvas import xmap as xmap
    from dbqueue.canvas import xstarmap as xstarmap
    from dbqueue.codec import register_type as register_type
    from dbqueue.database import using as using
    from dbqueue.limits import Limit as Limit
    from dbqueue.progress import track as track
    from dbqueue.result import AsyncResult as AsyncResult
    from dbqueue.shared import shared_task as shared_task
    from dbqueue.task import Task as Task
    from dbqueue.task.transactions import acomplete as acomplete
    from dbqueue.task.transactions import complete as complete
    from dbqueue.utils import uuid as uuid

    current_app: DBQueue
    current_task: Task[Any, Any] | None

_HOMES = {
    "AsyncResult": "dbqueue.result",
    "Celery": "dbqueue.app",
    "DBQueue": "dbqueue.app",
    "Limit": "dbqueue.limits",
    "Signature": "dbqueue.canvas",
    "batch": "dbqueue.canvas",
    "chain": "dbqueue.canvas",
    "chord": "dbqueue.canvas",
    "chunks": "dbqueue.canvas",
    "dag": "dbqueue.canvas",
    "group": "dbqueue.canvas",
    "maybe_signature": "dbqueue.canvas",
    "signature": "dbqueue.canvas",
    "subtask": "dbqueue.canvas",
    "xmap": "dbqueue.canvas",
    "xstarmap": "dbqueue.canvas",
    "Task": "dbqueue.task",
    "acomplete": "dbqueue.task.transactions",
    "complete": "dbqueue.task.transactions",
    "register_type": "dbqueue.codec",
    "shared_task": "dbqueue.shared",
    "track": "dbqueue.progress",
    "using": "dbqueue.database",
    "uuid": "dbqueue.utils",
}

_MODULES = frozenset(
    {
        "app", "bootsteps", "canvas", "contrib", "events", "exceptions", "local", "result", "schedules", "signals",
        "states", "utils",
    }
)  # fmt: skip

__all__ = ["__version__", "current_app", "current_task", *_HOMES]  # noqa: PLE0604 - all are names


def __getattr__(name: str) -> Any:
    """The one lazy seam: a name is imported when it is first used, so that `import dbqueue` is cheap.

    So are the modules that Celery's programs reach without an import of their own: `dbqueue.signals.task_prerun`.
    `current_app` and `current_task` are proxies: who imports them by name means those of the time of use.
    """
    if name in _HOMES:
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value
    if name in ("current_app", "current_task"):
        from dbqueue import shared
        from dbqueue.local import Proxy

        value = globals()[name] = Proxy(getattr(shared, name), name=name)
        return value
    if name in _MODULES:
        from importlib import import_module

        return import_module(f"dbqueue.{name}")
    raise AttributeError(f"module 'dbqueue' has no attribute {name!r}")
