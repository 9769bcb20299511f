"""Row D14: millions of rows that wait, and millions that have ended; run where it is named, or with `--full`.

The plans of the hot statements on tables of every kind are tests of their own (`tests/contract/test_plans.py`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.conftest import Tries
from tests.workers import ROOT

SHORT = 10_000
LARGE = 1_000_000
"""Rows from which on rates tell something of the table."""
LEAST = 0.5
"""Of the rate on an empty table. The bar is higher (docs/performance.md); another plan costs four fifths and more."""


@pytest.mark.chaos("D14")
def test_rates_on_a_huge_table(tries: Tries, tmp_path: Path) -> None:
    """Workers take the first of millions, and go on beside millions that have ended, as fast as on an empty table."""
    for rows in tries.until(short=SHORT):
        figures = tmp_path / "figures.json"
        command = [sys.executable, "-m", "benchmarks", "huge", "--no-peers", "--rounds", "1"]
        command += ["--rows", str(rows), "--json", str(figures)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=7200)
        assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
        bars = {bar["bar"]: bar["value"] for bar in json.loads(figures.read_text())["rows"]["huge"]["bars"]}
        assert len(bars) == 2
        if rows >= LARGE:
            assert min(bars.values()) > LEAST, bars
        tries.note(rows)
