"""Hosts on one machine: network namespaces, each with a link of its own to that of the database."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

PROGRAMS = ("ip", "setpriv")
NEEDS = "network namespaces need root, iproute2 and setpriv"


class NoNamespaces(Exception):
    """None can be made here; the text says why."""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


class Host:
    """A network namespace."""

    def __init__(self, name: str) -> None:
        self.name = f"dbq{os.getpid()}{name}"

    @property
    def command(self) -> list[str]:
        """Begins a command that runs there."""
        return ["ip", "netns", "exec", self.name]

    def make(self) -> None:
        _ip("netns", "add", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")

    def remove(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self.name)


class Link:
    """Leads from a host to the database's, on a network of its own (RFC 5737 has the addresses)."""

    def __init__(self, number: int, host: Host, database: Host) -> None:
        self.host, self.database, self._device = host, database, f"db{number}"
        self.address, self._near = f"192.0.2.{4 * number + 1}", f"192.0.2.{4 * number + 2}"

    def make(self) -> None:
        far, near = self.database.name, self.host.name
        _ip("-n", far, "link", "add", self._device, "type", "veth", "peer", "name", self._device, "netns", near)
        for name, address in ((far, self.address), (near, self._near)):
            _ip("-n", name, "addr", "add", f"{address}/30", "dev", self._device)
            _ip("-n", name, "link", "set", self._device, "up")

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """It is down in this block: nothing passes, and neither end is told."""
        _ip("-n", self.database.name, "link", "set", self._device, "down")
        try:
            yield
        finally:
            _ip("-n", self.database.name, "link", "set", self._device, "up")


@contextlib.contextmanager
def linked_hosts(*names: str) -> Iterator[list[Link]]:
    """New hosts of these names, each with its link to one more, which is the database's; NoNamespaces where none can be
    made."""
    if os.geteuid() != 0 or any(shutil.which(program) is None for program in PROGRAMS):
        raise NoNamespaces(NEEDS)
    database, *hosts = (Host(name) for name in ("database", *names))
    links = [Link(number, host, database) for number, host in enumerate(hosts)]
    try:
        try:
            for host in (database, *hosts):
                host.make()
            for link in links:
                link.make()
        except subprocess.CalledProcessError as error:
            raise NoNamespaces(f"no network namespace can be made here: {error.stderr.decode().strip()}") from error
        yield links
    finally:
        for host in (database, *hosts):
            host.remove()
