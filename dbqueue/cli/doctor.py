"""`dbqueue doctor`: look at everything that commonly goes wrong."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

import click

from dbqueue.cli import exit_codes
from dbqueue.cli.output import json_option, print_json
from dbqueue.cli.target import Target
from dbqueue.shown import harmless

COLOURS: Final = {"ok": "green", "warning": "yellow", "error": "red"}


@click.command("doctor")
@json_option
@click.pass_obj
def command(target: Target, /, as_json: bool) -> None:
    """Check settings, database, tables, workers and queues, and say what to do. Changes nothing.

    Exit code 1 if there is an error; warnings do not count.
    """
    from dbqueue.cli.checks import examine
    from dbqueue.cli.findings import Level

    findings = []
    for finding in examine(target):
        findings.append(finding)
        if as_json:
            continue
        level = click.style(f"{finding.level:<7}", fg=COLOURS[finding.level])
        click.echo(f"{level}  {finding.check + ':':<10} {harmless(finding.message)}")
        if finding.advice:
            click.echo(f"{'':20} -> {harmless(finding.advice)}")
    failed = any(finding.level is Level.ERROR for finding in findings)
    if as_json:
        print_json({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    raise click.exceptions.Exit(exit_codes.FAILURE if failed else exit_codes.OK)
