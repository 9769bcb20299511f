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


def test_what_is_remembered_has_an_end(floors: Floors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LEVELS", 2)
    learn(floors, job("a", 1), job("b", 2), hinted=True)
    assert len(hints(floors)["level_id"]) == 2
    learn(floors, job("c", 3), hinted=True)
    assert hints(floors)["level_id"] == []
