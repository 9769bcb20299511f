"""Runs the examples of one page in the current folder: `python -m tests.docs.run_page PAGE URL`.

A program of its own, because a page's applications, settings and workers are not the tests'.
"""

from __future__ import annotations

import ast
import asyncio
import doctest
import inspect
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.docs.pages import Block, blocks
from tests.servers import libpq_url
from tests.waiting import wait_until

READY = " ready."
COMMAND_SECONDS = 60
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_URL = re.compile(r"postgresql(\+\w+)?://localhost/shop\b")


class PageFailed(Exception):
    """A block did not do what the page says."""


class Page:
    """The state that the blocks of a page share."""

    def __init__(self, path: Path, url: str) -> None:
        self.path, self.url = path, url
        self.dialect = "sqlite" if url.startswith("sqlite") else "postgresql"
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.loop = asyncio.Runner()
        self.background: list[tuple[subprocess.Popen[bytes], Path]] = []

    def run(self) -> int:
        """Run all blocks; the number of those that failed (the first one ends the page)."""
        try:
            for block in blocks(self.path):
                if block.runs_on(self.dialect):
                    self.run_block(block)
            self.stop_background()
        except Exception:  # noqa: BLE001 - a page's example may raise anything
            traceback.print_exc()
            self.print_logs()
            return 1
        finally:
            for process, _ in self.background:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            self.loop.close()
        return 0

    def run_block(self, block: Block) -> None:
        print(f"-- {self.path.name}:{block.line} ({block.language})", flush=True)  # noqa: T201 - the test shows it
        text = self.with_url(block.text)
        if "file" in block.marks:
            path = Path(block.marks["file"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        if "log" in block.marks:
            self.check_log(block, text)
            return
        run = {"python": self.python, "pycon": self.pycon, "sql": self.sql, "console": self.console}[block.language]
        expected = block.marks.get("raises")
        try:
            run(block, text)
        except Exception as error:
            if expected is None or type(error).__name__ != expected:
                raise
        else:
            if expected is not None:
                raise PageFailed(f"{self.path.name}:{block.line} should raise {expected}")

    def with_url(self, text: str) -> str:
        return _URL.sub(lambda match: self.driver_url(match[1]), text)

    def driver_url(self, driver: str | None) -> str:
        if self.dialect == "sqlite":
            return self.url.replace("sqlite://", f"sqlite+{driver[1:]}://") if driver == "+aiosqlite" else self.url
        return libpq_url(self.url).replace("postgresql://", f"postgresql{driver or ''}://")

    # each language

    def python(self, block: Block, text: str) -> None:
        # As many lines before it as the page has: a traceback then names the page's own line.
        code = compile(
            "\n" * (block.line - 1) + text, str(self.path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
        )
        outcome = eval(code, self.names)
        if inspect.iscoroutine(outcome):
            self.loop.run(outcome)

    def pycon(self, block: Block, text: str) -> None:
        test = doctest.DocTestParser().get_doctest(text, {}, self.path.name, str(self.path), block.line - 1)
        test.globs = self.names
        runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
        said: list[str] = []
        if runner.run(test, out=said.append, clear_globs=False).failed:
            raise PageFailed("".join(said))

    def sql(self, block: Block, text: str) -> None:
        statements = [each.strip() for each in re.sub(r"--[^\n]*", "", text).split(";") if each.strip()]
        if self.dialect == "sqlite":
            connection: Any = sqlite3.connect(self.url.removeprefix("sqlite:///"))
        else:
            import psycopg

            connection = psycopg.connect(libpq_url(self.url))
        try:
            for statement in statements:
                try:
                    cursor = connection.execute(statement)
                    names = [column[0] for column in cursor.description or ()]
                    rows = cursor.fetchall() if names else []
                    self.names["rows"] = [dict(zip(names, row, strict=True)) for row in rows]
                except Exception as error:
                    raise PageFailed(f"{self.path.name}:{block.line}: {error}\n{statement}") from error
            connection.commit()
        finally:
            connection.close()

    def console(self, block: Block, text: str) -> None:
        commands = re.split(r"^\$ ", text, flags=re.MULTILINE)
        if commands[0].strip():
            raise PageFailed(f"{self.path.name}:{block.line}: output before the first command")
        for each in commands[1:]:
            command, _, expected = each.partition("\n")
            while command.endswith("\\"):
                more, _, expected = expected.partition("\n")
                command = command[:-1] + more.lstrip("> ")
            command = command.partition("  #")[0].rstrip()
            if "background" in block.marks:
                self.start(command, expected)
            else:
                self.type(block, command, expected)

    def type(self, block: Block, command: str, expected: str) -> None:
        ended = subprocess.run(
            ["bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if ended.returncode != int(block.marks.get("returns", 0)):
            raise PageFailed(f"$ {command}\nended with {ended.returncode}:\n{ended.stdout}")
        if expected.strip() and not doctest.OutputChecker().check_output(expected, ended.stdout, FLAGS):
            raise PageFailed(f"$ {command}\nshould print\n{expected}\nbut printed\n{ended.stdout}")

    def start(self, command: str, expected: str) -> None:
        log = Path(f"background-{len(self.background)}.log").resolve()
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.background.append((process, log))
        wait_until(lambda: READY in log.read_text() or process.poll() is not None, what=f"{command} to be ready")
        if process.poll() is not None:
            raise PageFailed(f"$ {command}\nended with {process.returncode}")
        said = log.read_text()
        if expected.strip() and not doctest.OutputChecker().check_output(expected, said, FLAGS):
            raise PageFailed(f"$ {command}\nshould print\n{expected}\nbut printed\n{said}")

    def check_log(self, block: Block, text: str) -> None:
        log = self.background[-1][1]
        missing = text.splitlines()

        def complete() -> bool:
            said = log.read_text().splitlines()
            check = doctest.OutputChecker().check_output
            missing[:] = [line for line in missing if not any(check(line, each, FLAGS) for each in said)]
            return not missing

        wait_until(complete, what=f"{self.path.name}:{block.line} in the worker's log")

    def stop_background(self) -> None:
        for process, log in self.background:
            process.terminate()
            if process.wait(COMMAND_SECONDS) != 0:
                raise PageFailed(f"a background command ended with {process.returncode}:\n{log.read_text()}")

    def print_logs(self) -> None:
        for _, log in self.background:
            print(f"-- {log.name}\n{log.read_text(errors='replace')}")  # noqa: T201


if __name__ == "__main__":
    began = time.monotonic()
    code = Page(Path(sys.argv[1]), sys.argv[2]).run()
    print(f"-- {'failed' if code else 'passed'} in {time.monotonic() - began:.1f} s")  # noqa: T201
    sys.exit(code)
