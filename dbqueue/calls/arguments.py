"""Arguments against a function's signature, with Python's own error messages.

`inspect.Signature.bind` words its errors differently and is 20 times slower, so a function with
the same parameters and no body is compiled once for each task, and simply called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def argument_checker(function: Callable[..., Any], *, skip_first: bool) -> Callable[..., None] | None:
    """A function of the same name and parameters that does nothing; None where there is no signature.

    Calling it raises the TypeError that `function` would raise, as
    `add() missing 1 required positional argument: 'y'`. `skip_first` leaves out `self`.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if skip_first:
        parameters = parameters[1:]
    name = function.__name__ if getattr(function, "__name__", "").isidentifier() else "task"
    namespace: dict[str, Any] = {}
    # Only identifiers of a function that Python has compiled already go into this text.
    exec(f"def {name}({_parameter_list(parameters)}): pass", namespace)  # noqa: S102
    checker: Callable[..., None] = namespace[name]
    return checker


def _parameter_list(parameters: list[inspect.Parameter]) -> str:
    parts = []
    seen_star = False
    for index, parameter in enumerate(parameters):
        kind = parameter.kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            seen_star = True
            parts.append(f"*{parameter.name}")
        elif kind is inspect.Parameter.VAR_KEYWORD:
            parts.append(f"**{parameter.name}")
        else:
            if kind is inspect.Parameter.KEYWORD_ONLY and not seen_star:
                seen_star = True
                parts.append("*")
            parts.append(parameter.name + ("" if parameter.default is inspect.Parameter.empty else "=None"))
        following = parameters[index + 1 :]
        if kind is inspect.Parameter.POSITIONAL_ONLY and (not following or following[0].kind is not kind):
            parts.append("/")
    return ", ".join(parts)
