"""What a worker refuses that was revoked before it came here, and what it ends that is here."""

from __future__ import annotations

import json
import signal
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue import signals
from dbqueue.jobs import ClaimedJob, Failed, Outcome
from dbqueue.pools import wire
from dbqueue.worker.claiming.handover import Handover
from dbqueue.worker.claiming.holding import Holding
from dbqueue.worker.control import commands
from dbqueue.worker.supervising.children import Child
from dbqueue.worker.supervising.dispatch import Dispatcher
from dbqueue.worker.supervising.limits import Limits, TimeLimits
from dbqueue.worker.supervising.revoker import MAX_STAMPS, Revoker, request_of
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


def test_what_an_earlier_claim_has_found_is_handed_over_while_the_next_is_under_way(
    revoker: Revoker, claims: Handover
) -> None:
    claims.claim_begins()
    claims.claim_ended()
    claims.add([job("earlier")])
    claims.claim_begins()
    claims.give()
    claims.take()
    revoker.revoke(["late"])
    revoker.keep()
    answered(claims, job("late"))
    (late,) = claims.take()
    assert revoker.refuses(late)


def test_a_claim_is_not_over_before_what_it_found_is_handed_over(revoker: Revoker, claims: Handover) -> None:
    claims.claim_begins()
    revoker.revoke(["late"])
    revoker.keep()
    claims.claim_ended()
    assert claims.take() == []  # between the two
    revoker.keep()
    claims.add([job("late")])
    claims.give()
    (late,) = claims.take()
    assert revoker.refuses(late)


def test_what_a_claim_has_found_may_be_revoked_before_it_is_taken(revoker: Revoker, claims: Handover) -> None:
    claims.claim_begins()
    answered(claims, job("late"))
    revoker.revoke(["late"])
    revoker.keep()
    (late,) = claims.take()
    assert revoker.refuses(late)


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


def test_what_was_found_here_is_not_looked_for_in_a_claim(
    revoker: Revoker, claims: Handover, dispatcher: Dispatcher, ended: list[Outcome]
) -> None:
    """One that is under way may find its retry by an operator."""
    dispatcher.add([job("a")])
    claims.claim_begins()
    revoker.revoke(["a"])
    revoker.keep()
    assert [each.job_id for each in ended] == ["a"]
    assert not revoker.refuses(job("a"))


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
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            revoker.revoke(revoker.having({"customer": ["acme"]}), signum)
            revoker.keep()
        assert child.done == ["a", signal.SIGTERM, signal.SIGINT, signal.SIGKILL]
        child.close()
        crew.clear()
        revoker.keep()
        assert not revoker.having({"customer": ["acme"]})
        revoker.revoke(["a"], signal.SIGKILL)
        revoker.keep()
        assert len(child.done) == 4
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


