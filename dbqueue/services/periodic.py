"""`add_periodic_task`: from a task or a signature to an entry of the setting `beat_schedule`.

Nothing here needs a database: an application adds its entries when it is imported. `beats`
makes rows of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbqueue.jobs import shortened


def new_entry(
    schedule: Any, signature: Any, args: Any, kwargs: Any, name: str | None, options: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The name and the entry of `beat_schedule` for a call of `add_periodic_task`.

    `signature` is a task, its name, or a signature: something with `task`, `args`, `kwargs` and
    `options`, as attributes or as keys. As in a signature's call, `args` stand before its own.
    """
    task = getattr(signature, "name", None) or _part(signature, "task")
    if isinstance(signature, str):
        task = signature
    if not isinstance(task, str) or not task:
        raise TypeError(f"add_periodic_task takes a task or a signature, not {signature!r}")
    all_args = (*(args or ()), *(_part(signature, "args") or ()))
    all_kwargs = {**(_part(signature, "kwargs") or {}), **(kwargs or {})}
    entry = {
        "schedule": schedule,
        "task": task,
        "args": all_args,
        "kwargs": all_kwargs,
        "options": {**(_part(signature, "options") or {}), **options},
    }
    return name or shortened(_shown(task, all_args, all_kwargs)), entry


def _part(signature: Any, name: str) -> Any:
    if isinstance(signature, Mapping):
        return signature.get(name)
    found = getattr(signature, name, None)
    return None if callable(found) else found


def _shown(task: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """A call as a signature prints it: the name of an entry that was given none."""
    return f"{task}({', '.join([*map(repr, args), *(f'{name}={value!r}' for name, value in kwargs.items())])})"
