"""Finding and importing: the application behind `-A`, and the modules that hold its tasks."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dbqueue.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

APP_NAMES = ("app", "celery", "dbqueue")
"""Attributes that are looked at first, and submodules that are looked in last."""


def find_app(name: str) -> DBQueue:
    """The application that `-A name` means, looking in the current folder too.

    `proj` is `proj.app`, `proj.celery` or `proj.dbqueue`, else any application in the module, else
    one in the submodule of such a name; `proj:attribute` and `proj.attribute` name it outright.
    Raises ImproperlyConfigured with what was looked for.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    name, _, attribute = name.partition(":")
    _refuse_file(name)
    if attribute:
        return _attribute(_import(name), attribute)
    parent, _, last = name.rpartition(".")
    if parent and not _exists(name) and _exists(parent):
        return _attribute(_import(parent), last)
    module = _import(name)
    app = _in_module(module)
    if app is None and hasattr(module, "__path__"):
        for each in APP_NAMES:
            if _exists(f"{name}.{each}"):
                app = app or _in_module(_import(f"{name}.{each}"))
    if app is None:
        raise ImproperlyConfigured(
            f"the module {name!r} has no application: it should hold `app = DBQueue(...)`; "
            f"an application of another name is given as `-A {name}:name`"
        )
    return app


def _refuse_file(name: str) -> None:
    """A path where the name of a module should be: people type what the shell completes."""
    if os.sep in name or not name.strip(".") or (name.endswith(".py") and not _exists(name)):
        dotted = os.path.normpath(name.removesuffix(".py")).strip("./").replace(os.sep, ".")
        hint = f": it is {dotted!r}, without .py" if dotted else ""
        raise ImproperlyConfigured(f"{name!r} is no module's name{hint}")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ImproperlyConfigured(
                f"unable to load the application: no module {name!r} was found in {os.getcwd()!r} or on the Python path"
            ) from None
        raise


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _attribute(module: ModuleType, dotted: str) -> DBQueue:
    from dbqueue.app import DBQueue

    value: object = module
    for part in dotted.split("."):
        if not hasattr(value, part):
            raise ImproperlyConfigured(f"the module {module.__name__!r} has no {dotted!r}")
        value = getattr(value, part)
    if isinstance(value, ModuleType):
        value = _in_module(value)
    if not isinstance(value, DBQueue):
        raise ImproperlyConfigured(
            f"{module.__name__}.{dotted} is no DBQueue application, but of type {type(value).__name__}"
        )
    return value


def _in_module(module: ModuleType) -> DBQueue | None:
    from dbqueue.app import DBQueue

    named = (getattr(module, name, None) for name in APP_NAMES)
    every = (value for name, value in vars(module).items() if not name.startswith("_"))
    for value in (*named, *every):
        if isinstance(value, DBQueue):
            return value
    return None


def import_modules(names: Iterable[str]) -> None:
    """Import each; ImproperlyConfigured names one that does not exist."""
    for name in names:
        _import(name)


def related_modules(app: DBQueue, packages: Iterable[str] | None, related_name: str | None) -> list[str]:
    """`package.related_name` for each package that has such a module; the application's own package by default.

    Raises ModuleNotFoundError for a package that is not there: its tasks would be missing in silence.
    """
    if packages is None:
        own = [app.main] if app.main and _exists(app.main) else []
        packages = [*own, *_django_packages()]
    names = [f"{each}.{related_name}" if related_name else each for each in map(_package, packages)]
    return [name for name in names if _exists(name)]


def _package(name: str) -> str:
    """A package by its name, or by that of a thing in it, as in Django's INSTALLED_APPS (`shop.apps.ShopConfig`)."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        parent = name.rpartition(".")[0]
        if not error.name or not name.startswith(error.name):
            raise  # something that the package imports is missing
        if not parent:
            raise ModuleNotFoundError(
                f"autodiscover_tasks: no package {name!r} is in {os.getcwd()!r} or on the Python path", name=name
            ) from None
        return _package(parent) if not _exists(parent) else parent
    return name


def _django_packages() -> list[str]:
    """The packages of a Django project's applications, which is set up if it is not yet; none outside of one."""
    if not os.environ.get("DJANGO_SETTINGS_MODULE") or not _exists("django"):
        return []
    django, registry = importlib.import_module("django"), importlib.import_module("django.apps")
    if not registry.apps.ready:
        django.setup()
    return [config.name for config in registry.apps.get_app_configs()]


def import_class(path: str) -> Any:
    """What `module:Class` or `module.Class` names. Raises ImproperlyConfigured where there is none."""
    module, separator, name = path.partition(":") if ":" in path else path.rpartition(".")
    found = getattr(_import(module), name, None) if separator else None
    if found is None:
        raise ImproperlyConfigured(f"there is no {path!r}: give a class as module:Class")
    return found


class Loader:
    """`app.loader`: what Celery's programs call to import the modules of tasks."""

    def __init__(self, app: DBQueue) -> None:
        self.app = app

    @property
    def conf(self) -> Any:
        return self.app.conf

    def import_default_modules(self) -> None:
        """Import all modules that the application names, as a worker does when it starts."""
        self.app.import_tasks()

    init_worker = import_default_modules

    def import_module(self, module: str, package: str | None = None) -> ModuleType:
        return importlib.import_module(module, package=package)

    import_task_module = import_module

    def import_from_cwd(self, module: str, package: str | None = None) -> ModuleType:
        """Import a module that may lie in the current folder."""
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        return self.import_module(module, package)

    def autodiscover_tasks(self, packages: Iterable[str], related_name: str | None = "tasks") -> None:
        """Import `package.related_name` of each package that has one, now."""
        import_modules(related_modules(self.app, packages, related_name))
