"""Type checkers accept right.py and refuse each line of wrong.py: mypy and pyright."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
TIMEOUT_SECONDS = 300


def checked(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def required(module: str) -> None:
    """A checker that is missing is a skip on a developer's machine, and a failure in CI."""
    if find_spec(module) is None:
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail(f"no {module}, and CI is set", pytrace=False)
        pytest.skip(f"no {module}")


def test_mypy() -> None:
    required("mypy")
    done = checked("-m", "mypy", "--warn-unused-ignores", str(FOLDER / "right.py"), str(FOLDER / "wrong.py"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_pyright() -> None:
    """By pyrightconfig.json, which leaves `type: ignore` to mypy."""
    required("pyright")
    done = checked("-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "--project", str(FOLDER))
    report = json.loads(done.stdout)
    found = [
        f"{each['file']}:{each['range']['start']['line'] + 1}: {each['message']} {each.get('rule')}"
        for each in report["generalDiagnostics"]
    ]
    assert found == []
    assert report["summary"]["filesAnalyzed"] == 2
