"""`dbqueue shell`: a Python session with the application at hand."""

from __future__ import annotations

import code
import sys
from importlib import import_module
from typing import Any, Final

import click

from dbqueue.cli.target import Target, importing
from dbqueue.version import __version__

_NOT_TASKS: Final = frozenset({"app", "celery", "AsyncResult"})


@click.command("shell")
@click.option("-I", "--ipython", "kind", flag_value="IPython", help="In IPython.")
@click.option("-B", "--bpython", "kind", flag_value="bpython", help="In bpython.")
@click.option("--python", "kind", flag_value="python", help="In Python's own interpreter (default).")
@click.option("-T", "--without-tasks", is_flag=True, help="Leave the tasks' names out.")
@click.pass_obj
def command(target: Target, /, kind: str | None, without_tasks: bool) -> None:
    """Start a Python session with `app`, its tasks by their short names, AsyncResult and the canvas."""
    app = target.app
    with importing():
        app.import_tasks()
    names: dict[str, Any] = {}
    if not without_tasks:
        names = {name.rpartition(".")[2]: task for name, task in app.tasks.declared().items()}
    names |= {"app": app, "celery": app, "AsyncResult": app.AsyncResult, "signature": app.signature}
    names |= {"chain": app.chain, "group": app.group, "chord": app.chord}
    tasks = ", ".join(sorted(set(names) - _NOT_TASKS)) or "none"
    version = sys.version.partition(" ")[0]
    banner = f"dbqueue {__version__}, Python {version}, {app.database.url}\nNames: app, AsyncResult; tasks: {tasks}"
    if kind == "IPython":
        _imported(kind).start_ipython(argv=[], user_ns=names)
    elif kind == "bpython":
        _imported(kind).embed(names, banner=banner)
    else:
        _python(names, banner)


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise click.UsageError(f"{name} is not installed: pip install {name.lower()}") from error


def _python(names: dict[str, Any], banner: str) -> None:
    try:
        import readline
        import rlcompleter

        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")
    except ImportError:
        pass  # Windows has none
    code.interact(banner, local=names, exitmsg="")
