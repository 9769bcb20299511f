"""Tasks that take and return pydantic models: `@app.task(pydantic=True)`, as in Celery 5.5.

Callers send what JSON carries (`task.delay(model.model_dump())`), or the model itself where it comes back
equal from its dump, as in Celery 5.7. In the worker, and where the task
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
) -> tuple[Callable[..., Any], Validation]:
    """The function with its models validated and dumped, and what does so; `async def` stays `async def`.

    `strict` and `context` are those of pydantic's `model_validate`; the context has the application
    and the task's name besides, as `dbqueue_app` and `dbqueue_task_name`, and under Celery's names.
    `dump_kwargs` are those of `model_dump`, by default `mode="json"`. Raises ImproperlyConfigured
    where pydantic is not installed; a call raises pydantic's ValidationError.
    """
    try:
        from pydantic import BaseModel
    except ImportError:
        raise ImproperlyConfigured(
            f"the task {name} has pydantic=True, which needs pydantic: pip install 'dbqueue-sql[pydantic]'"
        ) from None
    names = {"app": app, "task_name": name}
    known = {f"{prefix}_{key}": value for prefix in ("celery", "dbqueue") for key, value in names.items()}
    # At the first call: a model may stand below its task in the module.
    models = functools.cache(lambda: Models.of(fun, BaseModel))
    validation = Validation(models, strict, {**known, **(context or {})}, {"mode": "json", **(dump_kwargs or {})})

    if inspect.iscoroutinefunction(fun):

        @functools.wraps(fun)
        async def arun(*args: Any, **kwargs: Any) -> Any:
            bound = validation.taken(args, kwargs)
            return validation.given(await fun(*bound.args, **bound.kwargs))

        return arun, validation

    @functools.wraps(fun)
    def run(*args: Any, **kwargs: Any) -> Any:
        bound = validation.taken(args, kwargs)
        return validation.given(fun(*bound.args, **bound.kwargs))

    return run, validation


@dataclass(frozen=True, slots=True)
class Validation:
    """What is done with the models of one task, on either side of a call."""

    models: Callable[[], Models]
    strict: bool
    context: Mapping[str, Any]
    dump_kwargs: Mapping[str, Any]

    def dump_models(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Put dumps in the place of models, in the arguments of a call."""
        args[:] = [self._dumped(value) for value in args]
        kwargs.update({name: self._dumped(value) for name, value in kwargs.items()})

    def _dumped(self, value: Any) -> Any:
        """The dump of a model of one of the parameters; another value, and a model that would change, as it is."""
        model = type(value)
        if model not in self.models().classes or hasattr(model, "__json__"):
            return value
        try:
            dumped = value.model_dump(**self.dump_kwargs)
            return dumped if self._validated(model, dumped) == value else value
        except Exception:  # noqa: BLE001 - the model's own code: the serializer is to say that it cannot be sent
            return value

    def taken(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """The arguments of a run, validated."""
        bound = self.models().signature.bind(*args, **kwargs)
        for each, (model, optional) in self.models().parameters.items():
            if each in bound.arguments and not (optional and bound.arguments[each] is None):
                bound.arguments[each] = self._validated(model, bound.arguments[each])
        return bound

    def _validated(self, model: Any, value: Any) -> Any:
        return model.model_validate(value, strict=self.strict, context=self.context)

    def given(self, value: Any) -> Any:
        """What a run returned, dumped if it is a model of the annotated class."""
        returned = self.models().returned
        return value.model_dump(**self.dump_kwargs) if returned is not None and isinstance(value, returned) else value


@dataclass(frozen=True, slots=True)
class Models:
    """The models in a function's annotations."""

    signature: inspect.Signature
    parameters: dict[str, tuple[Any, bool]]
    """The model of each parameter that has one, and whether None may stand in its place."""
    returned: Any
    classes: frozenset[Any]
    """Those of the parameters."""

    @classmethod
    def of(cls, fun: Callable[..., Any], base: type) -> Models:
        signature, hints = inspect.signature(fun), _hints(fun)
        found = {name: _model(hints.get(name), base) for name in signature.parameters}
        parameters = {name: (model, hints[name] is not model) for name, model in found.items() if model is not None}
        classes = frozenset(model for model, _ in parameters.values())
        return cls(signature, parameters, _model(hints.get("return"), base), classes)


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
