"""A password on the command line is not left for `ps`, which shows command lines to every user of the host.

The program runs itself anew, in the same process, with asterisks in the password's place, and takes the arguments as
they were typed from its environment, which only its own user (and root) can read. Others can see the password for
the moment that an interpreter takes to start.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from dbqueue.urls import mask_url

VARIABLE: Final = "DBQUEUE_HIDDEN_ARGUMENTS"


def hide() -> None:
    """Let `sys.argv` be what was typed, and the process's command line show no password.

    Only for the program itself: what runs commands within a program of its own must not be started anew.
    """
    typed = os.environ.pop(VARIABLE, None)
    if typed is not None:
        sys.argv[1:] = json.loads(typed)
        return
    shown = masked(sys.argv[1:])
    before = len(sys.orig_argv) - len(shown)
    # Elsewhere than on POSIX `exec` makes a new process, and a program that was wrapped may have other arguments.
    if shown == sys.argv[1:] or os.name != "posix" or sys.orig_argv[before:] != sys.argv[1:] or not sys.executable:
        return
    with contextlib.suppress(OSError):  # arguments too long for a variable
        os.execve(  # noqa: S606 - itself
            sys.executable, sys.orig_argv[:before] + shown, environment(sys.argv[1:])
        )


def masked(words: Iterable[str]) -> list[str]:
    """A command line that is fit to be shown."""
    return [mask_url(word) if "://" in word else word for word in words]


def environment(words: Sequence[str]) -> dict[str, str]:
    """This process's, for a run of the program that is started with `masked(words)` and takes `words`."""
    return {**os.environ, VARIABLE: json.dumps(list(words))}
