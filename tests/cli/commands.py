"""The command as people run it: a process of its own, in a folder with an application."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from dbqueue.cli.run import run
from tests import launcher
from tests.waiting import wait_until

CHECKOUT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 60

APPLICATION = """
import os
import time

from dbqueue import DBQueue
from dbqueue.utils.log import get_task_logger

logger = get_task_logger(__name__)
app = DBQueue("cele", broker=os.environ["CELE_URL"])


@app.task
def add(x, y):
    logger.info("adding %s", x)
    return x + y


@app.task
def fail():
    raise ValueError("bad")


@app.task
def pid():
    return os.getpid()


@app.task
def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)
"""


class Worker:
    """A running `dbqueue worker`; its output goes to a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log

    @property
    def output(self) -> str:
        return self._log.read_text()

    def says(self, text: str) -> None:
        """Wait until it has printed or logged the text."""
        wait_until(lambda: text in self.output or self._ended(text), TIMEOUT_SECONDS, f"{text!r} in the output")

    def _ended(self, text: str) -> bool:
        code = self.process.poll()
        assert code is None or text in self.output, (
            f"the worker ended with {code} and never said {text!r}:\n{self.output}"
        )
        return False

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send the signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_SECONDS)


class Commands:
    """Runs `dbqueue` in a folder that holds the application `cele`, on the database `url`."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        (folder / "cele.py").write_text(APPLICATION)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("DBQUEUE_", "NO_COLOR"))},
            "CELE_URL": url,
            "PYTHONPATH": str(CHECKOUT),
        }
        self.workers: list[Worker] = []

    def run(self, *arguments: str, typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return launcher.run(
            arguments,
            folder=self.folder,
            environment=self.environment | environment,
            typed=typed,
            timeout=TIMEOUT_SECONDS,
        )

    def here(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run with `--database` in this process: a tenth of the time."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(argv=["--database", self.url, *arguments])
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def status(self, job_id: str) -> str:
        """A job's status."""
        status: str = json.loads(self.here("jobs", "show", job_id, "--json").stdout)["status"]
        return status

    def ok(self, *arguments: str, typed: str = "") -> str:
        """Run with `-A cele`, and return what it printed."""
        done = self.run("-A", "cele", *arguments, typed=typed)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run with `-A cele` and `--json`, and return what it printed."""
        done = self.run("-A", "cele", *arguments, "--json")
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def worker(self, *arguments: str) -> Worker:
        """Start `dbqueue -A cele worker` with these arguments."""
        return self.background("worker", "-c", "1", *arguments)

    def background(self, *arguments: str) -> Worker:
        """Start `dbqueue -A cele` with these arguments, and go on."""
        log = self.folder / f"worker-{len(self.workers)}.txt"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "dbqueue.cli", "-A", "cele", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        worker = Worker(process, log)
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait(TIMEOUT_SECONDS)
