"""`dbqueue migrate`: the tables, by alembic's revisions."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal

import click

from dbqueue.cli import exit_codes
from dbqueue.cli.output import count, json_option, print_json
from dbqueue.cli.target import Target
from dbqueue.cli.values import Seconds
from dbqueue.errors import OperationalError

if TYPE_CHECKING:
    from dbqueue.store.base import Store
    from dbqueue.store.compatibility import SchemaState

RETRY_SECONDS: Final = 0.5


@click.command("migrate")
@click.option("--check", is_flag=True, help="Change nothing; exit code 3 unless the tables fit this version.")
@click.option("--sql", is_flag=True, help="Print the statements; change nothing, connect to nothing.")
@click.option(
    "--revision",
    default="head",
    show_default=True,
    help="Where to go: a revision, 'head', 'base' (no tables), or '-1' for one back. With --sql also 'from:to'.",
)
@click.option("--schema", help="The PostgreSQL schema of the tables, in the place of the setting database_schema.")
@click.option(
    "--wait",
    "wait_seconds",
    type=Seconds(min=0),
    default=0.0,
    help="Seconds to wait for a database that is not up yet.",
)
@click.option(
    "--roles",
    is_flag=True,
    help="Print SQL for PostgreSQL roles with no more rights than they need: producer, worker, inspector, owner.",
)
@click.option("--apply", is_flag=True, help="With --roles: run that SQL.")
@click.option(
    "--partition",
    type=click.Choice(["day", "week", "month", "off"]),
    help="Have the table of jobs partitioned by time, so that old ones are dropped at once; or not. PostgreSQL.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask before going back, which drops data.")
@json_option
@click.pass_obj
def command(
    target: Target,
    /,
    check: bool,
    sql: bool,
    revision: str,
    schema: str | None,
    wait_seconds: float,
    roles: bool,
    apply: bool,
    partition: Literal["day", "week", "month", "off"] | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Make the tables, or bring them to this version's form.

    Safe to repeat, and safe to run twice at once. SQLite needs it only for going back.
    """
    from dbqueue.store import migrate

    unknown = [each for each in revision.split(":") if each and not migrate.knows(each)]
    if unknown:
        raise click.BadParameter(f"there is no revision {unknown[0]!r}", param_hint="'--revision'")
    if schema is not None:
        target.override(database_schema=schema)
    if partition is not None:
        if check or sql or roles or apply or revision != "head":
            raise click.UsageError("--partition goes with --schema, --wait and --json alone")
        _partition(target, partition, wait_seconds=wait_seconds, as_json=as_json)
    elif roles or apply:
        _roles(target, roles=roles, apply=apply, others=check or sql or revision != "head")
    elif sql:
        start, _, to = revision.rpartition(":")
        store = target.raw_store
        click.echo(migrate.sql(target.database_url, schema=store.schema, revision=to, start=start or "base"), nl=False)
    else:
        _migrate(target, revision, check=check, wait_seconds=wait_seconds, yes=yes, as_json=as_json)


def _migrate(target: Target, revision: str, *, check: bool, wait_seconds: float, yes: bool, as_json: bool) -> None:
    if check:
        target.refuse_missing_file()
    store = target.raw_store
    state = _state(store, wait_seconds)
    if check:
        _tell(target, state, as_json)
        raise click.exceptions.Exit(exit_codes.OK if state.is_usable else exit_codes.NOT_MIGRATED)
    if _goes_back(state, revision):
        _downgrade(target, revision, sure=yes)
    else:
        _change(store, revision, back=False)
    after = _state(store)
    if as_json:
        _tell(target, after, as_json)
    elif after.status == "newer":
        click.echo(f"Nothing to do: {after}.")
    elif after.revision == state.revision:
        click.echo(f"Nothing to do: the tables are at revision {after.revision or 'base'}.")
    else:
        click.echo(f"Migrated {store.url} from {state.revision or 'base'} to {after.revision or 'base'}.")


def _roles(target: Target, *, roles: bool, apply: bool, others: bool) -> None:
    from dbqueue.store.postgres import roles as grants

    if not roles:
        raise click.UsageError("--apply goes with --roles")
    if others:
        raise click.UsageError("--roles goes with --schema and --apply alone")
    store = target.raw_store
    if not apply:
        click.echo(grants.script(store), nl=False)
        return
    with store.translating():
        grants.apply(store)
    click.echo(f"Made the roles {', '.join(grants.ROLES)} on {store.url}. Grant them to the users of your programs.")


def _partition(
    target: Target, by: Literal["day", "week", "month", "off"], *, wait_seconds: float, as_json: bool
) -> None:
    from dbqueue.store.postgres.partitions.switching import switch

    store = target.raw_store
    if store.dialect == "postgresql":  # else it is refused in any case
        _state(store, wait_seconds)
    began = time.monotonic()
    done = switch(store, None if by == "off" else by, max_losses=target.database_app.conf.task_max_losses)
    seconds = time.monotonic() - began
    if as_json:
        print_json({"partition": done.size or "off", "was": done.was or "off", "made": done.made, "moved": done.moved})
        return
    is_now = f"the table of jobs is partitioned by {done.size}" if done.size else "the table of jobs is a plain one"
    if done.size == done.was and not done.made:
        click.echo(f"Nothing to do: {is_now}.")
        return
    click.echo(f"Now {is_now}: {count(done.moved, 'row')} copied, in {seconds:.1f} seconds.")
    if done.made:
        click.echo(f"New partitions: {', '.join(done.made)}.")


def _state(store: Store, wait_seconds: float = 0.0) -> SchemaState:
    from dbqueue.store import migrate

    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            with store.translating():
                return migrate.check(store.engine, schema=store.schema)
        except OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(RETRY_SECONDS)


def _tell(target: Target, state: SchemaState, as_json: bool) -> None:
    if as_json:
        print_json({"status": state.status, "revision": state.revision, "head": state.head})
    else:
        click.echo(str(state).replace("`dbqueue migrate`", f"`{target.command_line('migrate')}`"))


def _goes_back(state: SchemaState, revision: str) -> bool:
    at = state.revision
    return revision == "base" or revision.startswith("-") or (at is not None and revision.isdigit() and revision < at)


def _downgrade(target: Target, revision: str, *, sure: bool) -> None:
    if not sure:
        click.confirm(
            f"This takes the tables of {target.raw_store.url} back to {revision!r}. What newer columns and tables hold "
            "is lost; 'base' drops all jobs. Go on?",
            abort=True,
            err=True,
        )
    _change(target.raw_store, revision, back=True)


def _change(store: Store, revision: str, *, back: bool) -> None:
    from dbqueue.store import migrate

    change = migrate.downgrade if back else migrate.upgrade
    with store.translating():
        change(store.engine, schema=store.schema, revision=revision)
