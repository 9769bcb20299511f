"""`dbqueue jobs`: single jobs, by their ids."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import click

from dbqueue.cli import exit_codes
from dbqueue.cli.output import (
    STATUS_COLOURS,
    age,
    count,
    duration,
    from_row,
    json_option,
    no_such_job,
    print_json,
    print_table,
)
from dbqueue.cli.target import Target
from dbqueue.cli.tree import tree
from dbqueue.cli.values import SOME
from dbqueue.jobs import STARTED, STATUSES, TERMINAL
from dbqueue.shown import harmless

if TYPE_CHECKING:
    from dbqueue.store.base import Store
    from dbqueue.store.queries import JobRow

JSON_FIELDS: Final = ("args", "kwargs", "headers", "options", "result", "meta")


@click.group("jobs")
def command() -> None:
    """List, show, retry, cancel and delete jobs."""


command.add_command(tree)

whole_workflow = click.option(
    "--workflow", is_flag=True, help="All jobs of the workflows that these jobs belong to, as far as it concerns them."
)


@command.command("list")
@click.option(
    "-s",
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(STATUSES, case_sensitive=False),
    help="Only jobs in this status; may be given again.",
)
@click.option("-Q", "--queue", "queues", multiple=True, help="Only jobs of this queue; may be given again.")
@click.option("-t", "--task", "tasks", multiple=True, help="Only calls of this task; may be given again.")
@click.option("-n", "--limit", type=SOME, default=20, show_default=True, help="At most this many.")
@json_option
@click.pass_obj
def list_(
    target: Target,
    /,
    statuses: Sequence[str],
    queues: Sequence[str],
    tasks: Sequence[str],
    limit: int,
    as_json: bool,
) -> None:
    """List jobs, the newest first."""
    from dbqueue.store import queries
    from dbqueue.store.reading import database_time

    rows = queries.find_jobs(target.store, statuses=statuses, queues=queues, tasks=tasks, limit=limit)
    if as_json:
        print_json([parsed(asdict(row)) for row in rows])
        return
    if not rows:
        click.echo("No jobs.")
        return
    now = database_time(target.store)
    print_table(
        ("ID", "TASK", "QUEUE", "STATUS", "ENQUEUED", "RAN"),
        [(row.id, row.task, row.queue, _status(row), age(row.created_at, now), _ran(row, now)) for row in rows],
    )
    if len(rows) == limit and not target.quiet:
        click.echo(f"There may be more: --limit is {limit}.", err=True)


@command.command("show")
@click.argument("job_id", metavar="ID")
@json_option
@click.pass_obj
def show(target: Target, /, job_id: str, as_json: bool) -> None:
    """Show a job with its arguments and its result."""
    from dbqueue.store import queries
    from dbqueue.store.reading import database_time

    row = queries.find_job(target.store, job_id)
    if row is None:
        raise click.ClickException(no_such_job(job_id))
    if as_json:
        print_json(parsed(asdict(row)))
        return
    now = database_time(target.store)
    values = {name: value for name, value in asdict(row).items() if value is not None and name != "traceback"}
    width = max(map(len, values)) + 2
    for name, value in values.items():
        text = harmless(str(value))
        if isinstance(value, datetime):
            text = f"{value:%Y-%m-%d %H:%M:%S.%f} UTC ({age(value, now)})"
        elif name == "status":
            text = click.style(text, fg=STATUS_COLOURS.get(text))
        click.echo(f"{name + ':':{width}}{text}")
    if row.traceback:
        click.echo(f"\n{harmless(row.traceback.rstrip(), lines=True)}")


@command.command("retry")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@whole_workflow
@json_option
@click.pass_obj
def retry(target: Target, /, job_ids: Sequence[str], workflow: bool, as_json: bool) -> None:
    """Run jobs again that have ended, under the same ids.

    They wait again as if they were new: retries and losses count from 0, the old result is dropped. The column
    `options` records how often this was done, as "retried_by_operator".

    In a workflow the failed jobs that they wait for run again too, and what could not run because of them waits
    again. With --workflow all that did not succeed does; results that are there are kept.
    """
    from dbqueue.store import changes, queries

    change = _of_each(changes.retry_workflow) if workflow else changes.retry
    _change(target, job_ids, change, "retried", as_json, _why_no_retry, whole=workflow, beside=queries.holders)


@command.command("cancel")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@whole_workflow
@json_option
@click.pass_obj
def cancel(target: Target, /, job_ids: Sequence[str], workflow: bool, as_json: bool) -> None:
    """End jobs that wait, as REVOKED.

    get() raises TaskRevokedError for them. To end one that runs: `dbqueue control revoke ID --terminate`.

    What cannot run without them ends as well. With --workflow all that waits does, and what runs is not run again.
    """
    from dbqueue.store import changes

    change = _of_each(lambda store, job_id: set(changes.cancel_workflow(store, job_id).ended))
    change = change if workflow else changes.cancel
    _change(target, job_ids, change, "cancelled", as_json, _why_no_cancel, whole=workflow)


@command.command("delete")
@click.argument("job_ids", metavar="ID...", nargs=-1, required=True)
@json_option
@click.pass_obj
def delete(target: Target, /, job_ids: Sequence[str], as_json: bool) -> None:
    """Delete jobs that have ended, with their results."""
    from dbqueue.store import changes

    _change(target, job_ids, changes.delete, "deleted", as_json, _why_no_delete)


def _of_each(change: Callable[[Store, str], set[str]]) -> Callable[[Store, Collection[str]], set[str]]:
    return lambda store, job_ids: {changed for job_id in job_ids for changed in change(store, job_id)}


def _change(
    target: Target,
    job_ids: Sequence[str],
    change: Callable[[Store, Collection[str]], set[str]],
    done: str,
    as_json: bool,
    why_not: Callable[[str], str],
    *,
    whole: bool = False,
    beside: Callable[[Store, Collection[str]], Mapping[str, str]] | None = None,
) -> None:
    """Do it to all that can take it, say why the others cannot, and end with 1 if there were any.

    With `whole` the ids stand for workflows, of which it is enough that something has changed. `beside` finds, of those
    that were left, the jobs that keep them from it.
    """
    from dbqueue.store import queries

    ids = list(dict.fromkeys(job_ids))
    changed = change(target.store, ids)
    left = [] if whole and changed else [job_id for job_id in ids if job_id not in changed]
    found = queries.statuses(target.store, left) if left else {}
    reasons = {job_id: why_not(found[job_id]) if job_id in found else "there is no such job" for job_id in left}
    if beside is not None:
        ended = [job_id for job_id in left if found.get(job_id) in TERMINAL]
        reasons |= {job_id: _why_not_beside(other) for job_id, other in beside(target.store, ended).items()}
    if as_json:
        others = sorted(changed.difference(ids))
        print_json({done: [*(job_id for job_id in ids if job_id in changed), *others], "refused": reasons})
    else:
        click.echo(f"{count(len(changed), 'job')} {done}.")
        for job_id, reason in reasons.items():
            click.echo(f"Error: {harmless(job_id)}: {reason}", err=True)
    if left:
        raise click.exceptions.Exit(exit_codes.FAILURE)


def _why_no_retry(status: str) -> str:
    if status in TERMINAL:
        return (
            "it, or a job that it waits for, was revoked before it was enqueued, takes the result of a job that was"
            " deleted, or is needed as it is by one that comes after it: dbqueue jobs tree ID shows them"
        )
    return "it is running" if status == STARTED else f"it waits already ({status})"


def _why_not_beside(holder: str) -> str:
    return f"the job {harmless(holder)} stands for its unique key by now: wait for that one's end, or cancel it"


def _why_no_cancel(status: str) -> str:
    if status == STARTED:
        return "it is running: `dbqueue control revoke ID --terminate` ends it"
    return f"it has ended already ({status})"


def _why_no_delete(status: str) -> str:
    return "it is running" if status == STARTED else f"it waits ({status}): cancel it first"


def parsed(values: dict[str, Any]) -> dict[str, Any]:
    """A row's values for JSON: its JSON columns as values, not as text in text."""
    return {name: from_row(value) if name in JSON_FIELDS else value for name, value in values.items()}


def _status(row: JobRow) -> str:
    """With what a waiting job waits for, other than its time."""
    return row.status if row.blocked_reason is None else f"{row.status} ({row.blocked_reason})"


def _ran(row: JobRow, now: datetime) -> str:
    if row.started_at is None or (row.status not in TERMINAL and row.status != STARTED):
        return "-"
    seconds = ((row.finished_at or now) - row.started_at).total_seconds()
    return duration(max(0.0, seconds)) + ("" if row.finished_at else " so far")
