"""Tasks that every application has: what canvases call besides its own. The names are Celery's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dbqueue.canvas.signatures import signature
from dbqueue.task import Task

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

PREFIX: Final = "celery."
"""Their names begin with this; lists of an application's tasks leave them out."""


def register(app: DBQueue) -> None:
    """Register the tasks with the application."""

    def accumulate(*args: Any, index: int | None = None) -> Any:
        return list(args) if index is None else args[index]

    def xmap(task: Mapping[str, Any], it: Iterable[Any]) -> list[Any]:
        call = app.tasks[task["task"]]
        return [call(item) for item in it]

    def xstarmap(task: Mapping[str, Any], it: Iterable[Any]) -> list[Any]:
        call = app.tasks[task["task"]]
        return [call(*item) for item in it]

    def chunks(task: Any, it: Iterable[Any], n: int) -> Any:
        from dbqueue.canvas import primitives

        return primitives.chunks(task, it, n, app=app)().as_tuple()

    def group(tasks: Iterable[Any], *args: Any, **options: Any) -> Any:
        from dbqueue.canvas import primitives

        return primitives.group(list(tasks), app=app).apply_async().as_tuple()

    # A canvas is sent as the jobs that it consists of. One that is a job by itself (sent by its name) sends them.
    def chain(*args: Any, tasks: Iterable[Any] = (), **kwargs: Any) -> Any:
        from dbqueue.canvas import primitives

        result = primitives.chain.of([signature(task, app=app) for task in tasks], app).apply_async(args, kwargs)
        return None if result is None else result.as_tuple()

    def chord(header: Any, body: Any, partial_args: Iterable[Any] = (), **options: Any) -> Any:
        from dbqueue.canvas import primitives

        return primitives.chord(header, body, app=app).apply_async(tuple(partial_args)).as_tuple()

    named = {"map": xmap, "starmap": xstarmap}
    for function in (accumulate, xmap, xstarmap, chunks, group, chain, chord):
        name = next((name for name, each in named.items() if each is function), function.__name__)
        # Unchecked: a checker is compiled, which costs each application more than all the rest of this.
        app._make_task(function, name=PREFIX + name, base=Task, typing=False)


def is_builtin(name: str) -> bool:
    return name.startswith(PREFIX)
