"""`dbqueue` without the start of an interpreter: forked from a process that has loaded it.

A command that is launched here is a process of its own, with its own arguments, environment, folder and streams, just
as `python -m dbqueue.cli ...` has them. What it saves is the imports, a third of a second of processor time, which the
tests would pay some thousand times. Workers, and what is about the start itself, start an interpreter.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

ROOT: Final = Path(__file__).resolve().parents[1]
MODULE: Final = "dbqueue.cli"
LOADED: Final = (
    "alembic.command",
    "dbqueue.app",
    "dbqueue.cli.run",
    "dbqueue.store.postgres.store",
    "dbqueue.store.sqlite.store",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
)
OF_THE_START: Final = ("PYTHON", "LC_", "LANG", "DBQUEUE_FAILPOINTS")
"""Variables that the interpreter or dbqueue reads once, when it starts."""
MESSAGE: Final = b"run"
FILES: Final = 5
ANSWER_BYTES: Final = 4


def run(
    arguments: Sequence[str],
    *,
    folder: Path,
    environment: Mapping[str, str],
    typed: str = "",
    timeout: float,
    merged: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run `dbqueue` with these arguments to its end; `merged`: what it writes to stderr is in its stdout.

    One whose environment is for the start of an interpreter gets one. Raises subprocess.TimeoutExpired, when the
    process has been ended.
    """
    if _of_the_start(environment) == _of_the_start(os.environ):
        return _server().run(arguments, folder, environment, typed, timeout, merged=merged)
    return subprocess.run(
        [sys.executable, "-m", MODULE, *arguments],
        cwd=folder,
        env=environment,
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merged else subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=False,
    )


def _of_the_start(environment: Mapping[str, str]) -> dict[str, str]:
    heeded = ("PYTHONPATH", "PYTHONUNBUFFERED")  # by `_become`
    return {name: value for name, value in environment.items() if name.startswith(OF_THE_START) and name not in heeded}


@functools.cache
def _server() -> Server:
    return Server()


class Server:
    """The process that has loaded dbqueue, as its parent sees it. It ends with its parent."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.launcher", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        typed: str,
        timeout: float,
        *,
        merged: bool,
    ) -> subprocess.CompletedProcess[str]:
        with contextlib.ExitStack() as stack:
            order = stack.enter_context(_file(json.dumps([list(arguments), str(folder), dict(environment)])))
            stdin, stdout = stack.enter_context(_file(typed)), stack.enter_context(_file(""))
            stderr = stdout if merged else stack.enter_context(_file(""))
            reads, writes = os.pipe()
            answers = stack.enter_context(open(reads, "rb", buffering=0))
            with open(writes, "wb") as answered:
                files = (order, stdin, stdout, stderr, answered)
                socket.send_fds(self._socket, [MESSAGE], [file.fileno() for file in files])
            with selectors.DefaultSelector() as selector:
                selector.register(answers, selectors.EVENT_READ)
                pid = _answer(answers)
                if not selector.select(timeout):
                    os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(["dbqueue", *arguments], timeout)
            code = _answer(answers)
            said = [_text(file) for file in (stdout, stderr)]
        return subprocess.CompletedProcess(["dbqueue", *arguments], code, said[0], None if merged else said[1])


def _answer(answers: IO[bytes]) -> int:
    answer = answers.read(ANSWER_BYTES)
    assert len(answer) == ANSWER_BYTES, "the process that has loaded dbqueue has ended"
    return int.from_bytes(answer, "big", signed=True)


def _file(text: str) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(text.encode())
    file.seek(0)
    return file


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return io.TextIOWrapper(io.BytesIO(file.read()), encoding="utf-8").read()


# The process that has loaded dbqueue.


def serve(asked: socket.socket) -> None:
    """Start a command for each message on this socket, until its other end is closed."""
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()  # the processes share these objects' pages for as long as none writes to them
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, files, _, _ = socket.recv_fds(asked, len(MESSAGE), FILES)
        if not message:
            return
        if os.fork() == 0:
            asked.close()
            _attend(*files)
            return
        for file in files:
            os.close(file)


def _attend(order: int, stdin: int, stdout: int, stderr: int, answers: int) -> None:
    """Start the command, and say its process id and its exit code. In the command's own process this returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if pid := os.fork():
        os.write(answers, pid.to_bytes(ANSWER_BYTES, "big", signed=True))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(answers, code.to_bytes(ANSWER_BYTES, "big", signed=True))
        os._exit(0)
    with open(order, "rb") as text:
        arguments, folder, environment = json.load(text)
    for number, file in enumerate((stdin, stdout, stderr)):
        os.dup2(file, number)
    for file in {stdin, stdout, stderr, answers}:
        os.close(file)
    _become(arguments, folder, environment)


def _become(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """What the interpreter does at its start with what it is given."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.path[:1] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.orig_argv = [sys.executable, "-m", MODULE, *arguments]
    sys.argv = ["dbqueue", *arguments]
    at_once = bool(environment.get("PYTHONUNBUFFERED"))
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, "rb", closefd=False)), encoding="utf-8")
    sys.stdout = _stream(1, "strict", at_once=at_once)
    sys.stderr = _stream(2, "backslashreplace", at_once=at_once, by_line=True)
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)


def _stream(number: int, errors: str, *, at_once: bool, by_line: bool = False) -> io.TextIOWrapper:
    raw = io.FileIO(number, "wb", closefd=False)
    file = raw if at_once else io.BufferedWriter(raw)
    return io.TextIOWrapper(file, "utf-8", errors, line_buffering=by_line, write_through=at_once)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
