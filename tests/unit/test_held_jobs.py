"""When a worker looks for jobs that wait for permits, by a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest

from dbqueue.jobs import ClaimedJob, Succeeded
from dbqueue.limits import Limit, Policies, Rate
from dbqueue.store.held import START
from dbqueue.store.records import HeldRound
from dbqueue.worker.claiming import held_jobs
from dbqueue.worker.claiming.held_jobs import FAILED_SECONDS, GAP_SECONDS, LEAST_SECONDS, PASS_ON_SECONDS, HeldJobs
from dbqueue.worker.claiming.rates import TaskRates
from dbqueue.worker.config import WorkerConfig
from tests.clocks import set_clock
from tests.stores import claimed_job

BEGAN_AT = 1000.0
LATER = ("k", "celery", 0)
"""Where a look at many keys goes on."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return set_clock(monkeypatch, held_jobs, at=BEGAN_AT)


def new(rates: TaskRates | None = None, **config: Any) -> HeldJobs:
    return HeldJobs(WorkerConfig("w@test", ("celery",), "solo", 1, **config), rates or TaskRates({}))


def look(held: HeldJobs, found: HeldRound, *, meanwhile: Any = lambda: None) -> bool:
    """The look that is due; whether others are to know of permits."""
    wakes = held.wakes
    claim = held.claim("w#1", ["celery"], 10, yielding=False)
    meanwhile()
    return held.learned(claim, found, wakes)


def permitted(*ids: str, key: str = "k") -> list[ClaimedJob]:
    return [claimed_job(job_id, permit=key) for job_id in ids]


def started(held: HeldJobs, *ids: str, key: str = "k", **found: Any) -> None:
    """A look has started these."""
    look(held, HeldRound(permitted(*ids, key=key), keys=frozenset({key}), simple=frozenset({key}), **found))


def ended(held: HeldJobs, *ids: str) -> None:
    held.ended([Succeeded(job_id, "lease", "1", 0.0) for job_id in ids])


@pytest.mark.usefixtures("clock")
def test_where_nothing_waits_it_does_not_look() -> None:
    """Not for a wake-up either: a look that asks for nothing more tells when something does."""
    held = new()
    assert held.due()
    look(held, HeldRound())
    held.woken()
    held.seen(False)
    assert held.due_at is None
    held.seen(True)
    assert held.due()


def test_what_is_due_later_is_not_looked_for_before(clock: list[float]) -> None:
    held = new()
    look(held, HeldRound(again_seconds=60.0))
    held.seen(True)
    assert held.due_at == BEGAN_AT + 60.0
    held.woken()
    assert held.due_at == BEGAN_AT + GAP_SECONDS
    held.woken()  # one wake-up after the other puts it off no further
    clock[0] += GAP_SECONDS
    assert held.due()
    look(held, HeldRound(again_seconds=GAP_SECONDS / 2))
    held.woken()
    assert held.due_at == clock[0] + GAP_SECONDS / 2


def test_a_look_that_found_nothing_is_not_repeated_at_once(clock: list[float]) -> None:
    held = new()
    look(held, HeldRound(again_seconds=0.0))
    assert held.due_at == BEGAN_AT + LEAST_SECONDS
    clock[0] += LEAST_SECONDS
    look(held, HeldRound([claimed_job()], again_seconds=0.0))
    assert held.due()


