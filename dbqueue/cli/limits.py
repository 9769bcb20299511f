"""`dbqueue limits`: how many jobs of a key may run, and how many do."""

from __future__ import annotations

import shlex
from dataclasses import asdict

import click

from dbqueue.cli import exit_codes
from dbqueue.cli.output import json_option, print_json, print_table
from dbqueue.cli.target import Target
from dbqueue.limits import TASK_KEYS, Limit
from dbqueue.shown import harmless

ORIGINS = {"settings": "code", "call": "code", "user": "set here"}


@click.group("limits")
def command() -> None:
    """Show and change limits over all workers: jobs at once, and starts in a time.

    Each has a key: the name of a task, or what its `Limit(key=...)` or `limit_key=` of a call says.
    """


@command.command("list")
@json_option
@click.pass_obj
def list_(target: Target, /, as_json: bool) -> None:
    """List the limits, with the jobs that run and those that wait for permits."""
    from dbqueue.store import limits

    rows = limits.rows(target.store)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    if not rows:
        click.echo("No limits, and no job waits for one.")
        return
    print_table(
        ("KEY", "RUNNING", "AT ONCE", "RATE", "WAITING", "FROM"),
        [
            (
                harmless(row.key),
                row.running,
                "-" if row.max_running is None else row.max_running,
                row.rate or "-",
                row.held,
                _origin(row.key, row.source),
            )
            for row in rows
        ],
        right=(1, 2, 4),
    )


@command.command("set")
@click.argument("key", metavar="KEY")
@click.option("--running", type=click.IntRange(min=0), metavar="N", help="So many at once; 0 stops them.")
@click.option("--rate", metavar="RATE", help="So many starts in a time: 100/m, 10/s, 1/h.")
@click.pass_obj
def set_(target: Target, /, key: str, running: int | None, rate: str | None) -> None:
    """Let a key have these numbers, in all workers and at once.

    What is not given is without limit. It goes before what code says, until `limits clear`. Jobs that run go on.
    """
    from dbqueue.store import limits

    if running is None and rate is None:
        raise click.UsageError("say how many: --running N, --rate RATE, or both")
    try:
        limits.set_limit(target.store, key, Limit(running=running, rate=rate))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    clear = target.command_line("limits clear")
    click.echo(f"{harmless(key)}: set. It holds until `{clear} {shlex.quote(harmless(key))}`.")


@command.command("clear")
@click.argument("key", metavar="KEY")
@click.pass_context
def clear(ctx: click.Context, /, key: str) -> None:
    """Let a key have the limit that code gives it, or none."""
    from dbqueue.store import limits

    target: Target = ctx.obj
    if not limits.clear_limit(target.store, key):
        click.echo(f"{harmless(key)}: has no limit.")
        ctx.exit(exit_codes.FAILURE)
    click.echo(f"{harmless(key)}: cleared.")


def _origin(key: str, source: str | None) -> str:
    if source is None:
        return "rate_limit of workers" if key.startswith(TASK_KEYS) else "no limit"
    return ORIGINS[source]
