"""`dbqueue call`: enqueue from the shell."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from dbqueue.cli.target import Target, importing
from dbqueue.errors import ImproperlyConfigured


def _json(kind: type, name: str) -> Callable[[click.Context, click.Parameter, str], Any]:
    """Reads JSON of one kind: an array, or an object."""

    def convert(ctx: click.Context, param: click.Parameter, text: str) -> Any:
        try:
            value = json.loads(text)
        except ValueError as error:
            raise click.BadParameter(f"this is no JSON: {error}", ctx, param) from error
        except RecursionError as error:
            raise click.BadParameter("this is nested too deeply", ctx, param) from error
        if not isinstance(value, kind):
            raise click.BadParameter(f"this must be a JSON {name}, not {text}", ctx, param)
        return value

    return convert


def _seconds_or_time(ctx: click.Context, param: click.Parameter, value: str | None) -> float | str | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


@click.command("call")
@click.argument("name", metavar="TASK")
@click.option(
    "-a",
    "--args",
    callback=_json(list, "array"),
    metavar="JSON",
    default="[]",
    help="Positional arguments, as a JSON array.",
)
@click.option(
    "-k",
    "--kwargs",
    callback=_json(dict, "object"),
    metavar="JSON",
    default="{}",
    help="Keyword arguments, as a JSON object.",
)
@click.option("--countdown", type=float, help="Not before this many seconds from now.")
@click.option("--eta", help="Not before this time (ISO 8601; without a zone, in the setting timezone).")
@click.option("--expires", callback=_seconds_or_time, help="REVOKED unless started by then: seconds, or a time.")
@click.option("-Q", "--queue", "--routing-key", "queue", help="The queue.")
@click.option("--exchange", hidden=True, expose_value=False)  # jobs have none
@click.option("--serializer", metavar="NAME", help="Of the arguments; default: that of the task or the settings.")
@click.option("--priority", type=int, help="Higher runs first.")
@click.option("--id", "task_id", help="The job's id; default: a new one.")
@click.pass_obj
def command(target: Target, /, name: str, args: list[Any], kwargs: dict[str, Any], **options: Any) -> None:
    """Enqueue a call of a task, and print its id.

    The task need not be one of the application: a worker that has it will run it.
    """
    app = target.database_app
    with importing():
        app.import_tasks()
    target.require_tables()
    given = {option: value for option, value in options.items() if value is not None}
    try:
        click.echo(app.send_task(name, args, kwargs, **given).id)
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(str(error)) from error
