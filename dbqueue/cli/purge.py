"""`dbqueue purge`: delete what waits."""

from __future__ import annotations

from collections.abc import Collection

import click

from dbqueue.cli.output import count, json_option, print_json
from dbqueue.cli.target import Target
from dbqueue.cli.values import names
from dbqueue.shown import harmless


@click.command("purge")
@click.option(
    "-Q", "--queues", callback=names, metavar="NAMES", help="Only these queues, with commas between them. Default: all."
)
@click.option("-X", "--exclude-queues", callback=names, metavar="NAMES", help="All but these queues.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def command(
    target: Target, /, queues: Collection[str], exclude_queues: Collection[str], force: bool, as_json: bool
) -> None:
    """Delete the jobs that wait, due or not. Running ones and results stay.

    There is no undo.
    """
    from dbqueue.store import changes, queries

    if not force:
        found = {
            each.queue: each.waiting + each.scheduled + each.blocked
            for each in queries.queue_counts(target.store)
            if (not queues or each.queue in queues) and each.queue not in exclude_queues
        }
        shown = ", ".join(f"{harmless(queue)}: {number}" for queue, number in found.items() if number)
        if shown:
            click.confirm(
                f"This deletes {count(sum(found.values()), 'waiting job')} ({shown}). There is no undo. Delete them?",
                abort=True,
                err=True,
            )
    purged = changes.purge(target.store, queues=queues, excluded=exclude_queues)
    if as_json:
        print_json({"purged": purged})
    else:
        click.echo(f"Purged {count(purged, 'message')}.")
