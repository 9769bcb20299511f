"""Where claims begin to look: what a session remembers of its claims, and what it makes of that."""

from __future__ import annotations

from typing import Any

import pytest

from dbqueue.jobs import ClaimedJob
from dbqueue.store.postgres import floors as module
from dbqueue.store.postgres.floors import HIGHEST, LOWEST, Floors
from dbqueue.store.records import Claim
from tests.stores import claimed_job

LIMIT = 10
SLOW = 1.0


def job(id: str, priority: int = 0) -> ClaimedJob:
    return claimed_job(id, priority=priority)


def learn(floors: Floors, *jobs: ClaimedJob, hinted: bool = False) -> None:
    claim = Claim("worker", "lease", ("celery",), LIMIT)
    floors.learn(claim, jobs, hinted=hinted, seconds=SLOW, rows=len(jobs))


def hints(floors: Floors) -> dict[str, Any]:
    found = floors.hints(["celery"])
    assert found is not None
    return found


@pytest.fixture
def floors() -> Floors:
    """Two looks were slow."""
    floors = Floors()
    learn(floors)
    learn(floors)
    return floors


def test_known_priorities_and_what_lies_between_them(floors: Floors) -> None:
    """No priority is looked for twice: it would be read from the bottom again."""
    learn(floors, job("low", 3), job("high", 9), hinted=True)
    found = hints(floors)
    assert (found["level_priority"], found["level_id"]) == ([9, 3], ["high", "low"])
    assert found["gap_below"] == [HIGHEST, 9, 3]
    assert found["gap_above"] == [9, 3, LOWEST]


def test_a_late_job_that_was_found_alone_does_not_move_the_place_back(floors: Floors) -> None:
    """A look from the bottom has found all that is below it."""
    learn(floors, job("m"), hinted=True)
    learn(floors, job("a"))
    assert hints(floors)["level_id"] == ["m"]


def test_the_last_job_that_was_found_may_be_back_at_its_place(floors: Floors) -> None:
    last = job("m")
    learn(floors, last, hinted=True)
    floors.lower((last.queue, last.priority), (str(last.ready_at), last.id))
    assert hints(floors)["level_id"] == [""], "this is right below it"


def test_what_is_back_at_a_place_that_nobody_has_told_is_looked_for_from_the_bottom(floors: Floors) -> None:
    assert floors.hints(["celery"]) is not None
    floors.forget()
    assert floors.hints(["celery"]) is None


def test_what_is_remembered_has_an_end(floors: Floors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LEVELS", 2)
    learn(floors, job("a", 1), job("b", 2), hinted=True)
    assert len(hints(floors)["level_id"]) == 2
    learn(floors, job("c", 3), hinted=True)
    assert hints(floors)["level_id"] == []


QUICK = 0.00001
"""Seconds for a row."""
ROWS = 2000


def round_(floors: Floors, seconds: float, *, rows: int = ROWS, hinted: bool = False, limit: int = 1) -> None:
    """A claim that found as many as it could take."""
    claim = Claim("worker", "lease", ("celery",), limit)
    floors.learn(claim, [job("a")], hinted=hinted, seconds=seconds, rows=rows)


def test_a_large_round_is_followed_by_one_with_hints_and_then_by_none_for_long() -> None:
    """It tells what a row costs here."""
    floors = Floors()
    round_(floors, ROWS * QUICK)
    assert 0 < floors.seconds_to_bottom <= ROWS * QUICK
    round_(floors, ROWS * QUICK, hinted=True)
    round_(floors, ROWS * QUICK)
    assert floors.seconds_to_bottom == 0


@pytest.mark.parametrize(("rows", "limit"), [(100, 1), (ROWS, 2)])
def test_not_so_a_small_round_or_one_that_found_all(rows: int, limit: int) -> None:
    floors = Floors()
    round_(floors, ROWS * QUICK, rows=rows, limit=limit)
    assert floors.seconds_to_bottom == 0


def test_a_walk_that_takes_as_long_as_the_rest_of_its_round_is_slow() -> None:
    floors = Floors()
    round_(floors, ROWS * QUICK, hinted=True)
    round_(floors, 2 * ROWS * QUICK)
    assert floors.seconds_to_bottom > 2 * ROWS * QUICK
    assert not floors.slow, "as it may be on another machine without any walk"
    round_(floors, 2 * ROWS * QUICK)
    assert floors.seconds_to_bottom > 10 * ROWS * QUICK, "twice in turn: a twentieth of the time at the most"


def test_a_small_round_is_not_measured_by_large_ones() -> None:
    """It has its commit to wait for as well."""
    floors = Floors()
    round_(floors, ROWS * QUICK, hinted=True)
    round_(floors, 0.02, rows=10)
    assert floors.seconds_to_bottom == 0
