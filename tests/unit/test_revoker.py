"""What a worker refuses that was revoked before it came here, and what it ends that is here."""

from __future__ import annotations

import json
import signal
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.jobs import ClaimedJob, Outcome
from dbqueue.pools import wire
from dbqueue.worker import control_commands
from dbqueue.worker.children import Child
from dbqueue.worker.dispatch import Dispatcher
from dbqueue.worker.handover import Handover
from dbqueue.worker.holding import Holding
from dbqueue.worker.limits import Limits, TimeLimits
from dbqueue.worker.revoker import MAX_STAMPS, Revoker
from tests.stores import claimed_job


def job(id: str, *, revoked: bool = False, **stamps: Any) -> ClaimedJob:
    headers = json.dumps({"stamped_headers": list(stamps), "stamps": stamps}) if stamps else None
    return claimed_job(id, headers=headers, revoked=revoked)


@pytest.fixture
def claims() -> Handover:
    return Handover(Holding(), lambda: None)


@pytest.fixture
def ended() -> list[Outcome]:
    return []


@pytest.fixture
def dispatcher() -> Dispatcher:
    return Dispatcher(1)


@pytest.fixture
def revoker(claims: Handover, ended: list[Outcome], dispatcher: Dispatcher) -> Revoker:
    nobody: Any = []
    monitors: Any = SimpleNamespace(revoked=lambda *_, **__: None)
    return Revoker("prefork", nobody, dispatcher, TimeLimits({}, Limits()), ended.append, {}, monitors, claims)


def answered(claims: Handover, *found: ClaimedJob) -> None:
    claims.claim_ended()
    claims.add(found)
    claims.give()


def test_a_claim_that_was_under_way(revoker: Revoker, claims: Handover) -> None:
    """The worker was told when the job was nowhere here yet."""
    claims.claim_begins()
    revoker.revoke(["late", "never", "nowhere"])
    revoker.keep()
    claims.give()
    claims.take()
    revoker.keep()  # the claim has not been answered
    answered(claims, job("another"), job("late"))
    revoker.keep()  # what it found has not been taken
    another, late = claims.take()
    assert not revoker.refuses(another)
    assert revoker.refuses(late)
    assert not revoker.refuses(late), "its retry by an operator is another run"
    revoker.keep()
    assert not revoker.refuses(job("never")), "that claim did not find it, and later ones find what may run"
    assert not revoker._late


def test_a_claim_that_found_nothing(revoker: Revoker, claims: Handover) -> None:
    claims.claim_begins()
    revoker.revoke(["a"])
    revoker.keep()
    answered(claims)
    claims.take()
    revoker.keep()
    assert not revoker.refuses(job("a"))


def test_while_no_claim_is_under_way_nothing_is_to_be_remembered(revoker: Revoker, claims: Handover) -> None:
    claims.claim_begins()
    answered(claims)
    claims.take()
    revoker.revoke(["a"])
    revoker.keep()
    claims.claim_begins()
    answered(claims, job("a"))
    (found,) = claims.take()
    assert not revoker.refuses(found)


def test_what_waits_here_is_taken_out_and_ended(revoker: Revoker, dispatcher: Dispatcher, ended: list[Outcome]) -> None:
    dispatcher.add([job("stays"), job("goes")])
    revoker.revoke(["goes"])
    revoker.keep()
    assert [each.id for each in dispatcher.waiting] == ["stays"]
    assert [(each.job_id, getattr(each, "status", None)) for each in ended] == [("goes", "REVOKED")]
    revoker.keep()
    assert len(ended) == 1
    assert not revoker.refuses(job("goes"))


class Crew(list[Child]):
    """Of children that are looked after by nobody."""

    def watch(self, child: Child) -> None:
        self.watched = child

    def recall(self, child: Child) -> None:
        child.recalling = True


def test_what_waits_behind_a_run_is_called_back_and_ended(
    claims: Handover, dispatcher: Dispatcher, ended: list[Outcome]
) -> None:
    ours, theirs = socket.socketpair()
    child, waits = Child(1, 1, ours), job("waits")
    child.send_jobs([job("runs"), waits])
    crew, monitors = Crew([child]), SimpleNamespace(revoked=lambda *_, **__: None)
    parts: Any = (crew, dispatcher, TimeLimits({}, Limits()), ended.append, {}, monitors, claims)
    revoker = Revoker("prefork", *parts)
    revoker.revoke(["runs", "waits"])
    revoker.keep()
    assert child.recalling
    assert ended == []
    del child.held["waits"]
    dispatcher.put_back([waits])
    revoker.keep()
    assert [each.job_id for each in ended] == ["waits"]
    child.close()
    theirs.close()


@pytest.mark.parametrize("pool", ["threads", "asyncio", "prefork"])
def test_a_run_that_goes_on_is_told_of_once(
    claims: Handover, dispatcher: Dispatcher, ended: list[Outcome], pool: str
) -> None:
    """However often it is terminated: one that takes no notice of the exception in it, as in a pool of one process."""
    told: list[str] = []
    monitors: Any = SimpleNamespace(revoked=lambda job, **_: told.append(job.id))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = Child(1, 2, ours)
        child.ready = True
        crew: Any = Crew([child])
        revoker = Revoker(pool, crew, dispatcher, TimeLimits({}, Limits()), ended.append, {}, monitors, claims)
        child.send_jobs([job("a"), job("b")])
        for job_id in ("a", "a", "b", "a"):
            revoker.revoke([job_id], signal.SIGUSR1)
            revoker.keep()
        assert [each.job_id for each in ended] == told == ["a", "b"]
        messages = wire.Reader(theirs).receive()
        assert messages is not None
        interrupted = [message[1] for message in messages if message[0] == wire.INTERRUPT]
        assert interrupted == ["a", "a", "b", "a"]  # the exception is raised in it again
        assert crew.watched is child, "what its socket does not take now is sent when it does"
        del child.held["a"]
        revoker.keep()
        assert [job_id for job_id, _ in revoker._told] == ["b"]
        child.send_jobs([job("a")._replace(lease="another run")])
        revoker.revoke(["a"], signal.SIGUSR1)
        revoker.keep()
        assert told == ["a", "b", "a"]


