"""The exception of a soft limit comes to the run that it is for, once, and to nothing else in its process."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
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


def test_a_run_that_was_hit_before_it_could_leave_is_not_taken_for_the_next() -> None:
    """Its thread runs another job by then."""
    Interruptible(JOB).__enter__()  # and the exception comes here, before the block
    interrupts.forget(JOB)
    interrupts.interrupt(JOB)  # of the next run, before it begins
    for _ in range(100):
        time.sleep(0)
    assert JOB in interrupts._due
    interrupts.forget(JOB)


@pytest.mark.parametrize("by_signal", [True, False])
def test_the_limit_of_a_job_is_not_spent_by_an_eager_call_in_it(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, *, by_signal: bool
) -> None:
    """Which ends on the same thread just as that is hit."""
    if by_signal:
        request.getfixturevalue("listening")
    times = iter([interrupts.interrupt])

    def spent() -> None:
        for hit in times:
            hit(JOB)

    monkeypatch.setattr(interrupts, "_spent", spent)
    raised_in_the_job = False
    with Interruptible(JOB):
        try:
            with Interruptible("eager"):
                pass
        except SoftTimeLimitExceeded:
            raised_in_the_job = True
    assert raised_in_the_job


def test_what_has_been_answered_for_is_not_put_back() -> None:
    """A function that runs on when its job was cancelled, and has come back to this process meanwhile."""
    other_run = 0
    with Interruptible(JOB):
        with on_this_thread(JOB):
            interrupts.forget(JOB)
            interrupts._running[JOB] = other_run
        assert interrupts._running[JOB] == other_run


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


class LookedUp(dict[str, Any]):
    """Which slot runs each job; before a look is answered, by what was there, something happens: first to last."""

    def __init__(self, *meanwhile: Callable[[], object], **slots: Any) -> None:
        super().__init__(slots)
        self._meanwhile = list(meanwhile)

    def get(self, key: str, default: Any = None) -> Any:
        found = super().get(key, default)
        if self._meanwhile:
            self._meanwhile.pop(0)()
        return found


class Asked(set[str]):
    """Whose time is over; when it is asked for the first time, that of the job is, just after it was looked for."""

    _asked = False

    def __contains__(self, job_id: object) -> bool:
        found = super().__contains__(job_id)
        if not self._asked:
            self._asked = True
            interrupts.interrupt(JOB)
        return found


def test_one_that_begins_while_its_slot_is_looked_for_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[bool] = []

    def begins() -> None:
        begun.append(True)
        with pytest.raises(SoftTimeLimitExceeded), Interruptible(JOB):
            pass

    monkeypatch.setattr(interrupts, "_running", LookedUp(begins))
    interrupts.interrupt(JOB)
    assert begun


def test_one_whose_time_is_over_as_it_begins_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_due", Asked())

    async def main() -> None:
        with pytest.raises(SoftTimeLimitExceeded), Interruptible(JOB, asyncio.current_task()):
            await asyncio.sleep(0.1)

    asyncio.run(main())


def test_so_is_a_function_of_a_loop_s_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with Interruptible(JOB, asyncio.current_task()):
            monkeypatch.setattr(interrupts, "_due", Asked())
            with pytest.raises(SoftTimeLimitExceeded), on_this_thread(JOB):
                pass

    asyncio.run(main())


def test_a_cancellation_that_stands_for_no_limit_is_one() -> None:
    async def main() -> None:
        with pytest.raises(asyncio.CancelledError), Interruptible(JOB, asyncio.current_task()):
            raise asyncio.CancelledError

    asyncio.run(main())


@pytest.mark.parametrize("stepped", [True, False], ids=["a coroutine", "what waits for a thread"])
def test_a_loop_that_sleeps_is_woken(*, stepped: bool) -> None:
    """By the reader's thread: without that it would hear of it with its next event, in an hour maybe."""

    async def waits() -> None:
        with Interruptible(JOB, asyncio.current_task()):
            await asyncio.sleep(60)

    async def main() -> None:
        job = asyncio.create_task(as_a_job(asyncio.sleep(60)) if stepped else waits())
        await asyncio.sleep(0)
        await asyncio.to_thread(interrupts.interrupt, JOB)
        with pytest.raises(SoftTimeLimitExceeded):
            await job

    # Not by `asyncio.run`: where the job is not woken it would wait at its end for this job, without end.
    loop = asyncio.new_event_loop()
    loop.set_debug(True)  # asyncio refuses what another thread may not do
    try:
        loop.run_until_complete(main())
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


class Leaving:
    """A thread that is told to leave its job, and where it is hit."""

    def __init__(self, block: Callable[[str], AbstractContextManager[None]]) -> None:
        self._block = block
        self.hit: list[str] = []
        self._begun, self._told, self._left, self._over = (queue.SimpleQueue[None]() for _ in range(4))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_until_begun(self) -> None:
        self._begun.get(timeout=60)

    def leave(self, seconds: float) -> None:
        """Let it, and wait for that at most so long."""
        self._told.put(None)
        with contextlib.suppress(queue.Empty):
            self._left.get(timeout=seconds)

    def end(self) -> None:
        self._over.put(None)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            with self._block(JOB):
                self._begun.put(None)
                self._told.get(timeout=60)
        except SoftTimeLimitExceeded:
            self.hit.append("in its job")
        try:
            self._left.put(None)
            self._over.get(timeout=60)
        except SoftTimeLimitExceeded:
            self.hit.append("after it")


@pytest.fixture(params=[Interruptible, on_this_thread])
def leaving(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Leaving]]:
    def begin(*meanwhile: Callable[[Leaving], None]) -> Leaving:
        """`meanwhile`: what happens at each look for the thread that runs the job."""
        threads: list[Leaving] = []
        looks = [lambda happens=happens: happens(threads[0]) for happens in meanwhile]
        monkeypatch.setattr(interrupts, "_running", LookedUp(*looks, **{JOB: 0}))
        threads.append(Leaving(request.param))
        threads[0].wait_until_begun()
        return threads[0]

    yield begin
    interrupts.forget(JOB)


def test_a_thread_that_has_left_its_job_is_not_hit(leaving: Callable[..., Leaving]) -> None:
    """It may run another one by now."""
    thread = leaving(lambda leaver: leaver.leave(60))
    interrupts.interrupt(JOB)
    thread.end()
    assert thread.hit == []


def test_no_thread_leaves_its_job_while_it_is_hit(leaving: Callable[..., Leaving]) -> None:
    """Outside of a job the exception would end its process, and all that runs there."""
    thread = leaving(lambda _: None, lambda leaver: leaver.leave(0.2))
    interrupts.interrupt(JOB)
    thread.end()
    assert "after it" not in thread.hit
