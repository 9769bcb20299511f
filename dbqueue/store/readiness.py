"""Waiting for descriptors: whichever of several has something to read first."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from typing import Protocol, TypeVar


class HasFileno(Protocol):
    def fileno(self) -> int: ...


T = TypeVar("T", bound=HasFileno)


def wait_readable(sources: Sequence[T], seconds: float) -> list[T]:
    """Those of the sources that can be read, after at most so many seconds."""
    if not hasattr(select, "poll"):  # Windows
        if not sources:  # there it refuses to wait for nothing
            time.sleep(seconds)
            return []
        return list(select.select(sources, [], [], seconds)[0])
    # Not `select`: it refuses descriptors above 1023, which a large application may well have.
    poll = select.poll()
    by_descriptor = {source.fileno(): source for source in sources}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    return [by_descriptor[descriptor] for descriptor, _ in poll.poll(max(1.0, seconds * 1000))]
