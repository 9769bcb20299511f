"""Names of workers, `name@host`: Celery's `celery.utils.nodenames`."""

from __future__ import annotations

import os
import socket
from typing import Final

NODENAME_DEFAULT: Final = "celery"
"""What stands before the host in the name of a worker that was given none."""


def gethostname() -> str:
    """This host's name."""
    return socket.gethostname()


def nodename(name: str | None, hostname: str | None) -> str:
    """`name@hostname`; either may be missing."""
    return "@".join(part for part in (name, hostname) if part)


def nodesplit(name: str) -> tuple[str | None, str]:
    """The two parts of `name@host`; a name without a host is the host's."""
    before, at, host = name.partition("@")
    return (before, host) if at else (None, name)


def default_nodename(hostname: str | None) -> str:
    """The full name of a worker that was started with `-n hostname`."""
    name, host = nodesplit(hostname or "")
    return nodename(name or NODENAME_DEFAULT, host or gethostname())


def anon_nodename(hostname: str | None = None, prefix: str = "gen") -> str:
    """A name for a process that is no worker."""
    return nodename(f"{prefix}{os.getpid()}", hostname or gethostname())


def node_format(text: str, name: str, **extra: str) -> str:
    """`host_format` with the parts of a worker's name: `%n` is what stands before the host."""
    short, host = nodesplit(name)
    return host_format(text, host, short or NODENAME_DEFAULT, p=name, **extra)


def host_format(text: str, host: str | None = None, name: str | None = None, **extra: str) -> str:
    """`text` with `%h` for the host's name, `%n` for a name, `%d` for the domain, and `%i` and `%I` for nothing."""
    host = host or gethostname()
    short, _, domain = host.partition(".")
    fields = {"h": host, "n": name or short, "d": domain, "i": "", "I": "", **extra}
    return "".join(_filled(text, fields))


def _filled(text: str, fields: dict[str, str]) -> list[str]:
    pieces, rest = [], text
    while rest:
        before, percent, rest = rest.partition("%")
        pieces.append(before)
        if percent:
            key, rest = rest[:1], rest[1:]
            pieces.append("%" if key == "%" else fields.get(key, f"%{key}"))
    return pieces
