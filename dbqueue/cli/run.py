"""From arguments to an exit code. Expected errors are one line; a traceback is somebody's bug."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

from dbqueue.cli import exit_codes
from dbqueue.cli.project import FILE, TABLE, named_in_table, option_defaults, project_table
from dbqueue.cli.root import COMMANDS, root
from dbqueue.cli.standard_streams import open_missing
from dbqueue.cli.target import Target
from dbqueue.errors import DBQueueError, ImproperlyConfigured, SchemaError

if TYPE_CHECKING:
    from dbqueue.app import DBQueue

PROGRAM: Final = "dbqueue"
GLOBAL_OPTIONS: Final = (
    "-A",
    "--app",
    "-b",
    "--broker",
    "--database",
    "--workdir",
    "-C",
    "--no-color",
    "-q",
    "--quiet",
)
"""Those that older versions of Celery took after the command, and people still type there."""


def run(app: DBQueue | None = None, argv: Sequence[str] | None = None) -> int:
    """Run a command, by default the program's arguments, and return its exit code.

    `app` takes the place of `-A`. Errors have been printed when this returns.
    """
    open_missing()
    target = Target(app)
    try:
        defaults = option_defaults(root, project_table(), COMMANDS)
        code = root.main(argv, prog_name=PROGRAM, obj=target, standalone_mode=False, default_map=defaults)
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption) and error.option_name in GLOBAL_OPTIONS:
            hint = f"{error.option_name} stands before the command, as in `{PROGRAM} -A proj worker`"
            error = click.UsageError(hint, error.ctx)
        elif isinstance(error, click.BadParameter) and named_in_table(error):
            text = f"{error.message} (it comes from [{TABLE}] in {FILE})"
            error = click.BadParameter(text, error.ctx, error.param)
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("Aborted!", err=True)
        return exit_codes.FAILURE
    except DBQueueError as error:
        if target.debug:
            raise
        return _tell(error, target)
    finally:
        target.close()
    return code if isinstance(code, int) else exit_codes.OK


def _tell(error: DBQueueError, target: Target) -> int:
    message = str(error).strip() or type(error).__name__
    if isinstance(error, SchemaError):
        # The engine does not know how this command was called; the person who reads should have it to copy.
        message = message.replace("`dbqueue migrate`", f"`{target.command_line('migrate')}`")
    click.echo(f"Error: {message}", err=True)
    if isinstance(error, SchemaError):
        return exit_codes.NOT_MIGRATED
    return exit_codes.USAGE if isinstance(error, ImproperlyConfigured) else exit_codes.FAILURE
