"""The tasks of an application by name: Celery's `celery.app.registry`."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from dbqueue.canvas.builtins import is_builtin
from dbqueue.errors import ImproperlyConfigured, NotRegistered
from dbqueue.task import Task as BaseTask

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

__all__ = ["TaskRegistry"]


class TaskRegistry(dict[str, BaseTask[Any, Any]]):
    """The tasks of an application by name."""

    def __init__(self, app: DBQueue | None = None) -> None:
        super().__init__()
        self._app = None if app is None else weakref.ref(app)

    def register(self, task: BaseTask[Any, Any] | type[BaseTask[Any, Any]]) -> None:
        """`app.register_task`, as older programs call it."""
        app = None if self._app is None else self._app()
        if app is None:
            raise ImproperlyConfigured("this registry belongs to no application: use app.register_task(task)")
        app.register_task(task)

    def unregister(self, name: str | BaseTask[Any, Any]) -> None:
        """Forget a task. Raises NotRegistered."""
        del self[self[name if isinstance(name, str) else name.name].name]

    def declared(self) -> dict[str, BaseTask[Any, Any]]:
        """Without those that every application has (`dbqueue.canvas.builtins`): what people list."""
        return {name: task for name, task in self.items() if not is_builtin(name)}

    def __missing__(self, name: str) -> BaseTask[Any, Any]:
        raise NotRegistered(
            f"no task is registered as {name!r}: is the module that defines it imported, or in `include`?"
        )
