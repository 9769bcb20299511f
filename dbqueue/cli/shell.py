"""`dbqueue shell`: a Python session with the application at hand."""

from __future__ import annotations

import code
import sys
from typing import Any

import click

from dbqueue.cli.target import Target, importing
from dbqueue.version import __version__


@click.command("shell")
@click.pass_obj
def command(target: Target, /) -> None:
    """Start a Python session with `app`, its tasks by their short names, AsyncResult and the canvas."""
    app = target.app
    with importing():
        app.import_tasks()
    names: dict[str, Any] = {name.rpartition(".")[2]: task for name, task in app.tasks.declared().items()}
    names |= {"app": app, "AsyncResult": app.AsyncResult, "signature": app.signature}
    names |= {"chain": app.chain, "group": app.group, "chord": app.chord}
    try:
        import readline
        import rlcompleter

        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")
    except ImportError:
        pass  # Windows has none
    tasks = ", ".join(sorted(set(names) - {"app", "AsyncResult"})) or "none"
    version = sys.version.partition(" ")[0]
    banner = f"dbqueue {__version__}, Python {version}, {app.database.url}\nNames: app, AsyncResult; tasks: {tasks}"
    code.interact(banner, local=names, exitmsg="")