@pytest.mark.parametrize("why", ["revoked", "expired", "terminated"])
def test_how_a_job_ended_is_told(
    claims: Handover, dispatcher: Dispatcher, ended: list[Outcome], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """To the row, to monitors, and to who hears of the signal."""
    events: list[tuple[str, bool, int | None, bool]] = []
    told: list[tuple[Any, Any, bool, int | None, bool]] = []

    def revoked(job: ClaimedJob, *, terminated: bool, signum: int | None, expired: bool) -> None:
        events.append((job.id, terminated, signum, expired))

    def tell(sender: Any, request: Any, terminated: bool, signum: int | None, expired: bool, **_: Any) -> None:
        told.append((sender, request.id, terminated, signum, expired))

    signals.task_revoked.connect(tell)
    monitors: Any = SimpleNamespace(revoked=revoked)
    limits = TimeLimits({}, Limits())
    monkeypatch.setattr(limits, "ran_seconds", lambda child, job: 7.0)
    ours, theirs = socket.socketpair()
    try:
        with ours, theirs:
            child = Child(1, 1, ours)
            crew: Any = Crew([child])
            tasks = {"shop.pack": "the task"}
            revoker = Revoker("threads", crew, dispatcher, limits, ended.append, tasks, monitors, claims)
            known, unknown = claimed_job("known", task="shop.pack"), claimed_job("unknown", task="shop.gone")
            for each in (known, unknown):
                if why == "terminated":
                    child.send_jobs([each])
                    revoker.revoke([each.id], signal.SIGTERM)
                    revoker.keep()
                    del child.held[each.id]
                else:
                    revoker.refuse(each, why)
    finally:
        signals.task_revoked.disconnect(tell)
    how = (why == "terminated", signal.SIGTERM if why == "terminated" else None, why == "expired")
    assert events == [("known", *how), ("unknown", *how)]
    assert told == [("the task", "known", *how), ("shop.gone", "unknown", *how)]
    for outcome in ended:
        assert isinstance(outcome, Failed)
        assert (outcome.status, outcome.seconds) == ("REVOKED", 7.0 if why == "terminated" else 0.0)
        assert json.loads(outcome.error)["exc_message"] == [why]


def test_the_request_that_receivers_of_signals_get() -> None:
    headers = '{"stamps": {"customer": "acme"}, "stamped_headers": ["customer"], "trace": "t"}'
    request = request_of(
        claimed_job(
            "a", task="shop.pack", args="[1]", kwargs='{"b": 2}', retries=3, parent_id="parent", root_id="root",
            group_id="group", headers=headers, eta="2030-01-01", expires_at="2031-01-01", queue="mail", priority=4,
            losses=1,
        )
    )  # fmt: skip
    assert (request.id, request.task_id, request.correlation_id) == ("a",) * 3
    assert (request.task, request.name, request.task_name) == ("shop.pack",) * 3
    assert (request.args, request.kwargs, request.retries) == ([1], {"b": 2}, 3)
    assert (request.parent_id, request.root_id, request.group) == ("parent", "root", "group")
    assert (request.eta, request.expires) == ("2030-01-01", "2031-01-01")
    assert (request.stamps, request.stamped_headers) == ({"customer": "acme"}, ["customer"])
    where = {"exchange": "", "routing_key": "mail", "priority": 4, "redelivered": True}
    assert request.delivery_info == where
    first = request_of(claimed_job("b", args="no JSON"))
    assert (first.root_id, first.args, first.stamps) == ("b", None, {})
    assert first.delivery_info == {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}


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
    said = commands.revoke_by_stamped_headers(worker, {"customer": "acme"})
    assert said == {"ok": "headers {'customer': ['acme']} flagged as revoked, but not terminated"}
    revoker.keep()
    assert [each.job_id for each in ended] == ["behind", "goes"]
    assert [each.id for each in dispatcher.waiting] == ["stays", "plain"]


def test_stamps_that_are_revoked_end_what_waits_behind_a_run_or_is_to_run_alone(
    claims: Handover, ended: list[Outcome]
) -> None:
    dispatcher = Dispatcher(2, shared=True)
    dispatcher.add([job("suspect", customer="acme")._replace(losses=1)])
    monitors: Any = SimpleNamespace(revoked=lambda *_, **__: None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = Child(1, 1, ours)
        child.send_jobs([job("runs", customer="acme"), job("behind", customer="acme"), job("other", customer="other")])
        crew: Any = Crew([child])
        revoker = Revoker("threads", crew, dispatcher, TimeLimits({}, Limits()), ended.append, {}, monitors, claims)
        assert revoker.having({"customer": ["acme"]}) == {"suspect", "runs", "behind"}


def test_a_stamp_that_is_revoked_again_makes_none_forgotten(revoker: Revoker) -> None:
    """Commands are repeated, and sent to all."""
    revoker.revoke_stamped({"number": [0]})
    for _ in range(3):
        revoker.revoke_stamped({"number": list(range(1, MAX_STAMPS))})
    assert revoker.refuses(job("oldest", number=0))


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
