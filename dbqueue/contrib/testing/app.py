"""An application for one test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NoReturn

from dbqueue import app_registry
from dbqueue.app import DBQueue

URLS: Final = ("database_url", "broker_url", "result_backend")
IN_MEMORY: Final = "sqlite://"

DEFAULT_TEST_CONFIG: Final[dict[str, Any]] = {"worker_hijack_root_logger": False, "worker_log_color": False}


class Trap:
    """In the place of the current application: whoever uses it should have named an application."""

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(f"Test application trap: `current_app.{name}` is used where an application should be named")


class TestApp(DBQueue):
    """An application whose database is in memory, unless `config` names one.

    The environment's DBQUEUE_DATABASE_URL and its like do not count: a test must not find itself
    on a database of another kind. `config` are settings, other arguments those of DBQUEUE.
    """

    __test__ = False

    def __init__(
        self,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        enable_logging: bool = False,
        set_as_current: bool = False,
        strict_typing: bool = True,
        database: str = IN_MEMORY,
        **parameters: Any,
    ) -> None:
        given = DEFAULT_TEST_CONFIG | dict(config or {})
        places = {each: given.pop(each) for each in URLS if given.get(each)}
        for place, argument in (("broker_url", "broker"), ("result_backend", "backend")):
            if parameters.get(argument):
                places.setdefault(place, parameters.pop(argument))
        super().__init__(name or "dbqueue.tests", set_as_current=set_as_current, **parameters)
        self.conf.update(given)
        self.conf.override(places or {"database_url": database})
        if not strict_typing:
            self.Task = type("Task", (self.Task,), {"typing": False})


@contextmanager
def setup_default_app(app: DBQueue, use_trap: bool = False) -> Iterator[None]:
    """Forget the application when the block ends; with `use_trap`, using the current one in it is an error."""
    before = app_registry.current()
    defaults = list(app_registry.defaults)
    app_registry.set_current(Trap() if use_trap else before)
    try:
        yield
    finally:
        app_registry.set_current(before)
        app_registry.defaults[:] = defaults
        app_registry.discard(app)
        app.close()
