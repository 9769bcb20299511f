"""`dbqueue queues`: what waits and runs, by queue; and the pausing of queues."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict

import click

from dbqueue.cli import exit_codes
from dbqueue.cli.output import duration, json_option, print_json, print_table
from dbqueue.cli.target import Target
from dbqueue.cli.values import queue_names
from dbqueue.queue_patterns import is_pattern, resolve
from dbqueue.shown import harmless


@click.group("queues", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, /, as_json: bool) -> None:
    """Show how many jobs wait and run in each queue; pause and resume queues.

    Queues that hold no job, but that a living worker takes jobs from or that are paused, are shown too.
    """
    if ctx.invoked_subcommand is None:
        _show(ctx.obj, as_json=as_json)


@command.command("pause")
@click.argument("names", metavar="NAME...", nargs=-1, required=True, callback=queue_names)
@click.pass_obj
def pause(target: Target, /, names: Sequence[str]) -> None:
    """Let no worker take jobs from these queues, within about a second.

    Jobs that run go on, and jobs may be enqueued: they wait until the queue is resumed.
    """
    from dbqueue.store import queues

    for name in names:
        if is_pattern(name):
            raise click.BadParameter(f"{name!r} is a pattern: name each queue to pause")
    queues.pause(target.store, names)
    way_back = target.command_line("queues resume")
    for name in names:
        click.echo(f"{harmless(name)}: paused. It holds until `{way_back} {shlex.quote(harmless(name))}`.")


@command.command("resume")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_context
def resume(ctx: click.Context, /, names: Sequence[str]) -> None:
    """Let workers take jobs from these queues again."""
    from dbqueue.store import queues

    target: Target = ctx.obj
    resumed = queues.resume(target.store, names)
    for name in names:
        click.echo(f"{harmless(name)}: {'resumed' if name in resumed else 'was not paused'}.")
    if not resumed:
        ctx.exit(exit_codes.FAILURE)


def _show(target: Target, *, as_json: bool) -> None:
    from dbqueue.store import queries, queues
    from dbqueue.store.reading import database_time

    counted = {each.queue: each for each in queries.queue_counts(target.store)}
    workers: dict[str, int] = {}
    for worker in queries.open_workers(target.store):
        for queue in resolve(worker.queues, counted) if worker.alive else ():
            workers[queue] = workers.get(queue, 0) + 1
    paused = queues.paused(target.store)
    now = database_time(target.store)
    rows = [
        counted.get(queue) or queries.QueueCounts(queue, 0, 0, 0, 0, None)
        for queue in sorted({*counted, *workers, *paused})
    ]
    ages = [
        None if row.oldest_ready_at is None else max(0.0, (now - row.oldest_ready_at).total_seconds()) for row in rows
    ]
    if as_json:
        print_json(
            [
                {**asdict(row), "oldest_waiting_seconds": seconds, "workers": workers.get(row.queue, 0)}
                | {"paused_at": paused.get(row.queue)}
                for row, seconds in zip(rows, ages, strict=True)
            ]
        )
        return
    if not rows:
        click.echo("No jobs, and no workers.")
        return
    print_table(
        ("QUEUE", "WAITING", "SCHEDULED", "RUNNING", "WORKERS", "OLDEST WAITS SINCE"),
        [
            (
                row.queue + (" (paused)" if row.queue in paused else ""),
                row.waiting,
                row.scheduled,
                row.running,
                workers.get(row.queue, 0),
                "-" if seconds is None else duration(seconds),
            )
            for row, seconds in zip(rows, ages, strict=True)
        ],
        right=(1, 2, 3, 4),
    )
    blocked = sum(row.blocked for row in rows)
    if blocked:
        click.echo(f"{blocked} more wait for something else than their time.")
