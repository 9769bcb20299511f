"""A program that was started without standard input, output or error, as some of what starts daemons does (`>&-`).

What it opens next would get their numbers: a connection to the database, say, to which whatever a task's library or
its subprocess prints would go. And Python has None for the streams, on which `print` does nothing, and `flush` fails.
"""

from __future__ import annotations

import os
import sys


def open_missing() -> None:
    """Let the null device be those that are not there, for this process and all that it starts."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
