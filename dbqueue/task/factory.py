"""From a function to a task: what `@app.task` makes of its function and its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dbqueue.errors import ImproperlyConfigured
from dbqueue.limits import Limit
from dbqueue.task import Task as BaseTask

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

PYDANTIC_OPTIONS: Final = {
    "pydantic_strict": "strict",
    "pydantic_context": "context",
    "pydantic_dump_kwargs": "dump_kwargs",
}
"""Celery's options, by the names that `validated` has for them."""


def make_task(
    app: DBQueue,
    fun: Callable[..., Any],
    *,
    name: str,
    base: type[BaseTask[Any, Any]],
    bind: bool,
    options: Mapping[str, Any],
) -> BaseTask[Any, Any]:
    """An instance of a new subclass of `base` whose `run` is the function.

    `options` are attributes of the task, and `pydantic`, `pydantic_strict`, `pydantic_context` and
    `pydantic_dump_kwargs`; see `pydantic_tasks`.
    """
    options = dict(options)
    chosen = {own: options.pop(given) for given, own in PYDANTIC_OPTIONS.items() if given in options}
    if options.pop("pydantic", False):
        from dbqueue.task.pydantic_models import validated

        fun, options["validation"] = validated(fun, app=app, name=name, **chosen)
    attributes: dict[str, Any] = {
        "run": fun if bind else staticmethod(fun),
        "app": app,
        "name": name,
        "bind": bind,
        "abstract": False,
        "is_async": inspect.iscoroutinefunction(fun),
        "__name__": fun.__name__,
        "__doc__": fun.__doc__,
        "__module__": fun.__module__,
        "__wrapped__": fun,
        **options,
    }
    for each in ("autoretry_for", "dont_autoretry_for", "throws"):
        if each in attributes:
            value = attributes[each]
            attributes[each] = (value,) if isinstance(value, type) else tuple(value)
    limit = attributes.get("limit")
    if limit is not None and not isinstance(limit, Limit):
        raise ImproperlyConfigured(
            f"limit of the task {name} is a dbqueue.Limit, such as Limit(running=5), not {limit!r}"
        )
    if callable(attributes.get("unique")):
        attributes["unique"] = staticmethod(attributes["unique"])  # of the call's arguments alone
    task: BaseTask[Any, Any] = type(fun.__name__, (base,), attributes)()
    return task
