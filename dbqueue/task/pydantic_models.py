"""Tasks that take and return pydantic models: `@app.task(pydantic=True)`, as in Celery 5.5.

Callers send what JSON carries (`task.delay(model.model_dump())`). In the worker, and where the task
is called as a function, each argument whose parameter is annotated with a model, or with a model or
None, is validated into that model; other annotations are left alone. A returned model of the
annotated class is dumped.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Union

from dbqueue.errors import ImproperlyConfigured


def validated(
    fun: Callable[..., Any],
    *,
    app: Any,
    name: str,
    strict: bool = False,
    context: Mapping[str, Any] | None = None,
    dump_kwargs: Mapping[str, Any] | None = None,
) -> Callable[..., Any]:
    """The function with its models validated and dumped; `async def` stays `async def`.

    `strict` and `context` are those of pydantic's `model_validate`; the context has the application
    and the task's name besides, as `dbqueue_app` and `dbqueue_task_name`, and under Celery's names.
    `dump_kwargs` are those of `model_dump`, by default `mode="json"`. Raises ImproperlyConfigured
    where pydantic is not installed; a call raises pydantic's ValidationError.
    """
    try:
        from pydantic import BaseModel
    except ImportError:
        raise ImproperlyConfigured(
            f"the task {name} has pydantic=True, which needs pydantic: pip install 'dbqueue[pydantic]'"
        ) from None
    names = {"app": app, "task_name": name}
    known = {f"{prefix}_{key}": value for prefix in ("celery", "dbqueue") for key, value in names.items()}
    info, dumping = {**known, **(context or {})}, {"mode": "json", **(dump_kwargs or {})}
    # At the first call: a model may stand below its task in the module.
    models = functools.cache(lambda: Models.of(fun, BaseModel))

    def taken(args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        bound = models().signature.bind(*args, **kwargs)
        for each, (model, optional) in models().parameters.items():
            if each in bound.arguments and not (optional and bound.arguments[each] is None):
                bound.arguments[each] = model.model_validate(bound.arguments[each], strict=strict, context=info)
        return bound

    def given(value: Any) -> Any:
        returned = models().returned
        return value.model_dump(**dumping) if returned is not None and isinstance(value, returned) else value

    if inspect.iscoroutinefunction(fun):

        @functools.wraps(fun)
        async def arun(*args: Any, **kwargs: Any) -> Any:
            bound = taken(args, kwargs)
            return given(await fun(*bound.args, **bound.kwargs))

        return arun

    @functools.wraps(fun)
    def run(*args: Any, **kwargs: Any) -> Any:
        bound = taken(args, kwargs)
        return given(fun(*bound.args, **bound.kwargs))

    return run


@dataclass(frozen=True, slots=True)
class Models:
    """The models in a function's annotations."""

    signature: inspect.Signature
    parameters: dict[str, tuple[Any, bool]]
    """The model of each parameter that has one, and whether None may stand in its place."""
    returned: Any

    @classmethod
    def of(cls, fun: Callable[..., Any], base: type) -> Models:
        signature, hints = inspect.signature(fun), _hints(fun)
        found = {name: _model(hints.get(name), base) for name in signature.parameters}
        parameters = {name: (model, hints[name] is not model) for name, model in found.items() if model is not None}
        return cls(signature, parameters, _model(hints.get("return"), base))


def _hints(fun: Callable[..., Any]) -> dict[str, Any]:
    """The annotations, read even where they are text; as they stand where a name of theirs is unknown."""
    try:
        return typing.get_type_hints(fun)
    except (NameError, TypeError, AttributeError):
        return dict(inspect.get_annotations(fun))


def _model(annotation: Any, base: type) -> Any:
    """The model class of `Model`, `Model | None` or `Optional[Model]`; None for any other annotation."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        chosen = [each for each in typing.get_args(annotation) if each is not type(None)]
        if len(chosen) == len(typing.get_args(annotation)) or len(chosen) != 1:
            return None
        annotation = chosen[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, base) else None
