"""The file that a SQLite URL names, and whether it is still the one that was opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import quote

import sqlalchemy as sa

from dbqueue import urls

OPTIONS: Final = frozenset({"timeout", "isolation_level", "detect_types", "check_same_thread", "cached_statements"})
"""What SQLAlchemy takes from a URL of a plain file, but for `uri`; all else it would pass over, with a warning."""

GONE: Final = "the SQLite file was deleted or replaced while it was open"


def file_of(url: str, folder: str = "") -> Path | None:
    """The file that a URL names, absolute, with `folder` before a relative path; None for a database in memory.

    SQLAlchemy's reading of the name is not asked: it differs between its releases.
    """
    name = urls.sqlite_name(url)
    return None if name is None else Path(folder, name).resolve()


def engine_url(url: str, file: Path | None) -> sa.URL:
    """What SQLAlchemy is given to open `file`, with the options of `url`."""
    made = sa.make_url(url)
    if file is None:
        return made.set(database=":memory:", query={each: made.query[each] for each in made.query.keys() & OPTIONS})
    return made.set(database=f"file:{quote(str(file))}" if urls.is_sqlite_uri(url) else str(file))


def file_identity(path: Path | None) -> tuple[int, int] | None:
    """What tells a file from another of the same name; None where there is no file, or no path."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def why_away(path: Path | None, opened: tuple[int, int] | None) -> str | None:
    """Why the file that was opened is not to be used any more, or not now; None where it is still there."""
    if path is None or file_identity(path) == opened:
        return None
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return GONE
    except OSError as error:  # its folder is closed to this user, or the volume is away
        return f"the SQLite file cannot be reached: {error.strerror}"
    return GONE
