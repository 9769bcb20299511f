"""What a bug report should say: versions, platform, database and settings; passwords are masked."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from dbqueue.version import __version__

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

LIBRARIES: Final = ("sqlalchemy", "psycopg", "alembic", "click", "aiosqlite", "greenlet")


def versions() -> dict[str, str]:
    """Of dbqueue, Python and the libraries; `-` for one that is not installed."""
    return {"dbqueue": __version__, "python": sys.version.partition(" ")[0]} | {
        name: _version(name) for name in LIBRARIES
    }


def bugreport(app: DBQueue) -> str:
    """The report as text; connects to nothing."""
    settings = {name: (value, app.conf.origin(name)) for name, value in app.conf.table().items()}
    lines = [
        f"software -> {' '.join(f'{name}:{number}' for name, number in versions().items())}",
        f"platform -> {platform.platform()}",
        f"database -> {app.database.url}",
        "settings ->" + ("" if settings else " all at their defaults"),
    ]
    return "\n".join([*lines, *(f"  {name}: {value!r} ({origin})" for name, (value, origin) in settings.items())])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"
