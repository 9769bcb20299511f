"""`dbqueue status`: which workers are alive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import click

from dbqueue.cli import exit_codes
from dbqueue.cli.output import count, duration, json_option, print_json, print_table
from dbqueue.cli.target import Target
from dbqueue.cli.values import Seconds, names

PING_SECONDS: Final = 2.0
"""Default of `--timeout`: how long to wait for workers that are slow to answer; others are through in milliseconds."""


@click.command("status")
@click.option(
    "-t", "--timeout", type=Seconds(min=0), metavar="SECONDS", default=PING_SECONDS, show_default=True,
    help="How long to wait for answers.",
)  # fmt: skip
@click.option(
    "-d", "--destination", callback=names, metavar="NAMES", help="Only these workers, with commas between them."
)
@json_option
@click.pass_obj
def command(target: Target, /, timeout: float, destination: Sequence[str], as_json: bool) -> None:
    """Show the workers that are alive; exit code 69 if none of them answers a ping.

    A worker is alive while its heartbeat in the database is younger than its lease.
    """
    from dbqueue.store import queries

    known = [worker for worker in queries.open_workers(target.store) if not destination or worker.name in destination]
    alive = [worker for worker in known if worker.alive]
    replies = target.database_app.control.ping(destination or None, timeout=timeout)
    answered = {name for reply in replies for name in reply}
    if as_json:
        print_json([asdict(worker) | {"answers": worker.name in answered} for worker in alive])
    elif alive:
        print_table(
            ("WORKER", "POOL", "CONCURRENCY", "QUEUES", "PID", "HEARTBEAT"),
            [
                (
                    worker.name,
                    worker.pool,
                    worker.concurrency,
                    ", ".join(worker.queues),
                    worker.pid,
                    f"{duration(worker.heartbeat_age_seconds)} ago",
                )
                for worker in alive
            ],
            right=(2, 4),
        )
        click.echo(f"\n{count(len(alive), 'worker')} online.")
    silent = [worker for worker in known if not worker.alive]
    if silent and not as_json:
        shown = ", ".join(f"{each.name} for {duration(each.heartbeat_age_seconds)}" for each in silent)
        click.echo(f"Without a heartbeat, so dead or cut off: {shown}.", err=True)
    mute = [worker.name for worker in alive if worker.name not in answered]
    if mute:
        click.echo(f"Did not answer within {timeout:g} s: {', '.join(mute)}.", err=True)
    if alive and not answered:
        raise click.exceptions.Exit(exit_codes.NOBODY_ANSWERED)
    if not alive:
        click.echo(f"Error: no worker is online: start one with `{target.command_line('worker')}`", err=True)
        raise click.exceptions.Exit(exit_codes.NOBODY_ANSWERED)
