"""`make demo`'s program: what it shows, and that nothing of it is left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


def start(tmp_path: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DBQUEUE_")}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "demo.py")],
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_in(folder: Path) -> list[str]:
    """Processes whose current folder is inside `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if str(entry.readlink()).startswith(str(folder)):
                found.append(entry.parent.name)
        except OSError:
            continue
    return found


def test_the_demo(tmp_path: Path) -> None:
    process = start(tmp_path)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    changes = re.findall(r"^ *[\d.]+ s  (\w+) +([A-Z]+)", said, re.MULTILINE)
    history = {task: [status for name, status in changes if name == task] for task, _ in changes}
    assert history == {
        "add": ["PENDING", "STARTED", "SUCCESS"],
        "write_report": ["PENDING", "STARTED", "SUCCESS"],
        "fetch_rate": ["PENDING", "STARTED", "RETRY", "STARTED", "SUCCESS"],
        "charge": ["PENDING", "STARTED", "FAILURE"],
        "remind": ["PENDING", "STARTED", "SUCCESS"],
    }
    assert re.search(r"^SUCCESS +4$", said, re.MULTILINE)
    assert "demo_tasks.CardDeclined: card 0002 does not cover 99 euros" in said
    assert "exit code 0" in said
    assert "\033" not in said, "colours go to a terminal only"
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


def test_a_worker_that_does_not_start_is_shown_with_its_log(tmp_path: Path) -> None:
    process = start(tmp_path, DBQUEUE_WORKER_POOL="nonsense")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "The demo failed: the worker ended with exit code" in said
    assert "nonsense" in said
    assert "Traceback" not in said.split("The worker's log:")[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc")
def test_a_demo_that_is_stopped_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path)
    assert process.stdout is not None
    with process, process.stdout:
        stop_when_it_works(process, process.stdout, tmp_path, number)
    wait_until(lambda: not processes_in(tmp_path), what="the end of the worker and its processes")
    assert list(tmp_path.iterdir()) == []


def stop_when_it_works(process: subprocess.Popen[str], said: IO[str], tmp_path: Path, number: signal.Signals) -> None:
    for line in said:
        if "STARTED" in line:
            break
    assert len(processes_in(tmp_path)) > 1
    process.send_signal(number)
    said.read()
    assert process.wait(60) == 128 + number
