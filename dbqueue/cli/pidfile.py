"""A file that holds the worker's process id, for service scripts, and keeps a second one from starting."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import click


@contextlib.contextmanager
def holding(path: Path | None) -> Iterator[None]:
    """Hold the file during the block. Raises ClickException where a process that lives holds it.

    A file that is left of a dead process is replaced. None holds nothing.
    """
    if path is None:
        yield
        return
    path = path.absolute()  # a task of the pool solo may change this process's working folder
    _create(path)
    own = str(os.getpid())
    try:
        yield
    finally:
        # Only one's own: somebody may have removed it, and another worker made one.
        with contextlib.suppress(OSError):
            if path.read_text().strip() == own:
                path.unlink()


def _create(path: Path) -> None:
    try:
        try:
            _write(path)
        except FileExistsError:
            pid = holder(path)
            if pid is not None:
                raise click.ClickException(
                    f"the pid file {path} exists, and its process {pid} lives: is this worker running already?"
                ) from None
            path.unlink(missing_ok=True)
            _write(path)
    except OSError as error:
        raise click.ClickException(f"the pid file {path} cannot be written: {error.strerror}") from error


def _write(path: Path) -> None:
    with path.open("x") as file:  # fails where it exists: of two that start at once, one wins
        file.write(f"{os.getpid()}\n")


def holder(path: Path) -> int | None:
    """The living process that the file names."""
    try:
        pid = int(path.read_text())
    except (OSError, ValueError):
        return None  # gone meanwhile, or no pid file of a worker that got as far as writing it
    # One's own number is an earlier process's: in a container every start may have the same.
    if pid <= 0 or pid == os.getpid():
        return None
    return pid if lives(pid) else None


def lives(pid: int) -> bool:
    """Whether there is such a process that has not ended; one that nobody has waited for yet has."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, and is another user's
    with contextlib.suppress(OSError):  # Linux tells; where an init reaps, the rest do not linger
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True
