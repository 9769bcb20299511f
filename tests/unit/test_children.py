"""A child as the supervisor sees it: what it runs, what it may still be sent, how it is ended."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from dbqueue.jobs import ClaimedJob
from dbqueue.pools import wire
from dbqueue.worker.supervising import children
from dbqueue.worker.supervising.children import Child
from tests.clocks import set_clock
from tests.stores import claimed_job

SLOTS = 3


def jobs(*numbers: int) -> list[ClaimedJob]:
    return [claimed_job(f"job-{number}") for number in numbers]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def child(ends: tuple[socket.socket, socket.socket]) -> Child:
    return Child(1, SLOTS, ends[0])


def test_the_first_that_are_unanswered_run(child: Child) -> None:
    child.send_jobs(jobs(0, 1))
    assert (child.running, child.free, child.busy) == (jobs(0, 1), 1, 2)
    child.send_jobs(jobs(2, 3))
    assert (child.running, child.free, child.busy) == (jobs(0, 1, 2), 0, 4)


def test_a_run_that_was_written_off_has_its_slot_until_it_answers(child: Child) -> None:
    child.send_jobs(jobs(0, 1, 2, 3))
    child.write_off(jobs(0)[0])
    assert (child.running, child.free, child.busy) == (jobs(1, 2), 0, 4)
    child.write_off(jobs(1)[0])
    del child.held["job-2"]
    assert (child.running, child.free, child.busy) == (jobs(3), 0, 3)
    assert child.drop_answer("job-0")
    assert (child.running, child.free, child.busy) == (jobs(3), 1, 2)
    assert not child.drop_answer("job-0"), "what answers now is its next run"
    assert not child.drop_answer("job-3")


def test_it_is_sent_no_more_than_it_may_run(child: Child) -> None:
    child.left = 2
    assert child.free == 2
    child.send_jobs(jobs(0))
    assert (child.left, child.free) == (1, 1)
    del child.held["job-0"]
    child.send_jobs(jobs(1))
    del child.held["job-1"]
    assert child.free == 0


def test_its_silence_begins_with_what_it_is_sent_while_it_has_nothing(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch, children)
    child.send_jobs(jobs(0))
    assert child.silence.began_at == clock[0]
    clock[0] += 1.0
    child.send_jobs(jobs(1))
    assert child.silence.began_at == clock[0] - 1.0


@pytest.mark.parametrize("is_closed", [False, True])
def test_all_that_it_has_said_is_heard_at_its_end(
    child: Child, ends: tuple[socket.socket, socket.socket], *, is_closed: bool
) -> None:
    """More than one read takes; and a process that its task has started may keep the socket open."""
    text = "x" * 40_000
    ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
    for number in range(4):
        ends[1].sendall(wire.frame(number, text))
    if is_closed:
        ends[1].close()
    assert child.last_words() == [(number, text) for number in range(4)]


def test_it_is_doomed_since_the_first_time_and_ended_once_for_each(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`terminate` is sent again and again; what does not hear it is to be taken for deaf some time."""
    sent: list[tuple[int, int]] = []
    clock = set_clock(monkeypatch, children)
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append((pid, number)))
    child.pid = os.getpid() + 1
    child.doom(signal.SIGTERM)
    began_at, clock[0] = clock[0], clock[0] + 1.0
    child.end()
    child.end()
    child.doom()
    assert child.doomed_at == began_at
    child.end()
    assert sent == [(child.pid, signal.SIGTERM), (child.pid, signal.SIGKILL)]
    assert not child.killed, "its task may have taken the signal, and runs on until it is killed"


def test_of_two_signals_before_its_end_the_later_one_is_sent(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that takes no notice of the first is not to run on for that."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    child.pid = os.getpid() + 1
    child.doom(signal.SIGTERM)
    child.doom(signal.SIGKILL)
    child.end()
    child.end()
    assert sent == [signal.SIGKILL]
