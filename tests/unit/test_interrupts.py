"""The exception of a soft limit comes to the run that it is for, once, and to nothing else in its process."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from dbqueue.errors import SoftTimeLimitExceeded
from dbqueue.pools import interrupts
from dbqueue.pools.interrupts import Interruptible, Steps, on_this_thread

JOB = "job"


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    left = dict(interrupts._running), set(interrupts._due)
    interrupts._running.clear()
    interrupts._due.clear()
    assert left == ({}, set())


@pytest.fixture(autouse=True)
def nobody_listens() -> Iterator[None]:
    """To the signal of limits: an earlier test may have had a worker or a child in this process."""
    assert interrupts.SIGNAL is not None
    before = signal.signal(interrupts.SIGNAL, signal.SIG_DFL)
    yield
    signal.signal(interrupts.SIGNAL, before)


async def as_a_job(coroutine: Coroutine[Any, Any, Any]) -> int:
    """Run it to its end; how many cancellations are left on the task that did, which runs other jobs later."""
    task = asyncio.current_task()
    assert task is not None
    with Interruptible(JOB, task):
        await Steps(JOB, coroutine)
    return task.cancelling()


def test_whose_time_was_over_before_it_began_does_not_begin() -> None:
    interrupts.interrupt(JOB)
    with pytest.raises(SoftTimeLimitExceeded), Interruptible(JOB):
        pytest.fail("it has begun")


def test_what_came_too_late_is_not_for_the_next_run() -> None:
    with Interruptible(JOB):
        interrupts._due.add(JOB)
    with Interruptible(JOB):
        pass


def test_a_function_of_a_loop_s_thread_does_not_begin_when_its_time_is_over() -> None:
    with Interruptible(JOB):
        interrupts._due.add(JOB)
        with pytest.raises(SoftTimeLimitExceeded), on_this_thread(JOB):
            pytest.fail("it has begun")


def test_where_the_loop_waits_for_it_no_cancellation_is_left() -> None:
    async def waits(task: asyncio.Task[Any]) -> None:
        with Interruptible(JOB, task):
            interrupts.interrupt(JOB)
            await asyncio.sleep(60)

    async def main() -> int:
        task = asyncio.current_task()
        assert task is not None
        with pytest.raises(SoftTimeLimitExceeded):
            await waits(task)
        return task.cancelling()

    assert asyncio.run(main()) == 0


def test_a_coroutine_that_has_ended_meanwhile_takes_nobody_with_it() -> None:
    """Its slot still has to say so, or runs the next job."""

    async def ends() -> None:
        interrupts.interrupt(JOB)

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        with Interruptible(JOB, task):
            await Steps(JOB, ends())
            await asyncio.sleep(0.01)

    asyncio.run(main())


def test_what_was_taken_back_meanwhile_interrupts_nothing() -> None:
    async def goes_on() -> None:
        interrupts.interrupt(JOB)
        interrupts.forget(JOB)
        await asyncio.sleep(0.01)

    assert asyncio.run(as_a_job(goes_on())) == 0


def test_after_a_coroutine_its_slot_is_the_loop_s_again() -> None:
    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        with Interruptible(JOB, task):
            await Steps(JOB, asyncio.sleep(0))
            assert interrupts._running[JOB] is task

    asyncio.run(main())


@pytest.fixture
def listening(nobody_listens: None) -> int:
    """The signal of limits, on the main thread, where a child's own handler has it."""
    assert threading.current_thread() is threading.main_thread()
    assert interrupts.SIGNAL is not None
    interrupts.listen()
    return int(interrupts.SIGNAL)


def test_a_signal_hits_once(listening: int) -> None:
    with Interruptible(JOB):
        with pytest.raises(SoftTimeLimitExceeded):
            interrupts.interrupt(JOB)
        signal.raise_signal(listening)  # for another job, say, which has ended


def test_a_signal_that_finds_the_loop_at_its_own_work_is_for_the_job(listening: int) -> None:
    """Raised in the loop, it would end all that run there."""
    caught: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        except SoftTimeLimitExceeded:
            caught.append("in the job")

    async def main() -> None:
        job = asyncio.create_task(as_a_job(waits()))
        await asyncio.sleep(0)
        interrupts._due.add(JOB)
        signal.raise_signal(listening)
        assert await job == 0

    asyncio.run(main())
    assert caught == ["in the job"]
