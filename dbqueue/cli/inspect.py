"""`dbqueue inspect`: ask the workers that run."""

from __future__ import annotations

from typing import Any

import click

from dbqueue.cli.output import json_option
from dbqueue.cli.remote import ask, remote_options
from dbqueue.cli.target import Target


@click.command("inspect")
@remote_options
@json_option
@click.pass_obj
def command(target: Target, /, **given: Any) -> None:
    """Ask workers: active, reserved, scheduled, registered, stats, ping, ... See `--list`.

    Exit code 69 if none answers.
    """
    ask(target, "inspect", **given)
