"""`dbqueue` itself: global options, and commands that are imported when they are used.

`dbqueue --help` must not wait for SQLAlchemy, so the commands' short texts stand here.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

import click

from dbqueue.cli.project import TABLE, option_defaults
from dbqueue.cli.target import Target
from dbqueue.cli.user_options import extended
from dbqueue.version import __version__

COMMANDS: Final = {
    "worker": "Start a worker.",
    "multi": "Start and stop many workers on this host, in the background.",
    "events": "Print the events of workers and jobs as they come.",
    "beat": "Start a beat: it enqueues periodic tasks when they are due.",
    "migrate": "Make or update the tables.",
    "jobs": "List, show, retry, cancel and delete jobs.",
    "queues": "Show how many jobs wait and run in each queue; pause and resume queues.",
    "limits": "Show and change how many jobs may run at once, and how fast they may start.",
    "purge": "Delete jobs that wait.",
    "status": "Show the workers that are alive.",
    "inspect": "Ask the workers that run.",
    "control": "Tell the workers that run what to do.",
    "doctor": "Check database, tables, workers and queues.",
    "call": "Enqueue a call of a task.",
    "result": "Show the result of a job.",
    "schedule": "List periodic tasks, run, pause and resume them.",
    "shell": "Start a Python session with the application.",
    "report": "Show versions and settings, for bug reports.",
    "port-check": "List what a Celery project must change.",
}
"""Each is `command` in the module of its name."""

COMMANDS_GROUP: Final = "dbqueue.commands"
NOT_YET: Final = frozenset({"graph", "list", "amqp", "logtool", "upgrade"})
"""Celery's commands that are not here."""


class LazyGroup(click.Group):
    """A group whose commands are imported by name, those of other packages among them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *_plugins()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return _plugins()[cmd_name].load() if cmd_name in _plugins() else None
        command: click.Command = import_module("dbqueue.cli." + cmd_name.replace("-", "_")).command
        found = extended(command, cmd_name)
        if ctx.default_map and cmd_name in ctx.default_map:
            set_defaults(ctx.default_map, cmd_name, found)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in NOT_YET:
            raise click.UsageError(f"the command {args[0]!r} of Celery is not in this version of dbqueue", ctx)
        if args and args[0] not in self.list_commands(ctx) and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f": did you mean {near[0]!r}?" if near else "; `dbqueue --help` lists them"
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [*COMMANDS.items(), *((name, f"From {each.value}.") for name, each in _plugins().items())]
            )


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Commands that other packages bring, by Celery's mechanism: their entry points of the group `dbqueue.commands`."""
    return {each.name: each for each in entry_points(group=COMMANDS_GROUP) if each.name not in COMMANDS}


def set_defaults(table: MutableMapping[str, Any], name: str, command: click.Command, path: str = TABLE) -> None:
    """Put what the table says of a command in the form that click takes, and of the commands below it."""
    path = f"{path}.{name}"
    below = command.commands if isinstance(command, click.Group) else {}
    table[name] = option_defaults(command, table[name], below, path)
    for each in below.keys() & table[name].keys():
        set_defaults(table[name], each, below[each], path)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 tables not migrated, 69 no worker is there.",
)
@click.option(
    "-A",
    "--app",
    "app_name",
    envvar="DBQUEUE_APP",
    metavar="NAME",
    help="The application: a module, or module:attribute.",
)
@click.option(
    "-b",
    "--broker",
    "--database",
    "database",
    metavar="URL",
    help="The database, in the place of the application's own.",
)
@click.option("--result-backend", metavar="URL", hidden=True)
@click.option("--skip-checks", is_flag=True, hidden=True, expose_value=False)  # Django's checks are not run
@click.option("--config", metavar="MODULE", help="Read settings from this module, too; `-A` may then be missing.")
@click.option(
    "--workdir", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Change to this folder first."
)
@click.option("-C", "--no-color", is_flag=True, help="No colours; so does NO_COLOR in the environment.")
@click.option("-q", "--quiet", is_flag=True, help="Print less: no banner, no hints.")
@click.option("--traceback", is_flag=True, help="Show the traceback of dbqueue's own errors.")
@click.version_option(__version__, "--version", message="dbqueue %(version)s")
@click.pass_context
def root(
    ctx: click.Context, /, workdir: Path | None, no_color: bool, quiet: bool, traceback: bool, **chosen: Any
) -> None:
    """Celery's API on the SQL database that your application already has.

    Start with `dbqueue -A proj worker -l info`, and see `dbqueue COMMAND --help`. Commands that need only a database
    take `--database URL` (or DBQUEUE_DATABASE_URL) in the place of `-A`.
    """
    if workdir is not None:
        os.chdir(workdir)
    if no_color or os.environ.get("NO_COLOR"):
        ctx.color = False
    target = ctx.ensure_object(Target)
    target.quiet, target.debug = quiet, traceback
    target.choose(chosen["app_name"], chosen["database"], chosen["result_backend"], chosen["config"])
