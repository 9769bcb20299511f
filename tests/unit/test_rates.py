"""The tokens of rates, by a clock that the test moves."""

from __future__ import annotations

from typing import NamedTuple, cast

import pytest

from dbqueue.jobs import ClaimedJob
from dbqueue.limits import Rate
from dbqueue.worker.claiming.rates import TaskRates

MOMENT = 1e-6
"""More than floating point loses, less than anybody waits."""


class Job(NamedTuple):
    task: str


def started(*tasks: str) -> list[ClaimedJob]:
    return [cast(ClaimedJob, Job(task)) for task in tasks]


@pytest.fixture
def clock() -> list[float]:
    return [1000.0]


@pytest.fixture
def rates(clock: list[float]) -> TaskRates:
    return TaskRates({"slow": Rate(2.0), "fast": Rate(100.0)}, clock=lambda: clock[0])


def test_runs_of_a_slow_rate_are_evenly_spaced(rates: TaskRates, clock: list[float]) -> None:
    assert rates.take("slow")
    for _ in range(3):
        assert not rates.take("slow")
        assert rates.wait(["slow"]) == pytest.approx(0.5)
        clock[0] += 0.49
        assert not rates.take("slow")
        clock[0] += 0.01 + MOMENT
        assert rates.take("slow")


def test_a_pause_gathers_no_more_than_one_of_them(rates: TaskRates, clock: list[float]) -> None:
    assert rates.take("slow")
    clock[0] += 3600.0
    assert [rates.take("slow") for _ in range(3)] == [True, False, False]


def test_a_fast_rate_gathers_a_tenth_of_a_second(rates: TaskRates, clock: list[float]) -> None:
    assert [rates.take("fast") for _ in range(12)] == [True] * 10 + [False] * 2
    clock[0] += 0.05 + MOMENT
    assert rates.tokens() == {"slow": 1, "fast": 5}
    clock[0] += 60.0
    assert rates.tokens() == {"slow": 1, "fast": 10}


def test_what_has_started_elsewhere_is_paid_for(rates: TaskRates, clock: list[float]) -> None:
    rates.spend(started("fast", "fast", "fast", "slow", "unlimited"))
    assert rates.tokens() == {"slow": 0, "fast": 7}
    # More than there were: the next ones come later.
    rates.spend(started(*["slow"] * 3))
    assert rates.wait(["slow"]) == pytest.approx(2.0)
    assert rates.wait(["slow", "fast"]) == 0.0
    clock[0] += 2.0 + MOMENT
    assert rates.take("slow")


def test_a_task_without_a_rate(rates: TaskRates) -> None:
    assert all(rates.take("unlimited") for _ in range(1000))
    assert rates.wait(["unlimited"]) is None
    assert ("unlimited" in rates, "slow" in rates, bool(rates), bool(TaskRates({}))) == (False, True, True, False)


def test_a_new_rate_begins_anew(rates: TaskRates) -> None:
    rates.set("slow", Rate(1 / 3600))
    assert [rates.take("slow") for _ in range(2)] == [True, False]
    rates.set("slow", Rate(2.0))  # not after the hour that the former one would have lasted
    assert [rates.take("slow") for _ in range(2)] == [True, False]
    rates.set("slow", None)
    assert all(rates.take("slow") for _ in range(100))
    assert rates.tokens() == {"fast": 10}


@pytest.mark.parametrize("seconds", [1.0, 60.0, 3600.0])
def test_after_its_wait_there_is_a_token(seconds: float) -> None:
    """Whatever floating point loses of a time of today's: a worker that looked a moment too early would look twice."""
    for count in range(1, 200):
        rate, now = Rate(count / seconds), 1764279000.123 + 0.37 * count
        full_at = rate.spend(None, now, rate.burst)
        assert rate.tokens(full_at, now) == 0
        assert rate.tokens(full_at, now + rate.wait(full_at, now)) == 1