@pytest.mark.usefixtures("clock")
def test_a_look_at_some_keys_says_nothing_of_the_others() -> None:
    """Of which something is due before."""
    held = new()
    started(held, "a", again_seconds=60.0)
    ended(held, "a")
    look(held, HeldRound(again_seconds=3600.0))
    assert held.due_at == BEGAN_AT + 60.0


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("known", ["a rate", "a limit"])
def test_where_tasks_have_limits_a_wake_up_is_enough(known: str) -> None:
    policies = Policies({"pack": Limit(running=1)} if known == "a limit" else {})
    held = new(TaskRates({"pack": Rate(1.0)} if known == "a rate" else {}), policies=policies)
    look(held, HeldRound())
    held.woken()
    assert held.due_at == BEGAN_AT + GAP_SECONDS


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("again_seconds", [None, 3600.0])
@pytest.mark.parametrize("freed", [False, True])
def test_a_wake_up_that_comes_while_it_looks_is_not_lost(again_seconds: float | None, freed: bool) -> None:
    held = new()
    started(held, "a", again_seconds=again_seconds)
    if freed:
        ended(held, "a")
    else:
        held.changed()
    look(held, HeldRound(again_seconds=again_seconds), meanwhile=held.woken)
    assert held.due_at == BEGAN_AT + GAP_SECONDS


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("again_seconds", [None, 3600.0])
def test_a_rate_that_ends_while_it_looks_is_heard_of(again_seconds: float | None) -> None:
    """What it was looking for may start now: nobody else tells."""
    rates = TaskRates({"pack": Rate(1 / 3600)})
    assert rates.take("pack")
    held = new(rates)

    def no_limit() -> None:
        rates.set("pack", None)
        held.changed()

    look(held, HeldRound(again_seconds=again_seconds, tasks=frozenset({"pack"})), meanwhile=no_limit)
    assert held.due_at == BEGAN_AT + GAP_SECONDS


def test_a_look_is_told_what_this_worker_knows_of_tasks() -> None:
    policies = Policies({"pack": Limit(running=1)})
    held = new(TaskRates({"mail": Rate(5.0)}), policies=policies, once=("pay",), max_input_bytes=7)
    claim = held.claim("w#1", ["celery"], 10, yielding=True)
    assert (claim.worker_id, claim.queues, claim.limit, claim.yielding) == ("w#1", ["celery"], 10, True)
    assert (claim.policies, dict(claim.tokens), claim.once) == (policies, {"mail": 1}, ("pay",))
    assert claim.max_input_bytes == 7


def test_what_has_no_tokens_is_looked_for_when_there_are_some(clock: list[float]) -> None:
    rates = TaskRates({"pack": Rate(0.1)}, clock=lambda: clock[0])
    held = new(rates)
    look(held, HeldRound(permitted("a"), tasks=frozenset({"pack"})))  # its token is spent
    assert held.due_at == BEGAN_AT + 10.0
    clock[0] += 4.0
    held.park(["pack"])
    assert held.due_at == BEGAN_AT + 10.0
    assert held.sort_out([claimed_job("b")]) == ([], [claimed_job("b")])


@pytest.mark.usefixtures("clock")
def test_jobs_stand_behind_those_that_were_parked() -> None:
    """Even where there are tokens again; what does not run needs none."""
    held = new(TaskRates({"pack": Rate(100.0)}))
    first, dead, off, other = (
        claimed_job("a"), claimed_job("b", expired=True), claimed_job("c", revoked=True), claimed_job("d", task="mail")
    )  # fmt: skip
    assert held.sort_out([first, dead, off, other]) == ([first, dead, off, other], [])
    held.park(["pack"])
    assert held.sort_out([first, dead, off, other]) == ([dead, off, other], [first])
    look(held, HeldRound(keys=frozenset({"rate:pack"}), after=LATER))
    look(held, HeldRound(keys=frozenset(), after=LATER))
    assert held.sort_out([first]) == ([], [first])
    look(held, HeldRound(keys=frozenset({"rate:pack"})))
    assert held.sort_out([first]) == ([], [first])
    held.changed()
    look(held, HeldRound())
    assert held.sort_out([first]) == ([first], [])


@pytest.mark.usefixtures("clock")
def test_many_keys_are_looked_at_one_part_after_the_other() -> None:
    held = new()
    look(held, HeldRound(again_seconds=0.0, after=LATER))
    claim = held.claim("w#1", ["celery"], 10, yielding=False)
    assert (claim.after, claim.yielding) == (LATER, False)
    held.failed()
    assert held.due_at == BEGAN_AT + FAILED_SECONDS
    assert held.claim("w#1", ["celery"], 10, yielding=False).after == START


