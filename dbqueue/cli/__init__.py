"""The command line.

run.py         from arguments to an exit code: what goes wrong is told here, once for all commands
root.py        `dbqueue` itself: the global options, and the commands by name, imported when used
target.py      the application and the database that a command is about
output.py      tables, JSON, ages, colours
<command>.py   one file for each command; no SQL, that is in `store.queries` and `store.changes`
"""

from __future__ import annotations

import sys

from dbqueue.cli.run import run


def main() -> None:
    """The program `dbqueue`."""
    sys.exit(run())
