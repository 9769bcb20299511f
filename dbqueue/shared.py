"""`@shared_task` and `current_app`: for modules that do not know their application.

Such a module is often imported before the application is made (Flask's factories, Django's apps). So what stands
in it is a proxy, which asks for the application anew each time it is used, as Celery's does.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast, overload

from dbqueue import app_registry
from dbqueue.app import DBQueue
from dbqueue.local import Proxy

if TYPE_CHECKING:
    from dbqueue.task import Task as BaseTask
    from dbqueue.task.types import AsyncTask, BoundDecorator, Decorator

P = ParamSpec("P")
R = TypeVar("R")


def current_app() -> DBQueue:
    """The application of this thread: the last one made here, the default one, or the latest that lives."""
    app: DBQueue | None = app_registry.find()
    if app is None:
        app = DBQueue("default", set_as_current=False)
        app_registry.set_fallback(app)
    return app


def current_task() -> BaseTask[Any, Any] | None:
    """The task that runs here; None outside of a job."""
    return current_app().current_task


def shared(fun: Callable[..., Any], name: str | None) -> BaseTask[Any, Any]:
    """The task that the current application has of this function."""
    app = current_app()
    task: BaseTask[Any, Any] = app.tasks[name or app.gen_task_name(fun.__name__, fun.__module__)]
    return task


def task_named(name: str, module: str) -> BaseTask[Any, Any]:
    """The current application's task of that name, whose module is imported if it is not known yet."""
    app = current_app()
    if name not in app.tasks:
        import_module(module)
    return app.tasks[name]


@overload
def shared_task(fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def shared_task(fun: Callable[P, R], /) -> BaseTask[P, R]: ...
@overload
def shared_task(fun: None = None, /, *, bind: Literal[True], **options: Any) -> BoundDecorator: ...
@overload
def shared_task(fun: None = None, /, *, bind: Literal[False] = False, **options: Any) -> Decorator: ...
def shared_task(*args: Any, **options: Any) -> Any:
    """A task for whatever application is used: `@shared_task`, with the options of `app.task`.

    It is registered with every application, those made later included; what stands in the module is
    the task of the application that is current when it is used.
    """

    def share(fun: Callable[..., Any]) -> BaseTask[Any, Any]:
        def register(app: DBQueue) -> BaseTask[Any, Any]:
            return app._make_task(fun, **options)

        app_registry.shared.append(register)
        for app in app_registry.alive():
            if "tasks" in vars(app):  # or it will register all of them when it is first asked for its tasks
                register(app)
        return cast("BaseTask[Any, Any]", Proxy(shared, (fun, options.get("name"))))

    return share(args[0]) if args and callable(args[0]) else share
