"""The threads beside an event loop: so many at most, started as they are needed, and none is waited for in vain."""

from __future__ import annotations

import _thread
import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from dbqueue.pools import aio, loop_threads
from dbqueue.pools.loop_threads import Threads, in_thread, threads_of
from tests.waiting import wait_until


class Gate:
    """Calls that wait here until it is opened."""

    def __init__(self) -> None:
        self.inside: list[int] = []
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.inside.append(threading.get_ident())
        self.opened.wait(60)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


@pytest.fixture
def unborn(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the next so many threads be started, and never begin: for want of memory, say."""
    start = _thread.start_new_thread
    left = [0]

    def start_maybe(*arguments: Any) -> int:
        if left[0]:
            left[0] -= 1
            return 0
        return start(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", start_maybe)
    return lambda number: left.__setitem__(0, number)


def test_each_call_has_a_thread_up_to_the_most_there_are(gate: Gate) -> None:
    threads = Threads(3)
    for _ in range(4):
        threads.do(gate)
    wait_until(lambda: len(gate.inside) == 3)
    assert len(set(gate.inside)) == 3
    gate.opened.set()
    wait_until(lambda: len(gate.inside) == 4)
    threads.end()
    assert len(set(gate.inside)) == 3


def test_an_idle_thread_is_taken_before_another_is_started() -> None:
    threads, seen = Threads(8), list[str]()
    for number in range(1, 11):
        threads.do(lambda: seen.append(threading.current_thread().name))
        wait_until(lambda number=number: len(seen) == number)  # type: ignore[misc]
        wait_until(lambda: threads._free == 1)
    threads.end()
    assert set(seen) == {"slot_1"}


def test_a_thread_that_never_begins(unborn: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is for the next one, which is asked for after a while; and so is each call after it."""
    monkeypatch.setattr(loop_threads, "ASK_SECONDS", 0.01)
    unborn(2)

    async def main() -> list[int]:
        threads_of(asyncio.get_running_loop(), 2)
        return [await asyncio.wait_for(in_thread(partial(int, number)), 60) for number in range(3)]

    assert asyncio.run(main()) == [0, 1, 2]


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Threads that are started begin with a call of this."""
    runs: list[Callable[[], object]] = []
    start = _thread.start_new_thread

    def start_later(run: Callable[[], object], arguments: tuple[()]) -> int:
        runs.append(run)
        return 0

    def begin() -> None:
        for run in runs:
            start(run, ())

    monkeypatch.setattr(_thread, "start_new_thread", start_later)
    return begin


def test_one_that_begins_late_is_one_of_them_all_the_same(
    gate: Gate, late: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not one more than there may be."""
    monkeypatch.setattr(loop_threads, "ASK_SECONDS", 0.0)
    threads = Threads(1)
    threads.do(gate)
    threads.ask_again()
    threads.do(gate)
    late()
    wait_until(lambda: len(gate.inside) == 1)
    gate.opened.set()
    wait_until(lambda: len(gate.inside) == 2)
    threads.end()
    assert len(set(gate.inside)) == 1


def test_one_that_begins_when_all_is_over_has_nothing_to_do(gate: Gate, late: Callable[[], None]) -> None:
    threads = Threads(1)
    threads.do(gate)
    threads.end()
    late()
    wait_until(lambda: threads._starting == 0)
    wait_until(lambda: threads._running == 0)
    assert gate.inside == []


def test_after_a_shortage_all_that_wait_have_a_thread_at_once(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    start = _thread.start_new_thread

    def refuse(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    monkeypatch.setattr(loop_threads, "ASK_SECONDS", 0.0)
    threads = Threads(8)
    for _ in range(5):
        threads.do(gate)
    threads.ask_again()
    monkeypatch.setattr(_thread, "start_new_thread", start)
    threads.ask_again()
    wait_until(lambda: len(gate.inside) == 5)
    gate.opened.set()
    threads.end()
    assert len(set(gate.inside)) == 5


def test_what_waits_is_asked_for_again_and_called_once(monkeypatch: pytest.MonkeyPatch, gate: Gate) -> None:
    """However long all threads are busy."""
    monkeypatch.setattr(loop_threads, "ASK_SECONDS", 0.001)
    calls: list[int] = []
    asked: list[int] = []

    async def main() -> int:
        often = asyncio.get_running_loop().create_future()

        def ask(_: Threads) -> None:
            asked.append(1)
            if len(asked) == 5:
                often.set_result(None)

        monkeypatch.setattr(Threads, "ask_again", ask)
        threads = threads_of(asyncio.get_running_loop(), 2)
        threads.do(gate)
        threads.do(gate)
        waits = asyncio.create_task(in_thread(lambda: calls.append(1)))
        await often
        waiting = threads._calls.qsize()
        gate.opened.set()
        await asyncio.wait_for(waits, 60)
        threads.end()
        return waiting

    assert asyncio.run(main()) == 1
    assert calls == [1]


def test_a_call_that_its_thread_has_no_memory_for_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_threads, "ASK_SECONDS", 0.01)
    threads, tries = Threads(1), list[int]()

    def lacks() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise MemoryError

    threads.do(lacks)
    wait_until(lambda: len(tries) == 3)
    threads.do(lambda: tries.append(2))
    wait_until(lambda: tries == [1, 1, 1, 2])
    threads.end()


def test_a_debugger_sees_what_runs_there() -> None:
    threads, seen = Threads(1), list[object]()

    def trace(*_: object) -> None: ...

    before = threading.gettrace()
    threading.settrace(trace)
    try:
        threads.do(lambda: seen.append(sys.gettrace()))
        wait_until(lambda: seen == [trace])
    finally:
        threading.settrace(before)
    threads.end()


class Link:
    """Of a child that is sent these jobs, and told to stop then."""

    def __init__(self, *jobs: Any) -> None:
        self._jobs = list(jobs)
        self.stopped, self.reported = threading.Event(), threading.Event()
        self.inbox = self

    def take(self) -> Any:
        if self._jobs:
            return self._jobs.pop()
        self.stopped.set()
        return None

    def is_ready(self) -> None: ...
    def begins(self, job: Any) -> None: ...

    def report(self, outcome: Any) -> None:
        self.reported.set()


def test_what_a_task_has_left_in_a_thread_has_its_loop_until_it_ends() -> None:
    """It may wait for the loop, and the process would not end."""
    link, done = Link("a job"), list[str]()

    async def ask() -> str:
        return "answered"

    class Execute:
        async def run_async(self, _: Any) -> None:
            loop = asyncio.get_running_loop()

            def left() -> None:
                link.stopped.wait(60)
                done.append(asyncio.run_coroutine_threadsafe(ask(), loop).result(60))

            self.task = loop.create_task(asyncio.to_thread(left))
            await asyncio.sleep(0)

    aio.run_slots(link, Execute(), 2)  # type: ignore[arg-type]
    assert done == ["answered"]


def test_a_loop_ends_without_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's way to end starts one, which may never begin: the process would not end."""

    class WithoutThreads(Link):
        def take(self) -> Any:
            job = super().take()
            if job is None:
                assert self.reported.wait(60)
                monkeypatch.setattr(threading.Thread, "start", lambda _: pytest.fail("another thread"))
                monkeypatch.setattr(_thread, "start_new_thread", lambda *_: pytest.fail("another thread"))
            return job

    class Execute:
        async def run_async(self, _: Any) -> None:
            await asyncio.to_thread(int)

    aio.run_slots(WithoutThreads("a job"), Execute(), 2)  # type: ignore[arg-type]
