"""Whether a child that answers nothing has a long job, or no processor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dbqueue.worker.silence import FROM_SECONDS, LONGEST_SECONDS, Silence, Threads, threads_of
from tests.waiting import wait_until

THEN = Threads(ran=1.0, stood_in_line=5.0, able=False)

tells = pytest.mark.skipif(threads_of(os.getppid()) is None, reason="the kernel does not count what a thread waits for")


@pytest.mark.parametrize(
    ("now", "own"),
    [
        pytest.param(Threads(1.0, 5.0, able=False), 0.1, id="it waits for something"),
        pytest.param(Threads(1.1, 5.0, able=True), 0.1, id="it computes"),
        pytest.param(Threads(1.0, 5.0, able=True), 0.0, id="it stands in line all the time"),
        pytest.param(Threads(1.02, 5.08, able=True), 0.02, id="it gets a turn now and then"),
        pytest.param(Threads(1.01, 5.06, able=False), 0.04, id="it stood in line, and waits"),
        pytest.param(Threads(1.3, 5.3, able=True), 0.0, id="several threads stand in line"),
    ],
)
def test_what_of_a_time_was_its_own(now: Threads, own: float) -> None:
    assert now.own_seconds(THEN, 0.1) == pytest.approx(own)


@contextmanager
def process(code: str) -> Iterator[int]:
    """It has begun with the code."""
    command = [sys.executable, "-c", f"import time; print('begun', flush=True)\n{code}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == b"begun\n"
        yield started.pid
        started.kill()


def watched(pid: int | None, seconds: float) -> tuple[Silence, float]:
    """A silence of which half has passed when it is looked at first; and when it began."""
    began_at = time.monotonic()
    silence = Silence(began_at)
    time.sleep(seconds / 2)
    silence.seconds(time.monotonic(), pid)
    time.sleep(seconds / 2)
    return silence, began_at


@tells
def test_a_child_that_sleeps_is_silent_all_the_time() -> None:
    with process("time.sleep(600)") as pid:
        wait_until(lambda: not (threads_of(pid) or THEN).able, what="its sleep")
        silence, began_at = watched(pid, 0.2)
        now = time.monotonic()
        assert silence.seconds(now, pid) >= FROM_SECONDS + 0.1
        assert silence.seconds(now, pid) <= now - began_at


@tells
def test_a_child_without_a_processor_is_not_called_silent() -> None:
    """Two share one processor, and one of them gets it only when the other leaves it."""
    with process("while True: pass") as hungry, process("while True: pass") as starved:
        processor = min(os.sched_getaffinity(0))
        for pid in (hungry, starved):
            os.sched_setaffinity(pid, {processor})
        os.sched_setscheduler(starved, os.SCHED_IDLE, os.sched_param(0))
        silence, began_at = watched(starved, LONGEST_SECONDS / 2)
        now = time.monotonic()
        if now - began_at <= LONGEST_SECONDS:  # else this program had no processor either
            assert silence.seconds(now, starved) < (now - began_at) / 2
        assert silence.seconds(began_at + 2 * LONGEST_SECONDS, starved) == pytest.approx(2 * LONGEST_SECONDS)


@pytest.mark.parametrize("pid", [None, os.getpid()], ids=["no process yet", "this process"])
def test_where_nobody_tells_all_silence_counts(pid: int | None) -> None:
    silence, began_at = watched(pid, 0.1)
    assert silence.seconds(began_at + 0.1, pid) == pytest.approx(0.1)


@tells
def test_an_answer_ends_a_silence() -> None:
    with process("time.sleep(600)") as pid:
        silence, _ = watched(pid, 0.1)
        silence.began_at = time.monotonic()
        assert silence.seconds(silence.began_at + FROM_SECONDS / 2, pid) == pytest.approx(FROM_SECONDS / 2)
        assert silence.seconds(silence.began_at + 2 * FROM_SECONDS, pid) == pytest.approx(FROM_SECONDS)
