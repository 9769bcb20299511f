"""Examples as a person runs them: in their folder, with the real command, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import launcher
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class Example:
    """A copy of an example's folder, and the environment in which its programs run."""

    folder: Path
    environment: dict[str, str]

    def command(self, *arguments: str, code: int = 0, **variables: str) -> str:
        """Run `dbqueue` to its end; what it printed on both streams. The exit code must be `code`."""
        ended = launcher.run(
            arguments,
            folder=self.folder,
            environment=self.environment | variables,
            timeout=TIMEOUT_SECONDS,
            merged=True,
        )
        assert ended.returncode == code, f"dbqueue {arguments} ended with {ended.returncode}:\n{ended.stdout}"
        return ended.stdout

    def python(self, program: str, code: int = 0, **variables: str) -> str:
        """Run a program; what it printed."""
        return self._run([sys.executable, "-c", program], code, variables)

    def value(self, program: str, **variables: str) -> Any:
        """Run a program that prints JSON in its last line; its value."""
        return json.loads(self.python(program, 0, **variables).splitlines()[-1])

    def repl(self, *lines: str, **variables: str) -> list[str]:
        """Type lines into an interactive Python; the lines that it answers, without prompts."""
        answer = self._run([sys.executable, "-q", "-i"], 0, variables, text="\n".join(lines) + "\n")
        return [line for line in (each.lstrip("> .") for each in answer.splitlines()) if line]

    def _run(self, command: list[str], code: int, variables: dict[str, str], text: str | None = None) -> str:
        ended = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment | variables,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert ended.returncode == code, f"{command} ended with {ended.returncode}:\n{ended.stdout}"
        return ended.stdout

    @contextmanager
    def worker(self, app: str, *arguments: str, **variables: str) -> Iterator[RunningWorker]:
        """`dbqueue -A app worker ...`, ready; it must end with 0 when it is told to stop."""
        log = self.folder / "worker.log"
        command = [sys.executable, "-m", "dbqueue.cli", "-A", app, "worker", "--loglevel=info", *arguments]
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        worker = RunningWorker(process, log)
        try:
            worker.wait_for(" ready.")
            yield worker
            process.terminate()
            assert process.wait(TIMEOUT_SECONDS) == 0, worker.said
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@dataclass(frozen=True)
class RunningWorker:
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str) -> str:
        """Wait until the log holds the text; the log's line with it."""

        def line() -> str | None:
            assert self.process.poll() is None or text in self.said, f"the worker ended:\n{self.said}"
            return next((each for each in self.said.splitlines() if text in each), None)

        try:
            found = wait_until(line, what=f"{text!r} in the worker's log")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said}") from None
        assert found is not None
        return found


def example(name: str, tmp_path: Path, url: str, **variables: str) -> Example:
    """A copy of an example whose jobs go to the database at `url`, whatever URL its files name."""
    folder = tmp_path / name
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite3*"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DBQUEUE_")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    return Example(folder, environment | {"DBQUEUE_BROKER_URL": url} | variables)
