"""`dbqueue events`: watch what workers and jobs do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import click

from dbqueue.cli.target import Target
from dbqueue.cli.values import SOME, Seconds
from dbqueue.shown import harmless

_WORDS: Final = {"worker-online": "started", "worker-offline": "shutdown", "worker-heartbeat": "heartbeat"}

MOST_CALLS: Final = 10_000
"""How many jobs that have not ended are remembered, the latest, by their calls: the end of some is never told."""


@click.command("events")
@click.option("-d", "--dump", is_flag=True, help="Print each event as it comes, until Ctrl-C.")
@click.option("-c", "--camera", metavar="CLASS", hidden=True)
@click.option("-F", "--freq", "--frequency", type=float, hidden=True)
@click.option("-r", "--maxrate", hidden=True)
@click.option("-l", "--loglevel", hidden=True)
@click.option("--limit", type=SOME, metavar="NUMBER", help="End after so many events.")
@click.option("--timeout", type=Seconds(min=0), metavar="SECONDS", help="End when none comes for so long.")
@click.pass_obj
def command(target: Target, /, dump: bool, camera: str | None, **given: Any) -> None:
    """Print the events of workers and jobs as they come.

    Workers send them with `worker -E`, or after `dbqueue control enable_events`.
    """
    if camera is not None:
        raise click.UsageError(
            "--camera is not in this version of dbqueue: the rows of dbqueue_jobs are what a camera would write"
        )
    if not dump:
        raise click.UsageError("the monitor on the terminal is not in this version of dbqueue: use --dump")
    target.require_tables()
    dumper = Dumper()
    click.echo("-> evdump: starting capture...")
    receiver = target.database_app.events.Receiver(handlers={"*": dumper.show})
    try:
        receiver.capture(limit=given["limit"], timeout=given["timeout"])
    except (KeyboardInterrupt, TimeoutError):
        return


class Dumper:
    """Prints events in Celery's form."""

    def __init__(self) -> None:
        self._calls: dict[str, str] = {}

    def show(self, event: dict[str, Any]) -> None:
        event = dict(event)
        moment = datetime.fromtimestamp(event.pop("timestamp", 0.0), UTC).replace(tzinfo=None)
        kind, hostname = event.pop("type"), event.pop("hostname", "?")
        words = _WORDS.get(kind, kind.replace("-", " "))
        call = ""
        if kind.startswith("task-"):
            uuid = event.pop("uuid", "?")
            if "name" in event:
                name, args, kwargs = event.pop("name"), event.pop("args", "()"), event.pop("kwargs", "{}")
                if len(self._calls) >= MOST_CALLS:
                    del self._calls[next(iter(self._calls))]
                self._calls[uuid] = f"{name}({uuid}) args={args} kwargs={kwargs}"
            call = self._calls.get(uuid, uuid)
            if kind in ("task-succeeded", "task-failed", "task-revoked"):
                self._calls.pop(uuid, None)
        fields = ", ".join(f"{name}={event[name]}" for name in sorted(event))
        colon = ":" if call or fields else ""
        click.echo(harmless(" ".join(part for part in (f"{hostname} [{moment}] {words}{colon}", call, fields) if part)))
