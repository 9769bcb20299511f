"""Each mutant of the engine is found by the row that is meant for it: `make mutants`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.mutants import COPIED, MUTANTS, ROOT, plant

TRIES = 5
"""Some show only where a fault meets a narrow moment."""


@pytest.mark.mutants
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_found(name: str, tmp_path: Path) -> None:
    mutant = MUTANTS[name]
    plant(mutant, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "chaos", "-p", "no:cacheprovider", "--all"]
    command += [f"tests/chaos/{mutant.test}", f"--tries={TRIES}", "--heal-timeout=30"]
    surroundings = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    surroundings.pop("PYTEST_XDIST_WORKER", None)
    run = subprocess.run(
        command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False, timeout=540
    )
    assert run.returncode == 1, f"not found:\n{run.stdout[-3000:]}{run.stderr[-2000:]}"
    assert re.search(mutant.says, run.stdout), f"found for another reason:\n{run.stdout[-6000:]}"


def test_the_mutants_fit_the_engine(tmp_path: Path) -> None:
    """What each replaces is there once: a line that has moved shows here, and not in `make mutants` alone."""
    missing = [name for name in COPIED if not (ROOT / name).exists()]
    assert missing == []
    for name, mutant in MUTANTS.items():
        texts: dict[str, str] = {}
        for edit in mutant.edits:
            text = texts.get(edit.file) or (ROOT / "dbqueue" / edit.file).read_text()
            assert text.count(edit.old) == 1, f"{name}: in {edit.file} {text.count(edit.old)} times:\n{edit.old}"
            assert edit.new not in text or edit.new in edit.old, name
            texts[edit.file] = text.replace(edit.old, edit.new)
