"""When a worker claims again."""

from __future__ import annotations

import time

import pytest

from dbqueue.worker.claiming import claim_clock
from dbqueue.worker.claiming.claim_clock import (
    LONGEST_REFUSED_SECONDS,
    LONGEST_SETTLE_SECONDS,
    MOST_REFUSALS,
    REFUSED_SECONDS,
    SETTLE_SECONDS,
    ClaimClock,
)
from dbqueue.worker.config import WorkerConfig
from tests.clocks import set_clock

CONFIG = WorkerConfig("worker", ("celery",), "solo", 1)


@pytest.fixture
def clock() -> ClaimClock:
    return ClaimClock(CONFIG, must_poll=False)


def refused(clock: ClaimClock) -> float:
    """When it claims again."""
    clock.claim_begins()
    clock.claim_refused()
    assert clock.at is not None
    return clock.at


def test_one_that_was_refused_tries_again_after_longer_and_longer_pauses(clock: ClaimClock) -> None:
    for least, most in [(REFUSED_SECONDS, 2 * REFUSED_SECONDS), (2 * REFUSED_SECONDS, 4 * REFUSED_SECONDS)]:
        before = time.monotonic()
        at = refused(clock)
        assert before + least <= at <= time.monotonic() + most
    for _ in range(8):
        refused(clock)
    assert refused(clock) <= time.monotonic() + LONGEST_REFUSED_SECONDS


def test_one_that_was_refused_too_often_yields_no_more_until_it_has_claimed(clock: ClaimClock) -> None:
    for _ in range(MOST_REFUSALS):
        assert clock.yields
        clock.claim_refused()
    assert not clock.yields
    clock.claim_found(0, 10)
    assert clock.yields


def test_a_wake_up_that_comes_while_it_is_refused_is_not_lost(clock: ClaimClock) -> None:
    """The one that had the turn may have looked before the new job was there."""
    clock.claim_begins()
    clock.at_once()
    clock.claim_refused()
    assert clock.due


def test_a_wake_up_ends_the_pause_of_one_that_was_refused(clock: ClaimClock) -> None:
    clock.claim_begins()
    clock.claim_refused()
    assert not clock.due
    clock.at_once()
    assert clock.due


class Told:
    """Of a worker that asks when a job is due, by a time that the test moves."""

    def __init__(self, now: list[float], *, must_poll: bool = False) -> None:
        self.now = now
        self.clock = ClaimClock(CONFIG, must_poll=must_poll)

    def claim(self, count: int = 0, limit: int = 10) -> None:
        self.clock.claim_begins()
        self.clock.claim_found(count, limit)

    def ask(self, *, no_later_than: float | None = None) -> None:
        self.clock.asking(self.now[0], no_later_than=no_later_than)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    return set_clock(monkeypatch, claim_clock)


def test_one_that_found_all_it_could_take_claims_again_at_once(now: list[float]) -> None:
    told = Told(now)
    told.claim(10, 10)
    assert told.clock.due
    told.claim(9, 10)
    assert told.clock.at is None, "the database knows when"


def test_a_wake_up_that_comes_while_it_claims_or_asks_is_not_lost(now: list[float]) -> None:
    told = Told(now)
    told.clock.claim_begins()
    told.clock.at_once()
    told.clock.claim_found(1, 10)
    assert told.clock.due
    told.claim()
    told.ask()
    told.clock.at_once()
    told.clock.told(60.0)
    assert told.clock.due


def test_it_claims_when_the_next_job_is_due_and_at_the_latest_after_the_longest_pause(now: list[float]) -> None:
    told = Told(now)
    for seconds, at in ((2.0, 1002.0), (-3.0, 1000.0), (3600.0, 1000.0 + CONFIG.poll_seconds), (None, 1005.0)):
        told.claim(1)
        told.ask()
        assert told.clock.at == 1000.0 + CONFIG.poll_seconds
        now[0] += 1.0  # which the question has taken
        told.clock.told(seconds)
        now[0] -= 1.0
        assert told.clock.at == at
    told.claim(1)
    told.ask(no_later_than=1001.0)
    told.clock.told(2.0)
    assert told.clock.at == 1001.0


def test_it_is_not_asked_for_until_the_jobs_just_claimed_have_had_their_time_to_end(now: list[float]) -> None:
    told = Told(now)
    told.claim(1)
    told.clock.round_ended()
    assert told.clock.settling_seconds(now[0]) == pytest.approx(SETTLE_SECONDS)
    now[0] += SETTLE_SECONDS / 2
    told.clock.round_ended()
    assert told.clock.settling_seconds(now[0]) == pytest.approx(SETTLE_SECONDS)
    now[0] += SETTLE_SECONDS
    assert told.clock.settling_seconds(now[0]) == pytest.approx(0.0)


def test_jobs_that_end_all_the_time_keep_it_from_asking_for_a_moment_only(now: list[float]) -> None:
    """A job whose time has come is announced by nobody."""
    told = Told(now)
    told.claim(9)
    claimed_at = now[0]
    told.clock.round_ended()
    while told.clock.settling_seconds(now[0]) > 0:
        now[0] += SETTLE_SECONDS / 4
        told.clock.round_ended()
        assert now[0] <= claimed_at + LONGEST_SETTLE_SECONDS + SETTLE_SECONDS
    assert now[0] >= claimed_at + LONGEST_SETTLE_SECONDS - SETTLE_SECONDS / 4


def test_what_is_due_and_another_has_locked_is_not_asked_for_without_a_pause(now: list[float]) -> None:
    told = Told(now)
    pauses = []
    for _ in range(20):
        told.claim()
        told.ask()
        told.clock.told(-1.0)
        pauses.append((told.clock.at or 0.0) - now[0])
    assert pauses[:4] == pytest.approx([0.0, 0.1, 0.15, 0.2])
    assert pauses[-1] == pytest.approx(0.5)


def test_where_nobody_tells_the_pause_grows_while_nothing_comes(now: list[float]) -> None:
    told = Told(now, must_poll=True)
    pauses = []
    for _ in range(12):
        told.claim()
        told.ask()
        pauses.append((told.clock.at or 0.0) - now[0])
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.1
    assert pauses[-1] == pytest.approx(CONFIG.poll_seconds)
    told.claim(1)
    told.ask()
    assert (told.clock.at or 0.0) - now[0] < 0.1
