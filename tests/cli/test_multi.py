"""Workers in the background: `worker --detach`, `beat --detach`, `multi`. Celery's guide "Daemonization"."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbqueue.cli.pidfile import lives
from tests.cli.commands import CHECKOUT, Commands
from tests.waiting import wait_until

HOST = socket.gethostname()


@pytest.fixture
def commands(dbqueue_sqlite: Commands) -> Iterator[Commands]:
    """What its pid files name is ended."""
    yield dbqueue_sqlite
    for path in dbqueue_sqlite.folder.rglob("*.pid"):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(path.read_text()), signal.SIGKILL)


def detached(commands: Commands, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command that leaves a process behind: its output is not waited for."""
    with (commands.folder / "said.txt").open("wb") as said:
        return subprocess.run(
            [sys.executable, "-m", "dbqueue.cli", *arguments],
            cwd=commands.folder, env=commands.environment, stdout=said, stderr=said, timeout=60, check=False,
        )  # fmt: skip


def pid_of(commands: Commands, name: str) -> int:
    return int((commands.folder / name).read_text())


def test_a_worker_in_the_background(commands: Commands) -> None:
    (commands.folder / "run").mkdir()
    options = ("--detach", "--pidfile=run/%n.pid", "--logfile=%n%I.log", "--umask=077", "-c1", "-n", "one@host")
    done = detached(commands, "-A", "cele", "worker", "-l", "info", *options)
    assert done.returncode == 0, (commands.folder / "said.txt").read_text()
    pid = pid_of(commands, "run/one.pid")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    session, terminal = int(fields[3]), int(fields[4])
    assert session != os.getsid(0)
    assert session != pid  # no leader: it gets no terminal again
    assert terminal == 0
    assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in (0, 1, 2)} == {os.devnull}
    job_id = commands.ok("call", "cele.add", "-a", "[1, 2]")
    assert commands.ok("result", job_id, "--timeout", "30") == "3"
    assert (commands.folder / "one.log").stat().st_mode & 0o777 == 0o600
    assert "adding 1" in (commands.folder / "one-1.log").read_text()
    second = detached(commands, "-A", "cele", "worker", *options)
    assert second.returncode == 1
    assert f"its process {pid} lives" in (commands.folder / "said.txt").read_text()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not lives(pid))
    assert not (commands.folder / "run/one.pid").exists()


def test_errors_before_it_is_ready_are_shown(commands: Commands) -> None:
    for arguments, code, text in (
        (["-A", "nonexist", "worker", "-D"], 2, "nonexist"),
        (["-A", "cele", "worker", "-D", "-X", "celery"], 1, "no queue is left"),
        (["-A", "cele", "worker", "-D", "--logfile=/nonexist/log"], 1, "log file cannot be opened"),
        (["-A", "cele", "worker", "-D", "--uid=nobody-of-this-name"], 1, "name not found"),
        (["-A", "cele", "worker", "-D", "--umask=999"], 2, "octal"),
    ):
        assert (detached(commands, *arguments).returncode, text) == (code, text)
        assert text in (commands.folder / "said.txt").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user can only be taken by root")
def test_another_user() -> None:
    script = (
        "import os\nfrom dbqueue.cli.detach import Daemon\n"
        "Daemon(None, False, 'nobody', None, None).enter()\nprint(os.getuid(), os.getgid())"
    )
    said = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True)

    nobody = pwd.getpwnam("nobody")
    assert said.stdout.split() == [str(nobody.pw_uid), str(nobody.pw_gid)]


def test_a_beat_in_the_background(commands: Commands) -> None:
    done = detached(commands, "-A", "cele", "beat", "-D", "--pidfile=beat.pid", "-f", "beat.log", "-l", "info")
    assert done.returncode == 0
    pid = pid_of(commands, "beat.pid")
    wait_until(lambda: "beat is ready." in (commands.folder / "beat.log").read_text())
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not lives(pid))
    assert not (commands.folder / "beat.pid").exists()


def test_workdir_of_the_worker(commands: Commands) -> None:
    folder = commands.folder / "elsewhere"
    folder.mkdir()
    (folder / "other.py").write_text((commands.folder / "cele.py").read_text())
    done = detached(commands, "-A", "other", "worker", "-D", f"--workdir={folder}", "--pidfile=w.pid", "-c1")
    assert done.returncode == 0, (commands.folder / "said.txt").read_text()
    assert lives(int((folder / "w.pid").read_text()))


