"""Messages between a supervisor and its children: whole, in order, however the bytes come."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbqueue.errors import SoftTimeLimitExceeded
from dbqueue.jobs import ClaimedJob, Failed, Outcome, Released, Replaced, Retried, Settled, Succeeded
from dbqueue.pools import interrupts, wire
from dbqueue.pools.child import Inbox, Link
from dbqueue.pools.interrupts import Interruptible
from dbqueue.workflows import Edge, Workflow
from tests.stores import new_job

TEXTS = st.text(st.characters(), max_size=50)  # half surrogates included

JOB = ClaimedJob(
    id="j", lease="l", task="t", queue="q", priority=0, args="[]", kwargs="{}", headers=None, options=None,
    content_type=None, content=b"\0", parent_id=None, root_id=None, group_id=None, eta=None, expires_at=None,
    ready_at="2020-01-01", retries=0, losses=0, redeliver=True, expired=False,
)  # fmt: skip

OUTCOMES = [
    Succeeded("j", "l", '"ü🦊"', 0.5),
    Succeeded("j", "l", None, 0.0),
    Failed("j", "l", "{}", None, 0.1),
    Failed("j", "l", "{}", "tb", 0.1, "REVOKED"),
    Retried("j", "l", "{}", None, 0.1, delay_seconds=3.0, queue="q", priority=4),
    Released("j", "l", "2020-01-01", lost=True),
    Settled("j", "l", 0.5, succeeded=True, result="1"),
    Replaced("j", "l", Workflow.of([new_job("a"), new_job("b", priority=4)], [Edge("a", "b", place="[]")]), 0.5),
    *(
        Replaced("j", "l", Workflow.of([new_job("a", **{name: datetime(2026, 11, 28, 12, tzinfo=UTC)})], []), 0.5)
        for name in ("eta", "expires_at")
    ),
]


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def read_all(reader: wire.Reader, count: int) -> list[Any]:
    messages: list[Any] = []
    while len(messages) < count:
        read = reader.receive()
        assert read is not None
        messages += read
    return messages


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: type(outcome).__name__)
def test_an_outcome_arrives_as_it_was(pair: tuple[socket.socket, socket.socket], outcome: Outcome) -> None:
    left, right = pair
    left.sendall(wire.done_frame(outcome))
    ((kind, number, fields),) = read_all(wire.Reader(right), 1)
    assert kind == wire.DONE
    read = wire.read_outcome(number, fields)
    assert (type(read), read) == (type(outcome), outcome)


def test_jobs_arrive_as_they_were(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    jobs = [JOB._replace(id=f"{n}") if hasattr(JOB, "_replace") else JOB for n in range(3)]
    left.sendall(wire.run_frame(jobs))
    ((kind, fields),) = read_all(wire.Reader(right), 1)
    assert kind == wire.RUN
    assert wire.read_jobs(fields) == jobs


@given(st.lists(TEXTS, min_size=1, max_size=8), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_any_cut_of_the_bytes_gives_the_same_messages(texts: list[str], cuts: list[int]) -> None:
    left, right = socket.socketpair()
    with left, right:
        reader = wire.Reader(right)
        data = b"".join(wire.frame(wire.RECALLED, [text]) for text in texts)
        messages: list[Any] = []
        for index in range(len(data)):
            size = cuts[index % len(cuts)]
            piece, data = data[:size], data[size:]
            if not piece:
                break
            left.sendall(piece)
            messages += reader.receive() or []
        assert messages == [(wire.RECALLED, [text]) for text in texts]


def test_a_message_larger_than_one_read(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    text = "x" * 5_000_000
    sender = threading.Thread(target=left.sendall, args=(wire.frame(wire.RECALLED, text),))
    sender.start()
    assert read_all(wire.Reader(right), 1) == [(wire.RECALLED, text)]
    sender.join()


def test_the_end_of_the_stream(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    left.sendall(wire.frame(wire.STOP)[:-1])
    left.close()
    reader = wire.Reader(right)
    assert reader.receive() == []
    assert reader.receive() is None


def test_the_end_of_one_that_has_left_something_unread(pair: tuple[socket.socket, socket.socket]) -> None:
    """A process that dies with a job on its way: the system says that the connection was reset."""
    left, right = pair
    right.sendall(wire.frame(wire.STOP))
    left.close()
    assert wire.Reader(right).receive() is None


def test_an_outcome_that_cannot_be_sent_ends_as_a_failure_that_says_so(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """The slot that would raise here runs no job after this one, and its supervisor waits for an answer for ever."""

    class Text(str):
        __slots__ = ()

    left, right = pair
    link = Link(right, 1)
    link.report(Succeeded("j", "l", Text("1"), 0.5))
    link.report(Succeeded("k", "m", "2", 0.5))
    (_, *first), (_, *second) = read_all(wire.Reader(left), 2)
    outcome = wire.read_outcome(*first)
    assert isinstance(outcome, Failed)
    assert (outcome.job_id, outcome.lease, outcome.status) == ("j", "l", "FAILURE")
    assert "EncodeError" in outcome.error
    assert "the outcome cannot be sent" in outcome.error
    assert wire.read_outcome(*second) == Succeeded("k", "m", "2", 0.5)


class TestInbox:
    def test_jobs_are_taken_in_order(self) -> None:
        inbox = Inbox()
        for job in (JOB, None):
            inbox.put(job)
        assert inbox.take() == JOB
        assert inbox.take() is None

    def test_a_recall_takes_all_that_have_not_started(self) -> None:
        inbox = Inbox()
        inbox.put(JOB)
        inbox.put(JOB)
        assert inbox.recall() == [JOB, JOB]
        assert inbox.recall() == []

    def test_a_recall_after_a_stop_does_not_undo_it(self) -> None:
        """Two recalls may be under way when a worker is told to stop."""
        inbox = Inbox()
        inbox.put(JOB)
        for _ in range(2):
            inbox.put(None)
        assert inbox.recall() == [JOB]
        assert inbox.take() is None
        assert inbox.take() is None


def test_a_child_serves_its_supervisor(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    link = Link(right, 2)
    closed = threading.Event()
    thread = threading.Thread(target=link.read, args=(closed.set,))
    thread.start()
    left.sendall(wire.run_frame([JOB]) + wire.frame(wire.RECALL) + wire.frame(wire.STOP))
    assert read_all(wire.Reader(left), 1) == [(wire.RECALLED, ["j"])]
    assert (link.inbox.take(), link.inbox.take()) == (None, None)
    left.close()
    thread.join(30)
    assert closed.is_set()


def test_a_job_that_ends_while_it_is_aimed_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread may be at the next job by then, which is not to be hit."""

    class Leaves(set[str]):
        def add(self, job_id: str) -> None:
            interrupts._running.pop(job_id)

    seen: list[str] = []

    def run() -> None:
        interrupts._running["over"] = threading.get_ident()
        interrupts.interrupt("over")
        seen.append("nothing was raised here")

    monkeypatch.setattr(interrupts, "_aimed_at", Leaves())
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    interrupts.forget("over")
    assert seen == ["nothing was raised here"]
    assert "over" not in interrupts._running


