"""Failpoints: what a variable may say, and what each action does to a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import dbqueue
from dbqueue import failpoints

PROGRAM = """
import socket, sys
from dbqueue import failpoints
from dbqueue.errors import OperationalError
ours, theirs = socket.socketpair()
for turn in range(3):
    try:
        failpoints.hit("claim.after", ours)
        failpoints.hit("run.after", when=False)
        print(turn, flush=True)
    except OperationalError as error:
        print(error, flush=True)
theirs.setblocking(False)
try:
    print("cut" if theirs.recv(1) == b"" else "data")
except BlockingIOError:
    print("open")
"""


def run(points: str | None, log: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(failpoints.VARIABLE)}
    if points is not None:
        environment[failpoints.VARIABLE] = points
    if log is not None:
        environment[failpoints.LOG_VARIABLE] = str(log)
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("points", [None, "", "claim.after=kill@7", "claim.after=raise%0", "run.after=kill"])
def test_what_does_not_happen(points: str | None) -> None:
    assert run(points).stdout.split() == ["0", "1", "2", "open"]


def test_kill_at_the_second_time(tmp_path: Path) -> None:
    found = run("claim.after=kill@2", tmp_path / "log")
    assert (found.returncode, found.stdout.split()) == (-signal.SIGKILL, ["0"])
    _, pid, name, action = (tmp_path / "log").read_text().split()
    assert (int(pid) > 1, name, action) == (True, "claim.after", "kill")


def test_raise(tmp_path: Path) -> None:
    found = run("claim.after=raise; run.after=kill", tmp_path / "log")
    assert found.stdout.count("the failpoint claim.after was set to raise") == 3
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_cut() -> None:
    assert run("claim.after=cut@3").stdout.split() == ["0", "1", "2", "cut"]


def test_cut_without_a_socket() -> None:
    """SQLite's connections have none, and a task's transaction hands its own on, of whatever kind it is."""
    program = (
        "import sqlite3; from dbqueue import failpoints; failpoints.hit('commit.before', sqlite3.connect(':memory:'))"
    )
    environment = os.environ | {failpoints.VARIABLE: "commit.before=cut"}
    command = [sys.executable, "-W", "ignore", "-c", program]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")


def test_pause(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    assert run(f"claim.after=pause:{tmp_path}/go").stdout.split() == ["0", "1", "2", "open"]


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("claim.later=kill", "no point 'claim.later'"),
        ("claim.after=burn", "'burn' is none of kill, stop, raise, cut, pause:PATH"),
        ("claim.after=pause", "pause:PATH"),
        ("claim.after=kill@x", "no number"),
        ("claim.after", "is none of"),
    ],
)
def test_what_cannot_be_read(points: str, says: str) -> None:
    found = run(points)
    assert found.returncode == 1
    assert says in found.stderr.splitlines()[-1]


def test_every_point_is_in_the_engine() -> None:
    """A name that nothing passes would let a test wait for ever; one that is not listed would say nothing."""
    found = set()
    for path in Path(dbqueue.__file__).parent.rglob("*.py"):
        if path.name != "failpoints.py":
            found |= set(re.findall(r'failpoints\.hit\(\s*"([a-z.]+)"', path.read_text()))
    assert found == set(failpoints.POINTS)


THREADED = """
import os, threading
from dbqueue import failpoints

def pass_the_point():
    while True:
        failpoints.hit("commit.before")
        os.write(1, b".")

threading.Thread(target=pass_the_point).start()
"""


def test_stop_holds_the_thread_that_came_to_the_point() -> None:
    """A signal to the process may stop another thread first, and this one would go past the point meanwhile."""
    environment = os.environ | {failpoints.VARIABLE: "commit.before=stop"}
    with subprocess.Popen([sys.executable, "-c", THREADED], env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        try:
            for passed in range(100):
                _, status = os.waitpid(process.pid, os.WUNTRACED)
                assert os.WIFSTOPPED(status)
                assert (process.stdout.read() or b"") == b"." * min(passed, 1)
                os.kill(process.pid, signal.SIGCONT)
        finally:
            process.kill()
