"""Whatever reads a worker's log through a pipe may stop reading: the worker goes on, and says what it has dropped."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.errors import SoftTimeLimitExceeded
from dbqueue.utils import log
from dbqueue.utils.log import PipeHandler
from tests.cli.commands import TIMEOUT_SECONDS, Commands

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pipe cannot be opened a second time")

SMALLEST_PIPE = 4096


def small_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    return reader, writer


@pytest.fixture(params=["pipe", "socket"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[int, Any]]:
    """Who reads, as a descriptor, and a stream to it."""
    if request.param == "pipe":
        reader, writer = small_pipe()
    else:
        reader, writer = (end.detach() for end in socket.socketpair())
    with os.fdopen(writer, "w") as stream:
        yield reader, stream
    os.close(reader)


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("here", logging.INFO, __file__, 1, text, None, None)


def read_all(reader: int) -> str:
    os.set_blocking(reader, False)
    parts = []
    try:
        while part := os.read(reader, 65536):
            parts.append(part)
    except BlockingIOError:
        pass
    return b"".join(parts).decode()


def test_lines_that_nobody_reads_are_dropped_and_counted(
    ends: tuple[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "READER_SECONDS", 0.0)
    reader, stream = ends
    handler = PipeHandler.of(stream)
    assert handler is not None
    with closing(handler):
        texts = [f"{number} " + "x" * 1000 for number in range(1000)]
        for text in texts:
            handler.emit(record(text))
        first = read_all(reader).splitlines()
        handler.emit(record("read again"))
        then = read_all(reader).splitlines()
    whole = [line for line in first if line in texts]
    assert whole == texts[: len(whole)]
    assert whole
    assert len(first) - len(whole) <= 1, "a part of the last line, at most"
    dropped = f"({len(texts) - len(whole)} lines were dropped: nobody read the log)"
    assert [line for line in then if line] == [dropped, "read again"]
    assert os.get_blocking(stream.fileno()), "those who share the stream are not told so"


def test_a_slow_reader_loses_nothing(ends: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "READER_SECONDS", TIMEOUT_SECONDS)  # it has to be started first
    reader, stream = ends
    handler = PipeHandler.of(stream)
    assert handler is not None
    with closing(handler), subprocess.Popen(["cat"], stdin=reader, stdout=subprocess.PIPE, text=True) as cat:
        assert cat.stdout is not None
        texts = [f"{number} " + "x" * 10_000 for number in range(20)]
        for text in texts:
            handler.emit(record(text))
            assert cat.stdout.readline() == text + "\n"
        handler.close()
        stream.close()


def test_a_line_that_comes_too_late_is_no_error(ends: tuple[int, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """Of a daemon's thread, at the end of the process."""
    handler = PipeHandler.of(ends[1])
    assert handler is not None
    handler.close()
    handler.close()
    handler.handle(record("late"))
    assert (read_all(ends[0]), capsys.readouterr().err) == ("", "")


def test_an_applications_time_limit_for_sockets_is_not_that_of_its_log(
    ends: tuple[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "READER_SECONDS", 0.0)
    reader, stream = ends
    socket.setdefaulttimeout(TIMEOUT_SECONDS)
    try:
        handler = PipeHandler.of(stream)
        assert handler is not None
        with closing(handler):
            for _ in range(1000):
                handler.emit(record("x" * 1000))
            read_all(reader)
            handler.emit(record("read again"))
            assert "lines were dropped" in read_all(reader)
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(stream.fileno())


def test_a_tasks_time_limit_is_its_own_while_its_line_waits(
    ends: tuple[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = PipeHandler.of(ends[1])
    assert handler is not None

    def passes(data: bytes) -> bytes:
        raise SoftTimeLimitExceeded(1)

    monkeypatch.setattr(handler, "offer", passes)
    with closing(handler), pytest.raises(SoftTimeLimitExceeded):
        handler.emit(record("a line"))


def test_a_file_is_written_as_ever(tmp_path: Any) -> None:
    with (tmp_path / "log").open("w") as stream:
        assert PipeHandler.of(stream) is None


def test_a_worker_goes_on_when_nobody_reads_its_log(dbqueue_sqlite: Commands) -> None:
    reader, writer = small_pipe()
    command = [sys.executable, "-m", "dbqueue.cli", "-A", "cele", "worker", "-c", "1", "-l", "debug"]
    with subprocess.Popen(
        command,
        cwd=dbqueue_sqlite.folder,
        env=dbqueue_sqlite.environment,
        stdout=subprocess.DEVNULL,
        stderr=writer,
    ) as worker:
        os.close(writer)
        try:
            app = DBQueue("cele", broker=dbqueue_sqlite.url)
            results = [app.send_task("cele.add", (number, 1)) for number in range(50)]
            assert [result.get(timeout=TIMEOUT_SECONDS) for result in results] == list(range(1, 51))
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(TIMEOUT_SECONDS) == 0
        finally:
            worker.kill()
            os.close(reader)


@pytest.fixture(params=["full disk", "no reader", "idle reader"])
def deaf(request: pytest.FixtureRequest) -> Iterator[int]:
    """A descriptor that takes nothing."""
    if request.param == "full disk":
        reader, writer = os.open(os.devnull, os.O_RDONLY), os.open("/dev/full", os.O_WRONLY)
    else:
        reader, writer = small_pipe()
        os.write(writer, b"x" * SMALLEST_PIPE)
    if request.param == "no reader":
        os.close(reader)
    yield writer
    os.close(writer)
    if request.param != "no reader":
        os.close(reader)


@pytest.mark.parametrize("service", ["worker", "beat"])
def test_a_service_starts_whose_banner_nobody_takes(deaf: int, service: str, dbqueue_sqlite: Commands) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "dbqueue.cli", "-A", "cele", service, "-l", "info"],
        cwd=dbqueue_sqlite.folder,
        env=dbqueue_sqlite.environment,
        stdout=deaf,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stderr is not None
        try:
            assert any(b"ready" in line for line in process.stderr)
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
            assert (process.wait(TIMEOUT_SECONDS), b"Traceback" in said) == (0, False)
        finally:
            process.kill()
