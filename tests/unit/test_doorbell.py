"""The bell: a ring is kept until it is answered, whoever rings and whenever."""

from __future__ import annotations

import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import pytest

from dbqueue.store.readiness import wait_readable
from dbqueue.worker.claiming.doorbell import Doorbell

SECONDS = 60.0
"""A wait that ends for a ring alone."""


@pytest.fixture(autouse=True)
def restless() -> Iterator[None]:
    """Threads take turns a thousand times as often as they would."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture
def bell() -> Iterator[Doorbell]:
    bell = Doorbell()
    bell.open()
    yield bell
    bell.close()


def heard(bell: Doorbell, seconds: float = 0.0) -> bool:
    """As whoever waits looks: at the flag first, then at the descriptor."""
    return bell.rung or bool(wait_readable([bell], seconds))


def test_a_ring_is_kept_until_it_is_answered(bell: Doorbell) -> None:
    assert not heard(bell)
    for _ in range(3):
        bell.ring()
        bell.ring()
        assert heard(bell)
        assert wait_readable([bell], 0)
        bell.answer()
        assert not heard(bell)
        bell.answer()


def test_a_ring_amid_an_answer_is_kept(bell: Doorbell) -> None:
    """Whether it comes before the last byte is read or after."""

    class RingsBeside:
        def __init__(self, end: socket.socket) -> None:
            self._end = end

        def recv(self, size: int) -> bytes:
            bell.ring()
            read = self._end.recv(size)
            bell.ring()
            return read

        def __getattr__(self, name: str) -> Any:
            return getattr(self._end, name)

    assert bell._ends is not None
    reader, writer = bell._ends
    bell._ends = cast(socket.socket, RingsBeside(reader)), writer
    bell.ring()
    bell.answer()
    assert heard(bell)


def test_a_ring_that_is_answered_before_its_byte_is_sent_ends_one_wait_more_and_no_other(bell: Doorbell) -> None:
    assert bell._ends is not None
    reader, writer = bell._ends

    class AnsweredBefore:
        def send(self, data: bytes) -> int:
            bell.answer()
            return writer.send(data)

    bell._ends = reader, cast(socket.socket, AnsweredBefore())
    bell.ring()
    bell._ends = reader, writer
    assert wait_readable([bell], 0)
    bell.answer()
    assert not wait_readable([bell], 0), "who waits would never sleep again"


def test_one_before_it_is_open_is_kept_too() -> None:
    bell = Doorbell()
    bell.ring()
    bell.open()
    assert heard(bell)
    bell.answer()
    assert not heard(bell)
    bell.ring()
    assert wait_readable([bell], 0)
    bell.answer()
    bell.close()
    bell.ring()  # nobody hears it any more


def test_no_ring_is_lost_between_threads(bell: Doorbell) -> None:
    """What each ring was for has been seen when the last one was answered."""
    ringers, times = 4, 3000
    asked: deque[int] = deque()
    seen = 0

    def ask(first: int) -> None:
        for number in range(first, first + times):
            asked.append(number)
            bell.ring()

    threads = [threading.Thread(target=ask, args=(number * times,)) for number in range(ringers)]
    for thread in threads:
        thread.start()
    while seen < ringers * times:
        assert heard(bell, SECONDS), f"a ring was lost: {seen} of {ringers * times} were seen, {len(asked)} wait"
        bell.answer()
        while asked:
            asked.popleft()
            seen += 1
    for thread in threads:
        thread.join()


def test_one_at_a_time_each_ends_a_wait(bell: Doorbell) -> None:
    """Ring and answer take turns, so that each wait is ended by a ring of its own."""
    answered = threading.Semaphore(1)

    def ring() -> None:
        for _ in range(2000):
            answered.acquire()
            bell.ring()

    thread = threading.Thread(target=ring)
    thread.start()
    for _ in range(2000):
        assert heard(bell, SECONDS)
        bell.answer()
        answered.release()
    thread.join()
    bell.answer()  # the byte of the last ring may have been sent after its answer
    assert not heard(bell)
