"""`dbqueue report`: what a bug report should say."""

from __future__ import annotations

import platform

import click

from dbqueue.cli.output import json_option, print_json
from dbqueue.cli.target import Target


@click.command("report")
@json_option
@click.pass_obj
def command(target: Target, /, as_json: bool) -> None:
    """Show versions and settings, for bug reports; passwords are masked. Connects to nothing."""
    from dbqueue.services.bugreport import versions

    app = target.database_app
    if not as_json:
        click.echo(app.bugreport())
        return
    settings = {name: {"value": value, "origin": app.conf.origin(name)} for name, value in app.conf.table().items()}
    print_json(
        {
            "versions": versions(),
            "platform": platform.platform(),
            "database": app.database.url,
            "settings": settings,
        }
    )
