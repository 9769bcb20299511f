"""Settings out of a module, a class, an instance or a dict, for `config_from_object`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from operator import attrgetter
from typing import Any, Final

from dbqueue.errors import ImproperlyConfigured
from dbqueue.settings import known_name, nearest

_PLAIN: Final = (str, int, float, list, tuple, dict, set, timedelta, type(None))
"""Types of values that a misspelt setting may have; a function or a module is none."""


def read_source(source: Any, *, namespace: str | None, silent: bool) -> Iterator[tuple[str, Any]]:
    """Names and values of the settings in `source`, which may be the name of an object, in its own order.

    Names are as settings know them, and otherwise as they were given: those are unknown and worth a warning. With
    `silent`, a module that does not exist has no settings. Raises ImproperlyConfigured if it is not found otherwise.
    """
    if isinstance(source, str):
        source = _find(source, silent)
    mapping = source if isinstance(source, Mapping) else None
    names = list(mapping) if mapping is not None else [name for name in dir(source) if not name.startswith("_")]
    for given in names:
        if not isinstance(given, str):
            raise ImproperlyConfigured(f"the name of a setting is text, not {type(given).__name__}")
        name = _setting_name(given, namespace, explicit=mapping is not None)
        if name is None:
            continue
        # Not before the name is known to count: an attribute may be a property that does work.
        value = mapping[given] if mapping is not None else getattr(source, given)
        if known_name(name) is not None or mapping is not None or isinstance(value, _PLAIN):
            yield name, value


def _setting_name(given: str, namespace: str | None, *, explicit: bool) -> str | None:
    """The setting that `given` means; None where it is the source's own business."""
    if namespace:
        prefix = namespace.upper().rstrip("_") + "_"
        if not given.upper().startswith(prefix):
            return None
        bare = given[len(prefix) :].lower()
        return known_name(bare) or known_name(given.upper()) or bare
    known = known_name(given)
    if known is not None or explicit:
        return known or given
    return given if given.islower() and nearest(given) is not None else None


def _find(name: str, silent: bool) -> Any:
    module_name, separator, attribute = name.partition(":")
    try:
        with _current_folder():
            found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if not _is_missing(module_name, exc):
            raise
        owner = _attribute_of_module(module_name) if not separator else None
        if owner is not None:
            return owner
        if silent:
            return {}
        raise ImproperlyConfigured(_not_found(module_name)) from exc
    except (ValueError, TypeError) as exc:  # an empty name, or a relative one
        raise ImproperlyConfigured(f"{name!r} is no module's name") from exc
    if not separator:
        return found
    try:
        return attrgetter(attribute)(found)
    except AttributeError:
        raise ImproperlyConfigured(f"the module {module_name} has no {attribute!r}, which holds the settings") from None


def _is_missing(module_name: str, exc: ModuleNotFoundError) -> bool:
    """Whether it is the module itself, or a package of it, that is missing, and not one that it imports."""
    return exc.name is not None and f"{module_name}.".startswith(f"{exc.name}.")


def _attribute_of_module(dotted: str) -> Any:
    """`package.module.Class` as Celery allows it beside `package.module:Class`; None if there is no such thing."""
    parent, _, attribute = dotted.rpartition(".")
    return getattr(sys.modules.get(parent), attribute, None)


def _not_found(module_name: str) -> str:
    text = f"the settings module {module_name!r} was not found, neither in {os.getcwd()} nor on Python's path"
    if module_name.endswith(".py"):
        return f"{text}: give its name without .py"
    return f"{text} ({', '.join(entry for entry in sys.path if entry) or 'empty'})"


@contextmanager
def _current_folder() -> Iterator[None]:
    """The current folder on Python's path, as Celery has it for its configuration."""
    folder = os.getcwd()
    if folder in sys.path or "" in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)
