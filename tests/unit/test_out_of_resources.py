"""A job whose process has no file descriptor or no thread left for it: it has not begun, and so has not failed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import json
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from dbqueue.errors import OperationalError
from dbqueue.jobs import ClaimedJob, Failed, Released, Succeeded
from dbqueue.pools import aio, child, loop_threads, threads
from dbqueue.services.workers import Worker
from dbqueue.worker.running import executor as executors
from dbqueue.worker.running.executor import Executor
from tests.unit.test_executor import FIELDS
from tests.worker.sample import make_app


@pytest.fixture
def executor(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Executor]:
    monkeypatch.setattr(executors, "NOT_BEGUN_SECONDS", 0.0)
    app = make_app(f"sqlite:///{tmp_path / 'unused.db'}")
    app.conf.accept_content = ["json", "yaml"]
    executor = Worker(app, pool="solo").executor
    yield executor
    executor.close()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """What is open stays open, and nothing else can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """No thread can be started: its stack would be larger than the address space."""
    size = threading.stack_size(2**47)
    try:
        yield
    finally:
        threading.stack_size(size)


def job(name: str, *args: Any) -> ClaimedJob:
    return ClaimedJob(**(FIELDS | {"task": f"sample.{name}", "args": json.dumps(args)}))


@pytest.mark.parametrize("pool", [threads, aio])
def test_a_process_without_its_threads_is_not_ready(monkeypatch: pytest.MonkeyPatch, pool: ModuleType) -> None:
    """It ends, and another is tried: jobs that had been sent there would count as lost, and end so without a run."""
    start = threading.Thread.start

    readers: list[threading.Thread] = []

    def start_reader_alone(thread: threading.Thread) -> None:
        if thread.name != "reader":
            raise RuntimeError("can't start new thread")
        readers.append(thread)
        start(thread)

    def end() -> None:
        raise RuntimeError("the process ends")

    monkeypatch.setattr(threading.Thread, "start", start_reader_alone)
    monkeypatch.setattr(pool, "end_by_error", end, raising=False)
    for name in ("die_with_parent", "_end_orphan", "end_by_error"):
        monkeypatch.setattr(child, name, lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with pytest.raises(RuntimeError):
            child.run_child(theirs, 2, SimpleNamespace(), pool.run_slots)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
        ours.close()
        readers[0].join()  # it ends this process, where its end is not the test's own any more
    if pool is aio:  # what the process's end would have closed
        asyncio.get_event_loop().close()
        asyncio.set_event_loop(None)


def test_a_coroutine_without_an_event_loop_goes_back(executor: Executor, caplog: pytest.LogCaptureFixture) -> None:
    """And its process is replaced: its tasks may have left files open."""
    asked: list[str] = []
    executor.retire = asked.append
    with no_descriptors():
        outcome = executor.run(job("aadd", 1, 2))
        assert isinstance(executor.run(job("add", 1, 2)), Succeeded), "a function needs none"
    assert outcome == Released("j", "l", "2020-01-01 00:00:00.000")
    assert asked == ["has no file descriptor left"]
    assert "Too many open files; it has not begun, and is tried again" in caplog.text
    assert isinstance(executor.run(job("aadd", 1, 2)), Succeeded)


def test_what_else_a_job_lacks_is_no_reason_to_replace_its_process(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another would have no more of it."""
    asked: list[str] = []

    def fail() -> None:
        raise OperationalError("the disk is full")

    executor.retire = asked.append
    monkeypatch.setattr(executor.loop, "have", fail)
    assert isinstance(executor.run(job("aadd", 1, 2)), Released)
    assert not asked


def test_a_row_that_cannot_be_read_without_a_descriptor_goes_back(
    executor: Executor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What reads YAML is imported with the first row of it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "yaml"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    row = job("add")._replace(content_type="application/x-yaml", content=b"[[1, 2], {}]")
    with no_descriptors():
        outcome = executor.run(row)
    assert isinstance(outcome, Released), outcome
    assert "it has not begun, and is tried again" in caplog.text
    assert isinstance(executor.run(row), Succeeded)


@pytest.mark.parametrize("threads", [0, 1])
def test_a_function_beside_an_event_loop_waits_for_a_thread(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """For one that is there and busy, or until the system gives one."""
    monkeypatch.setattr(loop_threads, "ASK_SECONDS", 0.01)

    async def main() -> Any:
        loop, free = asyncio.get_running_loop(), threading.Event()
        its_threads = loop_threads.threads_of(loop, 2)
        for _ in range(threads):
            its_threads.do(free.wait)
        with no_threads():
            run = loop.create_task(executor.run_async(job("add", 1, 2)))
            done, _ = await asyncio.wait({run}, timeout=0.1)
            assert not done
            if threads:
                free.set()
                await asyncio.wait_for(run, 60)
        return await asyncio.wait_for(run, 60)

    assert isinstance(asyncio.run(main()), Succeeded)


@pytest.mark.parametrize("lacks", ["to wake the loop", "to call it"])
def test_a_function_beside_an_event_loop_is_answered_for_without_memory(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    """Its thread has no memory: the loop looks up by itself, and the job does not stay STARTED."""
    monkeypatch.setattr(loop_threads, "ASK_SECONDS", 0.01)

    def lack(*_: object, **__: object) -> None:
        raise MemoryError

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        if lacks == "to call it":
            monkeypatch.setattr(executors, "invoked", lack)
        else:
            monkeypatch.setattr(loop, "call_soon_threadsafe", lack)
        try:
            return await asyncio.wait_for(executor.run_async(job("add", 1, 2)), 60)
        finally:
            monkeypatch.undo()  # the loop's end needs it

    outcome = asyncio.run(main())
    if lacks == "to call it":
        assert isinstance(outcome, Failed), outcome
        assert "MemoryError" in outcome.error
    else:
        assert isinstance(outcome, Succeeded), outcome


def test_an_event_loop_that_was_had_is_there(executor: Executor) -> None:
    """Between that and the task's start others may take what descriptors are left."""
    executor.loop.have()
    with no_descriptors():
        assert isinstance(executor.run(job("aadd", 1, 2)), Succeeded)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_cannot_begin_goes_back_after_a_pause(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It is there to be claimed at once: without one its worker would do nothing but take it and give it back."""
    pauses: list[float] = []

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(executors, "NOT_BEGUN_SECONDS", 7.0)
    monkeypatch.setattr("dbqueue.codec.payloads.read_call", refuse)
    if kind == "sync":
        monkeypatch.setattr(executors, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
        outcome = executor.run(job("add", 1, 2))
    else:  # not by stopping the thread, on which others run
        monkeypatch.setattr(executors, "asyncio", SimpleNamespace(sleep=pause))
        outcome = asyncio.run(executor.run_async(job("add", 1, 2)))
    assert outcome == Released("j", "l", "2020-01-01 00:00:00.000")
    assert pauses == [7.0]
