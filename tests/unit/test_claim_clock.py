"""When a worker claims again."""

from __future__ import annotations

import time

import pytest

from dbqueue.worker.claim_clock import LONGEST_REFUSED_SECONDS, MOST_REFUSALS, REFUSED_SECONDS, ClaimClock
from dbqueue.worker.config import WorkerConfig

CONFIG = WorkerConfig("worker", ("celery",), "solo", 1)


@pytest.fixture
def clock() -> ClaimClock:
    return ClaimClock(CONFIG, must_poll=False)


def refused(clock: ClaimClock) -> float:
    """When it claims again."""
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


def test_a_wake_up_ends_the_pause_of_one_that_was_refused(clock: ClaimClock) -> None:
    clock.claim_refused()
    assert not clock.due
    clock.at_once()
    assert clock.due