def test_a_limit_that_is_over_before_the_job_begins(pair: tuple[socket.socket, socket.socket]) -> None:
    """The child had to wait for the processor: the interruption is kept for the job, and for no later run of it."""
    left, right = pair
    link = Link(right, 1)
    thread = threading.Thread(target=link.read, args=(lambda: None,))
    thread.start()

    def served() -> None:
        """All that was sent so far has been read."""
        left.sendall(wire.frame(wire.RECALL))
        assert read_all(wire.Reader(left), 1) == [(wire.RECALLED, [])]

    left.sendall(wire.run_frame([JOB]))
    assert link.inbox.take() == JOB
    left.sendall(wire.frame(wire.INTERRUPT, JOB.id))
    served()
    with pytest.raises(SoftTimeLimitExceeded), Interruptible(JOB.id):
        raise AssertionError("it must not begin")

    for _ in range(2):  # interrupted when it has ended: before its answer, and after it
        left.sendall(wire.run_frame([JOB]))
        assert link.inbox.take() == JOB
        with Interruptible(JOB.id):
            pass
        left.sendall(wire.frame(wire.INTERRUPT, JOB.id))
        served()
        link.report(Succeeded("j", "l", "1", 0.5))
        assert len(read_all(wire.Reader(left), 1)) == 1
        left.sendall(wire.frame(wire.INTERRUPT, JOB.id))
        served()
    left.close()
    thread.join(30)


def test_a_limit_of_a_job_that_has_not_begun(pair: tuple[socket.socket, socket.socket]) -> None:
    """What ran here kept it waiting: that is told, and the job runs. One that has begun is interrupted."""
    left, right = pair
    link = Link(right, 1)
    thread = threading.Thread(target=link.read, args=(lambda: None,))
    thread.start()
    left.sendall(wire.run_frame([JOB]) + wire.frame(wire.INTERRUPT, JOB.id, True))
    answers = wire.Reader(left)
    assert read_all(answers, 1) == [(wire.WAITING, JOB.id)]
    with Interruptible(JOB.id):
        pass
    link.begins(JOB)
    left.sendall(wire.frame(wire.INTERRUPT, JOB.id, True) + wire.frame(wire.RECALL))
    assert read_all(answers, 1) == [(wire.RECALLED, [JOB.id])]
    with pytest.raises(SoftTimeLimitExceeded), Interruptible(JOB.id):
        raise AssertionError("its time is over")
    left.close()
    thread.join(30)


@pytest.mark.parametrize("given_back", [True, False])
def test_a_limit_of_a_job_that_is_not_here(pair: tuple[socket.socket, socket.socket], given_back: bool) -> None:
    """It was given back, or never came: what is too late for it is not kept for its next run."""
    left, right = pair
    link = Link(right, 1)
    thread = threading.Thread(target=link.read, args=(lambda: None,))
    thread.start()
    answers = wire.Reader(left)
    if given_back:
        left.sendall(wire.run_frame([JOB]) + wire.frame(wire.RECALL))
        assert read_all(answers, 1) == [(wire.RECALLED, [JOB.id])]
    left.sendall(wire.frame(wire.INTERRUPT, JOB.id) + wire.run_frame([JOB]))
    assert link.inbox.take() == JOB
    with Interruptible(JOB.id):
        pass
    left.close()
    thread.join(30)
