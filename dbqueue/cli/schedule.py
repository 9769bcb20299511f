"""`dbqueue schedule`: the table of periodic tasks."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, tzinfo
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from dbqueue.cli import exit_codes
from dbqueue.cli.output import age, count, from_row, json_option, print_json, print_table
from dbqueue.cli.target import Target, importing
from dbqueue.cli.values import SOME
from dbqueue.shown import MAX_CHARACTERS, harmless

if TYPE_CHECKING:
    from dbqueue.schedules import BaseSchedule
    from dbqueue.store.schedules import ScheduleRow


@click.group("schedule")
def command() -> None:
    """List periodic tasks, run, pause and resume them."""


@command.command("list")
@json_option
@click.pass_obj
def list_(target: Target, /, as_json: bool) -> None:
    """List the periodic tasks, by name.

    Those of an application's settings are here once a beat has started with it.
    """
    from dbqueue.store import schedules

    now, rows = schedules.read(target.store)
    if as_json:
        print_json([_plain(row) for row in rows])
        return
    if not rows:
        click.echo("No schedules. Those of an application's settings appear when a beat starts with it.")
        return
    print_table(
        ("NAME", "TASK", "SCHEDULE", "NEXT", "LAST", "RUNS", "STATE"),
        [
            (
                row.name,
                row.task,
                row.schedule + (f" ({row.timezone})" if row.timezone not in (None, "UTC") else ""),
                age(row.next_due_at, now),
                age(row.last_due_at, now),
                row.total_run_count,
                _state(row),
            )
            for row in rows
        ],
        right=(5,),
    )


@command.command("next")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("-n", "--limit", type=SOME, default=10, show_default=True, help="At most this many.")
@json_option
@click.pass_obj
def next_(target: Target, /, names: Sequence[str], limit: int, as_json: bool) -> None:
    """Show the due times to come, of all periodic tasks or of those named.

    Of one whose due times cannot be told it says why.
    """
    from dbqueue.errors import ImproperlyConfigured
    from dbqueue.store import schedules

    now, rows = schedules.read(target.store)
    missing = set(names) - {row.name for row in rows}
    default = target.database_app.conf.timezone
    coming: list[Iterator[tuple[datetime, str]]] = []
    problems: dict[str, str] = {}
    for row in rows:
        if not row.enabled or (names and row.name not in names):
            continue
        try:
            coming.append(_due_times(row, now, default))
        except (ValueError, OverflowError, ImproperlyConfigured) as error:
            problems[row.name] = harmless(str(error)[:MAX_CHARACTERS])
    found = list(islice(heapq.merge(*coming), limit))
    if as_json:
        print_json([{"due_at": due.astimezone(UTC), "name": name} for due, name in found])
    elif found:
        print_table(
            ("DUE", "IN", "NAME"), [(f"{due:%a %Y-%m-%d %H:%M:%S%z}", age(due, now), name) for due, name in found]
        )
    elif not missing and not problems:
        click.echo("Nothing is due.")
    for name, problem in problems.items():
        click.echo(f"Error: the due times of {harmless(name)!r} cannot be told: {problem}", err=True)
    _tell_missing(missing)
    if problems.keys() & set(names):
        raise click.exceptions.Exit(exit_codes.FAILURE)


@command.command("run")
@click.argument("name")
@json_option
@click.pass_obj
def run(target: Target, /, name: str, as_json: bool) -> None:
    """Enqueue a periodic task now, and print its id: the job's, the last one's of a chain, a group's.

    Its due times stay as they are.
    """
    from dbqueue.store import schedules

    app = target.database_app
    with importing():
        app.import_tasks()
    if schedules.find(target.store, name) is None:
        _tell_missing({name})
        return
    try:
        job_id = app.schedules.run(name).id
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise click.ClickException(f"the entry {harmless(name)!r} makes no job: {error}") from error
    if as_json:
        print_json({"name": name, "id": job_id})
    else:
        click.echo(job_id)


@command.command("pause")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@json_option
@click.pass_obj
def pause(target: Target, /, names: Sequence[str], as_json: bool) -> None:
    """Do not fire these until they are resumed, through restarts and deployments too."""
    _set_enabled(target, names, enabled=False, done="paused", as_json=as_json)


@command.command("resume")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@json_option
@click.pass_obj
def resume(target: Target, /, names: Sequence[str], as_json: bool) -> None:
    """Fire these again. Due times that passed meanwhile are not made up for."""
    _set_enabled(target, names, enabled=True, done="resumed", as_json=as_json)


def _set_enabled(target: Target, names: Sequence[str], *, enabled: bool, done: str, as_json: bool) -> None:
    from dbqueue.store import schedules

    changed = schedules.set_enabled(target.store, names, enabled=enabled)
    if as_json:
        print_json({done: sorted(changed)})
    else:
        click.echo(f"{count(len(changed), 'schedule')} {done}.")
    _tell_missing(set(names) - changed)


def _tell_missing(names: set[str]) -> None:
    """Say that there are no schedules of these names, if there are any, and end with 1."""
    for name in sorted(names):
        click.echo(f"Error: there is no schedule {harmless(name)!r}: see `dbqueue schedule list`", err=True)
    if names:
        raise click.exceptions.Exit(exit_codes.FAILURE)


def _due_times(row: ScheduleRow, now: datetime, default: str) -> Iterator[tuple[datetime, str]]:
    """The due times to come, in the row's zone. Raises for a row that cannot be planned, or not here."""
    from dbqueue.schedules import from_text
    from dbqueue.worker.beat.steps import named_zone

    if row.problem:
        raise ValueError(row.problem)
    # Beat says what is wrong with a row; here are those, too, that no beat has seen yet.
    rule, zone = from_text(row.schedule), named_zone(row.timezone or default)
    return _from_first(row.next_due_at or rule.next_after(now, zone), row.name, rule, zone)


def _from_first(first: datetime | None, name: str, rule: BaseSchedule, zone: tzinfo) -> Iterator[tuple[datetime, str]]:
    due = first
    with contextlib.suppress(OverflowError):  # after the year 9999
        while due is not None:
            yield due.astimezone(zone), name
            due = rule.next_after(due, zone)


def _state(row: ScheduleRow) -> str:
    if not row.enabled:
        return "paused"
    return f"problem: {row.problem}" if row.problem else "on"


def _plain(row: ScheduleRow) -> dict[str, Any]:
    """A row for JSON: its JSON columns as values, not as text in text."""
    values = asdict(row)
    del values["planned_from"]
    return values | {name: from_row(values[name]) for name in ("args", "kwargs", "options")}
