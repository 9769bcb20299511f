"""Keys that a call's arguments make: for unique calls, and for limits by customer, host, ...

    unique=True                         the task and all of its arguments
    "customer-{customer_id}"            a template of the arguments, by the function's names for them
    lambda customer_id, **_: ...        a function of the call's arguments; None: no key for this call

A positional argument and the same one by its name are one call, where the task is registered; so is
one that is left out and its default.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from dbqueue import codec
from dbqueue.errors import EncodeError
from dbqueue.jobs import digest, shortened, storable
from dbqueue.limits import check_key
from dbqueue.shown import shown

if TYPE_CHECKING:
    from dbqueue.task import Task

_NO_LIMIT: Final = 1 << 40


def unique_key(
    task: Task[Any, Any] | None, name: str, key: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, given: bool
) -> str | None:
    """The unique key of a call: of the task's own, so that two tasks may use the same words.

    `key` is True or what `made_key` takes. Raises ValueError for a template or a value that cannot
    be one, EncodeError where the arguments have no JSON to compare them by.
    """
    text = _digest(_arguments(task, args, kwargs), name) if key is True else made_key(task, key, args, kwargs, given)
    return None if text is None else shortened(f"{name}:{text}")


def limit_key(
    task: Task[Any, Any] | None, given: str | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> str | None:
    """The key of the limit that a call counts against: the one given with it, or that of its task's limit.

    Raises ValueError for a text that cannot be one.
    """
    limit = None if task is None else task.limit
    if given is not None:
        return check_key(given)
    if task is None or limit is None:
        return None
    fixed = limit.fixed_key(task.name)
    key = fixed or made_key(task, limit.key, args, kwargs, given=False)
    return None if key is None else check_key(key)


def made_key(
    task: Task[Any, Any] | None, key: Any, args: Sequence[Any], kwargs: Mapping[str, Any], given: bool
) -> str | None:
    """The text of a key: `given` with the call it is a text as it stands; the task's is a template or a function."""
    if callable(key):
        key = key(*args, **kwargs)
        if key is None:
            return None
    elif isinstance(key, str) and not given:
        key = _filled(key, task, args, kwargs)
    if not isinstance(key, str) or not key or not storable([key]):
        raise ValueError(f"a key must be a text that is not empty and that a database can hold, not {shown(key)}")
    return key


def _filled(template: str, task: Task[Any, Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    if "{" not in template and "}" not in template:
        return template
    bound = _bind(task, args, kwargs)
    values = dict(kwargs)
    if bound is not None:
        bound.apply_defaults()
        values = {**bound.arguments, **kwargs}
    try:
        return template.format(*args, **values)
    except (LookupError, AttributeError) as error:
        raise ValueError(f"the key {template!r} cannot be made of this call's arguments: {error!r}") from error


def _arguments(task: Task[Any, Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The arguments in one form, whichever way they were given."""
    bound = _bind(task, args, kwargs)
    if task is None or bound is None:
        return [list(args), dict(kwargs)]
    parameters = task.call_signature.parameters
    return {name: value for name, value in bound.arguments.items() if not _is_default(parameters[name], value)}


def _bind(task: Task[Any, Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> inspect.BoundArguments | None:
    """None where the task is not known, or (with `typing=False`) its function does not take these."""
    try:
        return None if task is None else task.call_signature.bind(*args, **kwargs)
    except (TypeError, ValueError):
        return None


def _is_default(parameter: inspect.Parameter, value: Any) -> bool:
    default = parameter.default
    if default is parameter.empty or type(default) is not type(value):
        return False
    return default is value or bool(default == value)


def _digest(value: Any, name: str) -> str:
    try:
        text = codec.dumps(value, what=f"the arguments of {name}", max_bytes=_NO_LIMIT)
    except EncodeError as error:
        raise EncodeError(f"{error}; calls are compared by JSON: give unique a text or a function instead") from error
    one_form = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    return digest(one_form)