@pytest.mark.usefixtures("clock")
def test_permits_that_were_freed_here_are_used_here() -> None:
    held = new()
    started(held, "b", "a", key="k2", again_seconds=60.0)
    held.changed()
    started(held, "c", key="k1", again_seconds=60.0)
    assert (held.freed, held.quick_keys()) == (0, [])
    ended(held, "a", "c", "another")
    ended(held, "a")  # of two writes of one end it is the first that frees
    assert (held.freed, held.quick_keys(), held.due()) == (2, ["k1", "k2"], True)
    held.took(permitted("d", key="k1"), limit=1)  # as many as it could: there may be more
    assert held.quick_keys() == ["k1", "k2"]
    held.took(permitted("e", key="k2"), limit=2)
    assert (held.freed, held.quick_keys()) == (0, [])
    ended(held, "d", "e")
    assert held.quick_keys() == ["k1", "k2"]
    assert set(held.claim("w#1", ["celery"], 10, yielding=False).keys) == {"k1", "k2"}


@pytest.mark.usefixtures("clock")
def test_a_round_does_not_claim_for_keys_that_are_more_than_counted() -> None:
    """A rate is for a look at it; and one at all that is due sees these keys too."""
    held = new()
    started(held, "a", again_seconds=60.0)
    held.changed()
    look(held, HeldRound(permitted("b"), again_seconds=60.0, keys=frozenset({"k"})))  # it has a rate since
    ended(held, "b")
    assert (held.quick_keys(), held.due()) == ([], True)
    held = new()
    started(held, "a", again_seconds=60.0)
    ended(held, "a")
    held.changed()
    assert held.quick_keys() == []
    assert held.claim("w#1", ["celery"], 10, yielding=False).keys == ()
    held = new(TaskRates({"pack": Rate(1.0)}))  # whoever waits for a permit may be of that task
    started(held, "a", again_seconds=60.0)
    ended(held, "a")
    assert (held.quick_keys(), held.due()) == ([], True)


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("keys", [frozenset({"k"}), frozenset[str]()])
def test_others_hear_of_permits_that_were_not_used_here(keys: frozenset[str]) -> None:
    """Where anything waits for them."""
    held = new()
    started(held, "a", "b", again_seconds=60.0)
    ended(held, "a", "b")
    assert look(held, HeldRound(permitted("c"), keys=keys)) is bool(keys)
    ended(held, "c")
    held.took([], limit=10)
    assert held.due_at == BEGAN_AT + GAP_SECONDS, "a look tells whether anything waits"
    assert look(held, HeldRound(keys=keys)) is bool(keys)
    assert look(held, HeldRound(keys=keys)) is False


def test_permits_without_a_slot_are_left_to_others_after_a_moment(clock: list[float]) -> None:
    held = new()
    started(held, "a", "b", again_seconds=60.0)
    assert (held.gives_up_at, held.gives_up()) == (None, False)
    ended(held, "a")
    clock[0] += PASS_ON_SECONDS / 2
    ended(held, "b")
    assert held.gives_up() is False
    assert held.gives_up_at == BEGAN_AT + PASS_ON_SECONDS
    clock[0] = BEGAN_AT + PASS_ON_SECONDS
    assert [held.gives_up(), held.gives_up()] == [True, False]
    assert held.due(), "they are still for whoever is first"


@pytest.mark.usefixtures("clock")
def test_a_job_whose_lease_is_void_is_kept_no_longer() -> None:
    """Nor is its permit freed by an outcome that comes after all."""
    held = new()
    started(held, "a", "b", again_seconds=60.0)
    held.forget(["a", "another"])
    assert set(held._permits) == {"b"}
    ended(held, "a", "b")
    assert held.freed == 1