def test_multi_starts_restarts_and_stops_nodes(commands: Commands) -> None:
    nodes = ("2", "-c", "1", "-l", "INFO", "-Q:2", "mail", "--pidfile=run/%n.pid", "--logfile=%n%I.log")
    said = detached(commands, "-A", "cele", "multi", "start", *nodes)
    text = (commands.folder / "said.txt").read_text()
    assert said.returncode == 0, text
    assert f"> Starting nodes...\n\t> celery1@{HOST}: OK\n\t> celery2@{HOST}: OK\n" in text
    status = {each["name"]: each["queues"] for each in commands.json("status")}
    assert status == {f"celery1@{HOST}": ["celery"], f"celery2@{HOST}": ["mail"]}
    first = pid_of(commands, "run/celery1.pid")
    said = detached(commands, "multi", "restart", *nodes, "-A", "cele")
    text = (commands.folder / "said.txt").read_text()
    assert f"\t> celery1@{HOST}: TERM -> {first}\n" in text
    assert f"> Restarting node celery2@{HOST}: OK\n" in text
    pids = [pid_of(commands, f"run/celery{number}.pid") for number in (1, 2)]
    assert first not in pids
    assert all(map(lives, pids))
    said = detached(commands, "multi", "stopwait", *nodes)
    assert said.returncode == 0
    assert not any(map(lives, pids))
    said = detached(commands, "multi", "--quiet", "stop", *nodes)
    assert (said.returncode, (commands.folder / "said.txt").read_text()) == (0, "")


def test_multi_kills(commands: Commands) -> None:
    assert detached(commands, "-A", "cele", "multi", "start", "w1", "-c1").returncode == 0
    pid = pid_of(commands, "w1.pid")
    said = commands.run("multi", "kill", "w1")
    assert f"Killing node w1@{HOST} ({pid}): OK" in said.stdout
    wait_until(lambda: not lives(pid))


def test_multi_tells_of_nodes_that_do_not_start(commands: Commands) -> None:
    said = detached(commands, "-A", "nonexist", "multi", "start", "w1")
    text = (commands.folder / "said.txt").read_text()
    assert (said.returncode, "FAILED" in text, "nonexist" in text) == (1, True, True)


def test_multi_names_and_options(commands: Commands) -> None:
    """The examples of the docstring of `celery.bin.multi`."""
    run = commands.here
    assert run("multi", "names", "3").stdout.split() == [f"celery{n}@{HOST}" for n in (1, 2, 3)]
    assert run("multi", "names", "a", "b@far", "--suffix=near").stdout.split() == ["a@near", "b@far"]
    assert run("multi", "expand", "/run/%n-%h.pid", "a@x", "b@y").stdout.split() == ["/run/a-x.pid", "/run/b-y.pid"]
    assert "no such option of `dbqueue worker`: -K" in run("multi", "show", "2", "-K:1", "x").stderr
    guide = ("10", "-l", "INFO", "-Q:1-3", "images,video", "-Q:4,5", "data", "-Q", "default", "-L:4,5", "DEBUG",
             "-c:celery9", "3")  # fmt: skip
    shown = run("multi", "show", *guide)
    lines = [line.partition(" worker ")[2] for line in shown.stdout.splitlines()]
    files = "--pidfile=%n.pid --logfile=%n%I.log"
    assert lines[0] == f"--detach -l INFO -Q default -Q images,video {files} -n celery1@{HOST}"
    assert lines[4] == f"--detach -l INFO -Q default -Q data -l DEBUG {files} -n celery5@{HOST}"
    assert lines[8] == f"--detach -l INFO -Q default -c 3 {files} -n celery9@{HOST}"
    assert "--database" in shown.stdout
    assert run("multi", "get", "celery9", *guide).stdout == shown.stdout.splitlines(keepends=True)[8]
    assert run("multi", "get", "celery11", *guide).returncode == 1
    assert "which nodes?" in run("multi", "start").stderr
    assert "there is no node '3'" in run("multi", "show", "2", "-c:3", "1").stderr
    assert "no command 'go'" in run("multi", "go", "2").stderr
    assert "stopwait" in run("multi").stdout


def test_a_cold_end_of_solo_leaves_no_pidfile(commands: Commands) -> None:
    job_id = commands.ok("call", "cele.wait_for", "-a", '["never"]')
    worker = commands.worker("-l", "info", "-P", "solo", "--pidfile=solo.pid")
    worker.says(f"Task cele.wait_for[{job_id}] received")
    assert worker.stop(signal.SIGQUIT) == 1
    assert not (commands.folder / "solo.pid").exists()
    assert commands.status(job_id) == "PENDING"
