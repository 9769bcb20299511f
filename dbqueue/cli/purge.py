"""`dbqueue purge`: delete what waits."""

from __future__ import annotations

import click

from dbqueue.cli.output import count, json_option, print_json
from dbqueue.cli.target import Target
from dbqueue.shown import harmless


def names(text: str | None) -> list[str]:
    """The names in a text with commas."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


@click.command("purge")
@click.option("-Q", "--queues", help="Only these queues, with commas between them. Default: all.")
@click.option("-X", "--exclude-queues", help="All but these queues.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def command(target: Target, /, queues: str | None, exclude_queues: str | None, force: bool, as_json: bool) -> None:
    """Delete the jobs that wait, due or not. Running ones and results stay.

    There is no undo.
    """
    from dbqueue.store import changes, queries

    chosen, excluded = names(queues), names(exclude_queues)
    if not force:
        found = {
            each.queue: each.waiting + each.scheduled + each.blocked
            for each in queries.queue_counts(target.store)
            if (not chosen or each.queue in chosen) and each.queue not in excluded
        }
        shown = ", ".join(f"{harmless(queue)}: {number}" for queue, number in found.items() if number)
        if shown:
            click.confirm(
                f"This deletes {count(sum(found.values()), 'waiting job')} ({shown}). There is no undo. Delete them?",
                abort=True,
                err=True,
            )
    purged = changes.purge(target.store, queues=chosen, excluded=excluded)
    if as_json:
        print_json({"purged": purged})
    else:
        click.echo(f"Purged {count(purged, 'message')}.")
