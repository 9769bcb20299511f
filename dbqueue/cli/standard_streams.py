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
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Not the number that it should have: what the program has opened since may have that.
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115 - for as long as the process
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
