"""`dbqueue control`: tell the workers that run."""

from __future__ import annotations

from typing import Any

import click

from dbqueue.cli.output import json_option
from dbqueue.cli.remote import ask, remote_options
from dbqueue.cli.target import Target


@click.command("control")
@remote_options
@json_option
@click.pass_obj
def command(target: Target, /, **given: Any) -> None:
    """Tell workers: revoke, terminate, add_consumer, pool_grow, time_limit, shutdown, ... See `--list`.

    Exit code 69 if none answers.
    """
    ask(target, "control", **given)
