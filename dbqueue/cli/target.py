"""What a command is about: the application that `-A` names, or a database alone."""

from __future__ import annotations

import importlib
import os
import shlex
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

import click

import dbqueue
from dbqueue.cli import exit_codes
from dbqueue.errors import ImproperlyConfigured
from dbqueue.urls import mask_url

if TYPE_CHECKING:
    from dbqueue.app import DBQueue
    from dbqueue.store.base import Store

_OWN_FOLDERS: Final = tuple(str(Path(module.__file__ or "").parent) + os.sep for module in (dbqueue, click))
_OWN_FILES: Final = ("<frozen ", str(importlib.__file__))


class Target:
    """The application and its database. `app` is one that a program has handed over itself."""

    quiet = False
    debug = False
    """Whether errors that are no bug are shown with their traceback, too."""

    def __init__(self, app: DBQueue | None = None) -> None:
        self._given = app
        self._name: str | None = None
        self._config: str | None = None
        self._flags: dict[str, Any] = {}

    def choose(
        self,
        app_name: str | None,
        database: str | None,
        result_backend: str | None = None,
        config: str | None = None,
    ) -> None:
        """Take what the global options say; nothing is loaded yet."""
        self._name, self._config = app_name, config
        if database is not None:
            # The one URL, under whatever name the application gives its own.
            self._flags = {"database_url": database, "broker_url": None, "result_backend": result_backend}
        elif result_backend is not None:
            self._flags = {"result_backend": result_backend}

    def override(self, **values: Any) -> None:
        """Settings of flags; before the application is first used."""
        self._flags |= values

    @property
    def names_app(self) -> bool:
        return self._given is not None or self._name is not None or self._config is not None

    @cached_property
    def app(self) -> DBQueue:
        """The application. Raises UsageError where none is named, ImproperlyConfigured where none is found."""
        with importing():
            if self._given is not None:
                app = self._given
            elif self._name is not None:
                app = self._load(self._name)
            elif self._config is not None:
                app = self._without_module()
            else:
                raise click.UsageError("Missing option '-A' / '--app': the module of the application (or DBQUEUE_APP).")
            if self._config is not None:
                app.config_from_object(self._config)
            app.conf.override(self._flags)
            len(app.conf)  # reads a settings module that is named by text
        app.set_default()
        return app

    @cached_property
    def database_app(self) -> DBQueue:
        """The application, or one without tasks for the database alone."""
        if self.names_app:
            return self.app
        from dbqueue.app import DBQueue
        from dbqueue.database import DEFAULT_URL

        app = DBQueue("dbqueue", set_as_current=False)
        app.conf.override(self._flags)
        named = any(app.conf[name] for name in ("database_url", "broker_url", "result_backend"))
        if not named and not Path(DEFAULT_URL.removeprefix("sqlite:///")).exists():
            raise click.UsageError("Which database? Give '-A' / '--app', '--database' or DBQUEUE_DATABASE_URL.")
        return app

    @property
    def database_url(self) -> str:
        """The URL as it is; `database_app.database.url` is fit to print."""
        from dbqueue.database import database_url

        return database_url(self.database_app.conf)

    @cached_property
    def raw_store(self) -> Store:
        """The database whatever the state of its tables; connects to nothing."""
        from dbqueue.store import open_store
        from dbqueue.urls import normalise_url

        conf = self.database_app.conf
        return open_store(
            normalise_url(self.database_url),
            shown_url=mask_url(self.database_url),
            schema=conf.database_schema,
            pool_size=conf.database_pool_size,
            connect_timeout=conf.database_connect_timeout,
        )

    def refuse_missing_file(self) -> None:
        """Reading must not make an empty SQLite file where a name was mistyped."""
        file = self.raw_store.path
        if file is not None and not file.exists():
            raise click.ClickException(f"there is no SQLite file {file}: nothing was ever enqueued there")

    @cached_property
    def store(self) -> Store:
        """The database, with tables that fit. Raises SchemaError, OperationalError."""
        self.refuse_missing_file()
        self.raw_store.ensure_schema()
        return self.raw_store

    def require_tables(self) -> None:
        """Raise SchemaError or OperationalError unless the database answers and its tables fit; SQLite's are made."""
        self.raw_store.ensure_schema()

    def close(self) -> None:
        """Close the connections that were opened here; an application handed over keeps its own."""
        for name in ("raw_store", "database_app", "app"):
            opened = self.__dict__.get(name)  # not made for this
            if opened is not None and opened is not self._given:
                opened.close()

    def command_line(self, command: str) -> str:
        """`dbqueue ... command` for this target, for a person to copy."""
        words = ["dbqueue"]
        if self._name is not None:
            words += ["-A", self._name]
        if self._flags.get("database_url"):
            words += ["--database", mask_url(self._flags["database_url"])]
        return f"{shlex.join(words)} {command}"

    # loading

    def _without_module(self) -> DBQueue:
        from dbqueue.app import DBQueue

        return DBQueue("default")

    def _load(self, name: str) -> DBQueue:
        from dbqueue.app.loading import find_app

        return find_app(name)


@contextmanager
def importing() -> Iterator[None]:
    """Around the import of an application's modules: what they raise is shown as theirs, and ends the command.

    A setting that cannot work is one line, with the place where it was given; any other exception
    is a traceback that begins in the application.
    """
    try:
        yield
    except (click.ClickException, click.exceptions.Exit):
        raise
    except ImproperlyConfigured as error:
        place = _place(error.__traceback__)
        if place is None:
            raise
        raise type(error)(f"{error} ({place})") from error
    except SystemExit as error:  # a script's, whose exit code would be taken for one of ours
        code = error.code or 0
        said = f" with exit code {code}" if isinstance(code, int) else f": {code}"
        click.echo(f"Error: a module of the application ended the program when it was imported{said}", err=True)
        raise click.exceptions.Exit(exit_codes.FAILURE) from error
    except Exception as error:
        own = error.__traceback__
        while own is not None and not _is_users(own):
            own = own.tb_next
        click.echo("".join(traceback.format_exception(type(error), error, own)).rstrip(), err=True)
        click.echo("Error: a module of the application raised this when it was imported.", err=True)
        raise click.exceptions.Exit(exit_codes.FAILURE) from error


def _place(tb: TracebackType | None) -> str | None:
    """The application's own line that led to the error: `cele.py, line 3`."""
    place = None
    while tb is not None:
        if _is_users(tb):
            place = f"{os.path.relpath(tb.tb_frame.f_code.co_filename)}, line {tb.tb_lineno}"
        tb = tb.tb_next
    return place


def _is_users(tb: TracebackType) -> bool:
    filename = tb.tb_frame.f_code.co_filename
    return not filename.startswith(_OWN_FOLDERS) and not filename.startswith(_OWN_FILES)
