"""A child's reports of progress on their way to the supervisor: the latest of each job, none of them forgotten."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.jobs import Progress
from dbqueue.pools import reports as module
from dbqueue.pools import wire
from dbqueue.pools.reports import PAUSE_SECONDS, Reports
from tests.waiting import wait_until


class Socket:
    """Of a supervisor, and the pause after each sending: what happens at each can be made to wait."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.pauses: list[float] = []
        self.while_sending: Callable[[], None] = lambda: None
        self.takes_more = threading.Semaphore(0)
        """One permit ends one pause."""

    def send(self, data: bytes) -> None:
        _, (job_id, _, _, meta) = _message(data)
        self.while_sending()
        self.sent.append((job_id, meta))

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        assert self.takes_more.acquire(timeout=60)


def _message(data: bytes) -> Any:
    reader = wire.Reader(SimpleNamespace(recv=lambda _: data))  # type: ignore[arg-type]
    messages = reader.receive()
    assert messages is not None
    return messages[0]


@pytest.fixture
def socket(monkeypatch: pytest.MonkeyPatch) -> Socket:
    socket = Socket()
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=socket.pause))
    return socket


@pytest.fixture
def reports(socket: Socket) -> Iterator[Reports]:
    reports = Reports(socket.send)
    yield reports
    reports.close()
    socket.takes_more.release()
    if reports._thread is not None:
        reports._thread.join(60)
        assert not reports._thread.is_alive(), "its thread ends with it"


def report(job_id: str, meta: str) -> Progress:
    return Progress(job_id, "lease", "PROGRESS", meta)


def test_a_report_that_comes_while_another_is_sent_follows_it(reports: Reports, socket: Socket) -> None:
    """It may be the last for hours."""
    later = [report("a", "2")]

    def put_later() -> None:
        if later:
            reports.put(later.pop())

    socket.while_sending = put_later
    reports.put(report("a", "1"))
    socket.takes_more.release()
    wait_until(lambda: socket.sent == [("a", "1"), ("a", "2")], what="both")


def test_between_two_sendings_is_a_pause_of_which_the_latest_of_each_job_is_left(
    reports: Reports, socket: Socket
) -> None:
    reports.put(report("a", "1"))
    wait_until(lambda: socket.pauses == [PAUSE_SECONDS], what="the pause")
    for each in (report("a", "2"), report("b", "1"), report("a", "3")):
        reports.put(each)
    assert socket.sent == [("a", "1")]
    socket.takes_more.release()
    wait_until(lambda: len(socket.pauses) == 2, what="the next pause")
    assert socket.sent == [("a", "1"), ("a", "3"), ("b", "1")]


def test_what_was_sent_is_not_sent_again(reports: Reports, socket: Socket) -> None:
    """With each later report of another job, that is."""
    for job_id in "ab":
        reports.put(report(job_id, "1"))
        wait_until(lambda: socket.sent[-1:] == [(job_id, "1")], what="the report")  # noqa: B023
        socket.takes_more.release()
    assert socket.sent == [("a", "1"), ("b", "1")]


def test_one_thread_sends_them_all(reports: Reports, socket: Socket) -> None:
    reports.put(report("a", "1"))
    first = reports._thread
    reports.put(report("a", "2"))
    assert reports._thread is first
