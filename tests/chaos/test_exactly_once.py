"""Promise I9 in rows P1, P4 and D4: what transactional tasks have counted is exact, whatever was killed or cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.conftest import STOPS_ALL, Tries
from tests.chaos.proxy import Weather
from tests.worker.transactional import exactly_once
from tests.worker.transactional.exactly_once import TASKS, Start
from tests.workers import starting

JOBS = 60
WEATHER = {
    "lost replies": Weather(lost_replies=0.05),
    "late requests": Weather(late_requests=0.05),
}


@pytest.fixture
def start_worker() -> Iterator[Start]:
    with starting() as start:
        yield start


@pytest.fixture
def fresh(kind: str, request: pytest.FixtureRequest) -> Callable[[], str]:
    made: Callable[[], str] = request.getfixturevalue(f"fresh_{kind}")
    return made


@pytest.mark.chaos("P1")
@pytest.mark.parametrize("pool", TASKS)
def test_effects_of_processes_killed_at_their_commits(
    tries: Tries, fresh: Callable[[], str], start_worker: Start, pool: str, tmp_path: Path
) -> None:
    for left in tries.until(short=5):
        folder = tmp_path / str(left)
        folder.mkdir()
        tries.note(exactly_once.kill_at_commits(fresh(), start_worker, pool, JOBS, folder))


@pytest.mark.chaos("P1")
@pytest.mark.parametrize("name", ["t.count_up", "t.count_by_hand"])
def test_effects_of_workers_killed_under_load(
    tries: Tries, fresh: Callable[[], str], start_worker: Start, name: str
) -> None:
    for _ in tries.until(short=2):
        tries.note(exactly_once.kill_workers(fresh(), start_worker, name, JOBS))


@pytest.mark.chaos("P4")
@pytest.mark.void(STOPS_ALL, kind=["sqlite"], at=["commit.before"])
@pytest.mark.parametrize("pool", TASKS)
@pytest.mark.parametrize("at", ["start.before", "commit.before"])
def test_effects_of_zombies(
    tries: Tries, kind: str, fresh: Callable[[], str], start_worker: Start, pool: str, at: str, tmp_path: Path
) -> None:
    for left in tries.until(short=1):
        folder = tmp_path / str(left)
        folder.mkdir()
        tries.note(exactly_once.stop_past_lease(fresh(), start_worker, pool, at, folder))


@pytest.mark.chaos("D4")
@pytest.mark.parametrize("pool", TASKS)
@pytest.mark.parametrize("what", WEATHER)
def test_effects_where_connections_are_cut(
    tries: Tries, fresh_postgres: Any, start_worker: Start, pool: str, what: str
) -> None:
    for _ in tries.until(short=5):
        tries.note(exactly_once.lose_replies(fresh_postgres(), start_worker, pool, JOBS, WEATHER[what]))
