"""Whether a child that answers nothing has a long job, or no processor."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbqueue.worker.supervising import silence as module
from dbqueue.worker.supervising.silence import (
    FROM_SECONDS,
    LONGEST_SECONDS,
    MOST_THREADS,
    Silence,
    Thread,
    Threads,
    own_seconds,
    threads_of,
)
from tests.waiting import wait_until

THEN = {"1": Thread(ran=1.0, stood_in_line=5.0, able=False)}

tells = pytest.mark.skipif(threads_of(os.getppid()) is None, reason="the kernel does not count what a thread waits for")


def main_thread(ran: float, stood_in_line: float, *, able: bool) -> Threads:
    """After `THEN`, by so much."""
    return {"1": Thread(1.0 + ran, 5.0 + stood_in_line, able)}


@pytest.mark.parametrize(
    ("now", "own"),
    [
        pytest.param(main_thread(0.0, 0.0, able=False), 0.1, id="it waits for something"),
        pytest.param(main_thread(0.1, 0.0, able=True), 0.1, id="it computes"),
        pytest.param(main_thread(0.0, 0.0, able=True), 0.0, id="it stands in line all the time"),
        pytest.param(main_thread(0.02, 0.08, able=True), 0.02, id="it gets a turn now and then"),
        pytest.param(main_thread(0.01, 0.06, able=False), 0.04, id="it stood in line, and waits"),
        pytest.param(
            main_thread(0.06, 0.04, able=True) | {"2": Thread(0.06, 0.04, able=True)},
            0.1,
            id="it computes in more threads than there are processors",
        ),
        pytest.param(
            main_thread(0.0, 0.1, able=True) | {"2": Thread(0.01, 0.05, able=True)}, 0.01, id="all stand in line"
        ),
        pytest.param({"2": Thread(0.1, 0.0, able=True)}, 0.1, id="another thread computes, and the first has ended"),
    ],
)
def test_what_of_a_time_was_its_own(now: Threads, own: float) -> None:
    assert own_seconds(THEN, now, 0.1) == pytest.approx(own)


@contextmanager
def process(code: str) -> Iterator[int]:
    """It has begun with the code."""
    command = [sys.executable, "-c", f"import time; print('begun', flush=True)\n{code}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        try:
            assert started.stdout.readline() == b"begun\n"
            yield started.pid
        finally:
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
        wait_until(lambda: not any(thread.able for thread in (threads_of(pid) or {}).values()), what="its sleep")
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
def test_a_process_of_many_threads_is_not_asked() -> None:
    code = "import threading\nfor n in range({}): threading.Thread(target=time.sleep, args=(600,), daemon=True).start()"
    for others, told in ((MOST_THREADS - 1, True), (MOST_THREADS, False)):
        with process(f"{code.format(others)}\nprint('begun', flush=True)\ntime.sleep(600)") as pid:
            wait_until(lambda pid=pid, all_=others + 1: len(os.listdir(f"/proc/{pid}/task")) == all_)  # type: ignore[misc]
            assert (threads_of(pid) is not None) == told


@tells
def test_a_name_tells_of_no_state() -> None:
    """A process gives itself whatever name it likes."""
    code = "open('/proc/self/comm', 'w').write('a) R b')\nprint('begun', flush=True)\ntime.sleep(600)"
    with process(code) as pid:
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "a) R b\n", what="its name")
        wait_until(lambda: not any(thread.able for thread in (threads_of(pid) or {}).values()), what="its sleep")


def test_a_kernel_that_counts_nothing_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_thread", lambda folder: Thread(0.0, 0.0, able=True))
    assert threads_of(os.getppid()) is None


@tells
def test_an_answer_ends_a_silence() -> None:
    with process("time.sleep(600)") as pid:
        silence, _ = watched(pid, 0.1)
        silence.began_at = time.monotonic()
        assert silence.seconds(silence.began_at + FROM_SECONDS / 2, pid) == pytest.approx(FROM_SECONDS / 2)
        assert silence.seconds(silence.began_at + 2 * FROM_SECONDS, pid) == pytest.approx(FROM_SECONDS)
