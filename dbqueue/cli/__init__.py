"""The command line.

run.py         from arguments to an exit code: what goes wrong is told here, once for all commands
root.py        `dbqueue` itself: the global options, and the commands by name, imported when used
target.py      the application and the database that a command is about
output.py      tables, JSON, ages, colours
hidden_arguments.py   passwords in the process list
standard_streams.py   standard streams that were closed
<command>.py   one file for each command; no SQL, that is in `store.queries` and `store.changes`
"""

from __future__ import annotations

import sys

from dbqueue.cli import hidden_arguments
from dbqueue.cli.run import run


def main() -> None:
    """The program `dbqueue`."""
    hidden_arguments.hide()
    sys.exit(run())
