"""`dbqueue port-check`: what a program written for Celery has to change."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from dbqueue.cli import exit_codes
from dbqueue.cli.output import count, json_option, print_json
from dbqueue.porting import Report, check_project
from dbqueue.porting.rules import Kind
from dbqueue.shown import harmless


@click.command("port-check")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@json_option
def command(path: Path, as_json: bool) -> None:
    """List what a Celery project may keep, must change, and will miss.

    Reads the Python files of PATH (a folder or a file) and runs nothing of them. Exit code 1 if anything is missing,
    or no file could be read.
    """
    report = check_project(path)
    if as_json:
        print_json(
            {
                "files": report.files,
                "findings": [asdict(finding) for finding in report.findings],
                "unread": report.unread,
            }
        )
    else:
        _print(report)
    if report.of(Kind.MISSING) or (report.unread and not report.files):
        raise click.exceptions.Exit(exit_codes.FAILURE)


def _print(report: Report) -> None:
    for kind, title in (
        (Kind.MISSING, "Not in this version of dbqueue"),
        (Kind.CHANGES, "To change, or different here"),
    ):
        found = report.of(kind)
        if found:
            click.secho(f"{title}:", bold=True)
            for finding in found:
                click.echo(f"  {harmless(finding.path)}:{finding.line}: {harmless(finding.text)}")
    found = report.of(Kind.WORKS)
    if found:
        click.secho("As it is, once the imports say dbqueue:", bold=True)
        for text, times in sorted(Counter(finding.text for finding in found).items()):
            click.echo(f"  {harmless(text)}" + (f" ({times} places)" if times > 1 else ""))
    for path, reason in report.unread.items():
        click.echo(f"Not read: {harmless(path)}: {harmless(reason)}", err=True)
    totals = {kind: len(report.of(kind)) for kind in Kind}
    click.echo(
        f"{count(report.files, 'file')}: {totals[Kind.MISSING]} missing, {totals[Kind.CHANGES]} to change, "
        f"{totals[Kind.WORKS]} as they are."
    )
