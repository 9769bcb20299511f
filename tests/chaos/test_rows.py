"""The rows of the matrix: each has tests and its line in docs/faults.md, and can be chosen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.conftest import FULL, ON_REQUEST
from tests.workers import ROOT

SUITE = (Path("tests/chaos"), Path("tests/packaging/test_rolling_upgrade.py"))
"""What `make chaos` collects."""


def test_every_row_has_tests_and_a_line() -> None:
    texts = [path.read_text() for part in SUITE for path in sorted((ROOT / part).rglob("*.py")) or [ROOT / part]]
    assert {row for text in texts for row in re.findall(r'mark\.chaos\("(\w+)"\)', text)} == FULL.keys()
    page = (ROOT / "docs/faults.md").read_text().partition("## What came of it")[0]
    lines = re.findall(r"^\| ([A-Z]\d+(?:, [A-Z]\d+)*) \|", page, re.MULTILINE)
    assert {row for line in lines for row in line.split(", ")} == FULL.keys()


def collected(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "chaos", *map(str, SUITE), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("row", ["P1", *ON_REQUEST])
def test_a_row_is_chosen(row: str) -> None:
    found = collected("--row", row)
    assert found.returncode == 0
    assert "::test_" in found.stdout


def test_a_row_that_is_not_there_is_refused() -> None:
    found = collected("--row", "P10")
    assert found.returncode == pytest.ExitCode.USAGE_ERROR
    assert "there is no row P10; there are P1, P2" in found.stderr


def test_long_rows_are_run_on_request_alone() -> None:
    assert not re.search("test_large_tables|test_rolling_upgrade", collected("--all").stdout)
