"""What `inspect` and `control` share: which command with which arguments, for whom, and how replies are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from dbqueue.cli import exit_codes
from dbqueue.cli.output import count, print_json
from dbqueue.cli.target import Target, importing
from dbqueue.cli.values import Seconds, names
from dbqueue.shown import harmless

if TYPE_CHECKING:
    from dbqueue.worker.control import CommandInfo

F = TypeVar("F", bound=Callable[..., Any])

WRITTEN: Final = ("revoke", "terminate")
"""Commands whose effect is in the jobs' rows, whether a worker answers or not."""


def remote_options(command: F) -> F:
    """The command's name and its arguments, and whom it is for."""
    for add in (
        click.argument("arguments", metavar="[ARGUMENT]...", nargs=-1),
        click.argument("name", metavar="COMMAND", required=False),
        click.option(
            "-d", "--destination", callback=names, metavar="NAMES", help="Only these workers, with commas between them."
        ),
        click.option("-t", "--timeout", type=Seconds(min=0), metavar="SECONDS", help="How long to wait for replies."),
        click.option("-l", "--list", "list_only", is_flag=True, help="Show the commands."),
        click.option("--terminate", is_flag=True, help="revoke: end those that run, too."),
        click.option("--signal", metavar="NAME", help="revoke, terminate: the signal; TERM by default."),
    ):
        command = add(command)
    return command


def ask(
    target: Target,
    kind: str,
    *,
    name: str | None,
    arguments: Sequence[str],
    destination: Sequence[str],
    timeout: float | None,
    list_only: bool,
    terminate: bool,
    signal: str | None,
    as_json: bool,
) -> None:
    """Send the command, show each reply, and end with 69 if there is none."""
    known = _known(target, kind)
    if list_only or name is None:
        _list(known)
        return
    if name not in known:
        raise click.UsageError(f"there is no command {name!r} of {kind}: see `dbqueue {kind} --list`")
    info = known[name]
    given = _arguments(info, arguments)
    if name == "revoke":
        given |= {"terminate": terminate, "signal": signal}
    replies = _send(target, info, given, destination, info.default_timeout if timeout is None else timeout)
    said = {worker: answer for reply in replies for worker, answer in reply.items()}
    if as_json:
        print_json(said)
    else:
        for worker, answer in said.items():
            show_reply(worker, answer)
        if said and name == "ping":
            click.echo(f"\n{count(len(said), 'node')} online.")
    if not said:
        kept = ": it is written in the database, and holds for every worker" if name in WRITTEN else ""
        click.echo(f"Error: No nodes replied within time constraint{kept}", err=True)
        raise click.exceptions.Exit(exit_codes.NOBODY_ANSWERED)


def _list(known: dict[str, CommandInfo]) -> None:
    for each in known.values():
        if each.visible:
            click.echo(f"{each.name} {each.signature or ''}".rstrip() + f"\n    {each.help}")


def _known(target: Target, kind: str) -> dict[str, CommandInfo]:
    import dbqueue.worker.control.desk  # noqa: F401 - registers the commands
    from dbqueue.worker.control import Panel

    if target.names_app:
        with importing():
            target.app.import_tasks()  # an application's own commands
    return {name: info for name, info in sorted(Panel.commands.items()) if info.type == kind}


def _send(
    target: Target, info: CommandInfo, given: dict[str, Any], destination: Sequence[str], timeout: float
) -> list[dict[str, Any]]:
    target.require_tables()
    control = target.database_app.control
    options: dict[str, Any] = {"destination": destination or None, "reply": True, "timeout": max(timeout, 1.0)}
    if info.name in (*WRITTEN, "revoke_by_stamped_headers"):
        # Through the facade, which writes the rows: that holds for workers that start later, too.
        given = {name: value for name, value in given.items() if value is not None}
        try:
            return getattr(control, info.name)(**given, **options) or []
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    return control.broadcast(info.name, given, **options) or []


def _arguments(info: CommandInfo, arguments: Sequence[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    left = list(arguments)
    for name, convert in info.args:
        if not left:
            break
        text = left.pop(0)
        try:
            given[name] = convert(text)
        except ValueError as error:
            raise click.UsageError(f"{name} of {info.name} cannot be {text!r}: {error}") from error
    if info.variadic is not None:
        given[info.variadic] = left
    elif left:
        raise click.UsageError(f"{info.name} takes no {left[0]!r}: {info.name} {info.signature or ''}".rstrip())
    return given


def show_reply(worker: str, said: Any) -> None:
    """In Celery's form: `->  celery@host: OK`, and below it what there is to say."""
    if isinstance(said, dict) and "error" in said:
        status, body = click.style("ERROR", fg="red", bold=True), said["error"]
    elif isinstance(said, dict) and "ok" in said:
        status, body = click.style("OK", fg="green", bold=True), said["ok"]
    elif isinstance(said, list):
        status = click.style("OK", fg="green", bold=True)
        body = "\n".join(f"* {each if isinstance(each, str) else json.dumps(each)}" for each in said) or "- empty -"
    else:
        status, body = click.style("OK", fg="green", bold=True), json.dumps(said, indent=4, default=str)
    click.echo(f"->  {harmless(worker)}: {status}")
    for line in harmless(str(body), lines=True).splitlines():
        click.echo(f"    {line}")
