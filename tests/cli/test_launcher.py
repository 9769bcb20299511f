"""What `tests.launcher` starts is as if an interpreter had been started for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import launcher
from tests.cli.commands import CHECKOUT, TIMEOUT_SECONDS, Commands

APPLICATION = """
import os, sys, threading
from dbqueue import DBQueue

app = DBQueue("told", broker=os.environ["TOLD_URL"])
print(sys.argv[1:], os.getcwd(), os.environ.get("HOME"), sorted(os.listdir("/proc/self/fd"))[:3], file=sys.stderr)
print(__name__, threading.active_count(), os.isatty(0), sys.stdout.encoding, sys.stdout.line_buffering)

"""


@pytest.mark.parametrize(
    ("arguments", "typed", "variables"),
    [
        (["-A", "told", "jobs", "list"], "", {"PYTHONUNBUFFERED": ""}),
        (["-A", "told", "jobs", "show", "nobody"], "", {"PYTHONUNBUFFERED": "1"}),
        (["-A", "told", "purge"], "n\n", {}),
        (["-A", "told", "purge"], "y\n", {}),
        (["-A", "told", "shell", "--plain"], "print(app, 1 / 0)\n", {}),
        (["-A", "untold", "worker"], "", {}),
        (["work"], "", {}),
        (["--version"], "", {}),
    ],
)
def test_a_launched_command_is_as_a_started_one(
    arguments: list[str], typed: str, variables: dict[str, str], tmp_path: Path, sqlite_url: str
) -> None:
    (tmp_path / "told.py").write_text(APPLICATION)
    environment = {**os.environ, "TOLD_URL": sqlite_url, "PYTHONPATH": str(CHECKOUT), "HOME": "/nowhere", **variables}
    launched = launcher.run(arguments, folder=tmp_path, environment=environment, typed=typed, timeout=TIMEOUT_SECONDS)
    command = [sys.executable, "-m", "dbqueue.cli", *arguments]
    started = subprocess.run(
        command, cwd=tmp_path, env=environment, input=typed, capture_output=True, text=True, check=False
    )
    assert launched.returncode == started.returncode
    assert launched.stdout == started.stdout
    assert launched.stderr == started.stderr


def test_one_that_does_not_end_is_ended(dbqueue_sqlite: Commands) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        launcher.run(
            ["-A", "cele", "beat"], folder=dbqueue_sqlite.folder, environment=dbqueue_sqlite.environment, timeout=1.0
        )


def test_one_that_is_killed_says_by_what(dbqueue_sqlite: Commands) -> None:
    (dbqueue_sqlite.folder / "killed.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    assert dbqueue_sqlite.run("-A", "killed", "jobs", "list").returncode == -9


def test_what_an_interpreter_reads_at_its_start_starts_one(dbqueue_sqlite: Commands) -> None:
    done = dbqueue_sqlite.run("jobs", "list", "--json", PYTHONVERBOSE="1")
    assert "import 'site'" in done.stderr
