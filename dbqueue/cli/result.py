"""`dbqueue result`: what became of a job."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from dbqueue.cli import exit_codes
from dbqueue.cli.follow import show_progress
from dbqueue.cli.output import json_option, no_such_job, print_json
from dbqueue.cli.target import Target
from dbqueue.cli.values import Seconds
from dbqueue.jobs import SUCCESS
from dbqueue.shown import harmless


@click.command("result")
@click.argument("job_id", metavar="ID")
@click.option("--traceback", is_flag=True, help="Print the traceback of a failure in the place of its error.")
@click.option("--wait", is_flag=True, help="Wait for the job to end.")
@click.option("--follow", is_flag=True, help="Wait, and show the states and the progress meanwhile.")
@click.option("--timeout", type=Seconds(min=0), help="Seconds to wait at most; implies --wait.")
@click.option("-t", "--task", hidden=True, expose_value=False)  # for a task's own backend, which there is not
@json_option
@click.pass_obj
def command(
    target: Target, /, job_id: str, traceback: bool, wait: bool, follow: bool, timeout: float | None, as_json: bool
) -> None:
    """Print the result of a job.

    Answers at once unless --wait or --follow is given. Exit code 0 only for a job that has succeeded.
    """
    target.require_tables()
    if not job_id:
        raise click.ClickException(no_such_job(job_id))
    result = target.database_app.AsyncResult(job_id)
    if follow:
        show_progress(result, timeout)
    elif (wait or timeout is not None) and result.exists() and not result.ready():
        result.app.database.waiter.wait(job_id, timeout=timeout, interval=0.5)
    if as_json:
        _print_json(target, job_id)
    elif not result.exists():
        click.echo(f"Error: {no_such_job(job_id)}", err=True)
    elif not result.ready():
        click.echo(f"{result.state}: there is no result yet.")
    else:
        click.echo(harmless(_shown(result, traceback), lines=True))
    if result.state != SUCCESS:
        raise click.exceptions.Exit(exit_codes.FAILURE)


def _shown(result: Any, traceback: bool) -> str:
    if traceback and result.traceback:
        return str(result.traceback).rstrip()
    value = result.result
    if result.state == SUCCESS:
        return value if isinstance(value, str) else repr(value)
    return f"{result.state}: {value!r}"


def _print_json(target: Target, job_id: str) -> None:
    from dbqueue.store import queries

    row = queries.find_job(target.store, job_id)
    if row is None:
        print_json({"id": job_id, "exists": False})
        return
    from dbqueue.cli.jobs import parsed

    values = parsed(asdict(row))
    fields = ("id", "task", "status", "state", "result", "traceback", "meta", "finished_at")
    print_json({"exists": True, **{name: values[name] for name in fields}})
