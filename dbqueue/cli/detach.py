"""A service in the background: `worker --detach` and `beat --detach`, without a terminal and of another user if asked.

    the command       forks ─► waits for a word ─► exit code 0, or 1 where the service ended without one
      └─ a session of its own, which ends at once
           └─ the service: its errors come to the terminal until it is ready; then it has none

So whoever starts it sees a wrong option, a missing module or a pid file that is held, which a
process that goes into the background at once could only write to a log.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_READY: Final = b"\0"


def daemon_flags(command: F) -> F:
    """The options of services: where they run, as whom, and with which pid file."""
    for add in (
        click.option(
            "--workdir",
            "service_folder",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Change to this folder first.",
        ),
        click.option("--umask", callback=_octal, metavar="MASK", help="The umask of the service, in octal: 022."),
        click.option("--gid", metavar="GROUP", help="The service's group, by name or number. Needs root."),
        click.option("--uid", metavar="USER", help="The service's user, by name or number. Needs root."),
        click.option("-D", "--detach", is_flag=True, help="Start in the background, without a terminal."),
        click.option(
            "--pidfile",
            metavar="FILE",
            help="Hold the process id in this file; refuse to start while another process does.",
        ),
    ):
        command = add(command)
    return command


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the options say. `pidfile` may hold the placeholders of log files."""

    pidfile: str | None
    detach: bool
    uid: str | None
    gid: str | None
    umask: int | None

    @classmethod
    def take(cls, given: dict[str, Any]) -> Daemon:
        """Take these options out of a command's, and change to the folder that they name."""
        folder = given.pop("service_folder")
        if folder is not None:
            os.chdir(folder)
        return cls(**{name: given.pop(name) for name in cls.__slots__})

    def enter(self) -> Callable[[], None]:
        """Become what the options ask for: the caller goes on in the service's process.

        What is returned is to be called once the service is ready: until then its errors are shown.
        Raises ClickException for a user or a group that cannot be taken.
        """
        ready: Callable[[], None] = _fork() if self.detach else lambda: None
        if self.umask is not None:
            os.umask(self.umask)
        _become(self.uid, self.gid)
        return ready


def _octal(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    try:
        mask = None if value is None else int(value, 8)
    except ValueError:
        mask = -1
    if mask is not None and not 0 <= mask <= 0o777:
        raise click.BadParameter(f"this must be an octal number, as in 022, not {value!r}", ctx, param)
    return mask


def _fork() -> Callable[[], None]:
    if not hasattr(os, "fork"):
        raise click.UsageError("--detach needs a system with fork()")
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(writer)
        os.waitpid(child, 0)
        os._exit(0 if os.read(reader, 1) else 1)
    os.setsid()
    if os.fork():  # the service is no leader of its session: it never gets a terminal again
        os._exit(0)
    os.close(reader)

    def ready() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os.close(nothing)
        os.write(writer, _READY)
        os.close(writer)

    return ready


def _become(user: str | None, group: str | None) -> None:
    if user is None and group is None:
        return
    import grp
    import pwd

    try:
        who = None if user is None else pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        entry = None if group is None else grp.getgrgid(int(group)) if group.isdigit() else grp.getgrnam(group)
    except KeyError as error:
        raise click.ClickException(str(error.args[0])) from error
    gid = who.pw_gid if entry is None and who is not None else entry.gr_gid if entry is not None else -1
    try:
        # The group first: without root's rights it can no longer be changed.
        if who is not None:
            os.initgroups(who.pw_name, gid)
        os.setgid(gid)
        if who is not None:
            os.setuid(who.pw_uid)
    except PermissionError as error:
        raise click.ClickException("only root may take another user or group") from error
