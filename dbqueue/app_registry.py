"""Which applications the process has, and which is meant where none is named.

An application lives as long as a program holds it: here it is only known, but for the current one of each
thread and the default ones.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

shared: Final[list[Callable[[Any], object]]] = []
"""What each application, present and future, is to do: register a shared task."""
defaults: Final[list[DBQueue]] = []
"""The applications of threads that have none of their own; the last one counts."""
fallback: Final[list[DBQueue]] = []
"""The application that was made because one was asked for before the program had made its own; at most one."""
local: Final = threading.local()

_apps: Final[list[weakref.ref[DBQueue]]] = []


def add(app: DBQueue) -> None:
    """Know an application, until it is gone."""
    _apps.append(weakref.ref(app, _apps.remove))


def discard(app: DBQueue) -> None:
    """Know it no longer, though it lives."""
    _apps[:] = [known for known in _apps if known() is not app]


def alive() -> list[DBQueue]:
    """The applications that live, in the order in which they were made."""
    return [app for known in list(_apps) if (app := known()) is not None]


def set_current(app: Any) -> None:
    """Make this the application of the thread; None: it has none of its own."""
    local.app = app


def current() -> Any:
    """What `set_current` was given on this thread."""
    return getattr(local, "app", None)


def set_default(app: DBQueue) -> None:
    defaults.append(app)


def set_fallback(app: DBQueue) -> None:
    """Keep the application that stands in until the program makes one."""
    fallback[:] = [app]


def find() -> DBQueue | None:
    """The application that is meant on this thread, if there is any; one of the program's own before the fallback."""
    return current() or next(reversed(defaults or _own()), None) or next(iter(fallback), None)


def _own() -> list[DBQueue]:
    return [app for app in alive() if app not in fallback]
