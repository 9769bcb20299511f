"""Finding things by their dotted names: what programs import of `celery.utils.imports`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def qualname(obj: Any) -> str:
    """`module.Class` of a class, or of an object's class."""
    cls = obj if hasattr(obj, "__qualname__") else type(obj)
    return f"{cls.__module__}.{cls.__qualname__}"


def symbol_by_name(
    name: Any,
    aliases: Mapping[str, str] | None = None,
    imp: Callable[..., ModuleType] | None = None,
    package: str | None = None,
    sep: str = ".",
    default: Any = None,
    **options: Any,
) -> Any:
    """What `module.attribute` or `module:attribute` names; what is no text is returned as it is.

    `aliases` are short names for long ones; `package` is where a name that begins with a dot is looked up. Returns
    `default`, if there is one, for what does not exist, and raises ImportError or AttributeError otherwise.
    """
    if not isinstance(name, str):
        return name
    path = (aliases or {}).get(name, name)
    module, _, attribute = path.rpartition(":" if ":" in path else sep)
    if not module:
        module, attribute = attribute, ""
    try:
        found = (imp or importlib.import_module)(module, package=package, **options)
        return getattr(found, attribute) if attribute else found
    except (ImportError, AttributeError):
        if default is None:
            raise
        return default


def instantiate(name: Any, *args: Any, **kwargs: Any) -> Any:
    """An instance of the class that a name leads to."""
    return symbol_by_name(name)(*args, **kwargs)


@contextmanager
def cwd_in_path() -> Iterator[None]:
    """For the length of the block, modules of the current folder can be imported."""
    folder = os.getcwd()
    if folder in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def import_from_cwd(
    module: str, imp: Callable[..., ModuleType] | None = None, package: str | None = None
) -> ModuleType:
    """Import a module, which may lie in the current folder."""
    with cwd_in_path():
        return (imp or importlib.import_module)(module, package=package)


def gen_task_name(app: Any, name: str, module_name: str) -> str:
    """The name of a task of that application that was given none."""
    return str(app.gen_task_name(name, module_name))