class Doomed(Child):
    """Notes what is done to it, in its order."""

    done: list[Any]

    def write_off(self, job: ClaimedJob) -> None:
        self.done.append(job.id)
        super().write_off(job)

    def doom(self, signum: int = signal.SIGKILL) -> None:
        self.done.append(signum)


def test_a_process_gets_signals_until_it_is_gone(
    claims: Handover, dispatcher: Dispatcher, ended: list[Outcome]
) -> None:
    """Its job has ended in its row with the first. Later its process id may be another's."""
    monitors: Any = SimpleNamespace(revoked=lambda *_, **__: None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = Doomed(1, 1, ours)
        child.done = []
        crew: Any = Crew([child])
        revoker = Revoker("prefork", crew, dispatcher, TimeLimits({}, Limits()), ended.append, {}, monitors, claims)
        child.send_jobs([job("a", customer="acme")])
        for signum in (signal.SIGTERM, signal.SIGKILL):
            revoker.revoke(revoker.having({"customer": ["acme"]}), signum)
            revoker.keep()
        assert child.done == ["a", signal.SIGTERM, signal.SIGKILL]
        child.close()
        crew.clear()
        revoker.keep()
        assert not revoker.having({"customer": ["acme"]})
        revoker.revoke(["a"], signal.SIGKILL)
        revoker.keep()
        assert len(child.done) == 3
        assert [each.job_id for each in ended] == ["a"]


@pytest.mark.parametrize("signums", [(signal.SIGUSR1, None), (None, signal.SIGUSR1)])
def test_a_revoke_beside_a_terminate(
    claims: Handover, dispatcher: Dispatcher, ended: list[Outcome], signums: tuple[int | None, ...]
) -> None:
    """Of the same job, and before anything could be done: it is terminated, in whatever order they came."""
    monitors: Any = SimpleNamespace(revoked=lambda *_, **__: None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = Child(1, 1, ours)
        crew: Any = Crew([child])
        revoker = Revoker("threads", crew, dispatcher, TimeLimits({}, Limits()), ended.append, {}, monitors, claims)
        child.send_jobs([job("a")])
        for signum in signums:
            revoker.revoke(["a"], signum)
        revoker.keep()
        assert [each.job_id for each in ended] == ["a"]
        revoker.keep()
        revoker.revoke(["a"])
        revoker.keep()
        assert [each.job_id for each in ended] == ["a"]


def test_what_the_row_says(revoker: Revoker) -> None:
    assert revoker.refuses(job("a", revoked=True))
    assert not revoker.refuses(job("a"))


def test_stamps_are_refused_from_then_on(revoker: Revoker) -> None:
    acme, other = job("a", customer="acme"), job("b", customer="other")
    assert not revoker.refuses(acme)
    revoker.revoke_stamped({"customer": ["acme"]})
    for _ in range(2):
        assert revoker.refuses(acme)
        assert not revoker.refuses(other)
        assert not revoker.refuses(job("c"))
    revoker.revoke_stamped({"customer": ["other"], "region": ["north"]})
    assert all(map(revoker.refuses, (acme, other, job("d", region="north"))))


def test_stamps_that_are_revoked_end_what_waits_here(
    revoker: Revoker, dispatcher: Dispatcher, ended: list[Outcome]
) -> None:
    dispatcher.add([job("goes", customer="acme"), job("stays", customer="other"), job("plain")])
    dispatcher.add([job("behind", customer="acme")], going_on={"behind"})
    worker: Any = SimpleNamespace(revoker=revoker)  # and no database: the loop waits for none
    said = control_commands.revoke_by_stamped_headers(worker, {"customer": "acme"})
    assert said == {"ok": "headers {'customer': ['acme']} flagged as revoked, but not terminated"}
    revoker.keep()
    assert [each.job_id for each in ended] == ["behind", "goes"]
    assert [each.id for each in dispatcher.waiting] == ["stays", "plain"]


def test_the_newest_stamps_are_remembered(revoker: Revoker) -> None:
    revoker.revoke_stamped({"number": list(range(MAX_STAMPS))})
    revoker.revoke_stamped({"number": [MAX_STAMPS]})
    assert not revoker.refuses(job("oldest", number=0))
    assert all(revoker.refuses(job("newer", number=number)) for number in (1, MAX_STAMPS))


@pytest.mark.parametrize(
    "headers", ['["stamps"]', '"stamps"', "[" * 100_000 + '"stamps"', '{"stamps": 5}', '{"stamps"']
)
def test_headers_that_are_none_have_no_stamps(revoker: Revoker, headers: str) -> None:
    revoker.revoke_stamped({"customer": ["acme"]})
    assert not revoker.refuses(claimed_job("a", headers=headers))
