"""The beat between its turns: how long it pauses, whom it tells of what it has fired, and what it says of trouble."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from dbqueue.errors import OperationalError
from dbqueue.jobs import NewJob
from dbqueue.store.base import Store
from dbqueue.store.schedules import ScheduleRow
from dbqueue.worker.beat import FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS, Beat
from dbqueue.worker.beat.steps import Steps, job_id
from dbqueue.workflows import Edge, Workflow
from tests.contract.schedules import NOON, add, make_job, minutes, new_beat, settle
from tests.stores import count, new_job


def test_the_pause_is_shorter_by_what_the_turn_took(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    beat, times = new_beat(store), iter([100.0, 100.75])
    monkeypatch.setattr("dbqueue.worker.beat.time", SimpleNamespace(monotonic=lambda: next(times)))
    assert beat.turn(now=NOON) == beat.max_interval - 0.75


def test_after_a_long_outage_a_beat_is_back_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def away() -> Store:
        raise OperationalError("the database is away")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 100:
            beat.stop()

    beat = Beat(away, Steps(make_job))
    monkeypatch.setattr(beat, "_sleep", pause)
    beat.run()
    assert LAST_RETRY_SECONDS / 2 <= pauses[-1] <= LAST_RETRY_SECONDS


def test_a_stop_ends_the_pause(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    beat, asleep = Beat(lambda: store, Steps(make_job), max_interval=3600.0), threading.Event()
    sleep = beat._sleep

    def pause(seconds: float) -> None:
        asleep.set()
        sleep(seconds)

    monkeypatch.setattr(beat, "_sleep", pause)
    beat.start()
    thread = beat._thread
    beat.start()
    assert beat._thread is thread is not None
    assert asleep.wait(60)
    beat.stop()
    assert not thread.is_alive()


def test_it_tells_of_the_jobs_that_are_written(store: Store) -> None:
    """Of each once, when it is there: monitors and receivers of signals look at it."""
    told: list[str] = []

    def published(jobs: Sequence[NewJob]) -> None:
        told.extend(job.id for job in jobs)
        assert all(count(store, f"id = '{job.id}'") == 1 for job in jobs)

    add(store, misfire="all")
    beat = Beat(lambda: store, Steps(make_job), published=published)
    settle(beat, NOON)
    assert told == []
    settle(beat, NOON + timedelta(minutes=2))
    settle(beat, NOON + timedelta(minutes=3))
    assert told == [job_id("tick", due) for due in minutes(1, 2, 3)]


def test_workers_are_told_when_they_can_see_the_jobs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is told before finds nothing yet, and sleeps again."""
    there: list[int] = []
    monkeypatch.setattr(store, "wake", lambda: there.append(count(store)))
    add(store)
    settle(new_beat(store), NOON)
    settle(new_beat(store), NOON + timedelta(minutes=1))
    assert there == [1]


def test_it_tells_of_each_job_of_a_workflow(store: Store) -> None:
    def make(row: ScheduleRow, due: datetime, id: str) -> Workflow:
        return Workflow.of([new_job(id), new_job("next")], [Edge(id, "next")])

    told: list[str] = []
    add(store)
    beat = Beat(lambda: store, Steps(make), published=lambda jobs: told.extend(job.id for job in jobs))
    settle(beat, NOON)
    settle(beat, NOON + timedelta(minutes=1))
    assert told == [job_id("tick", minutes(1)[0]), "next"]


@pytest.mark.parametrize("trouble", [OperationalError, RuntimeError])
def test_trouble_is_told_once_and_so_is_its_end(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: type[Exception]
) -> None:
    """Each time anew, with short pauses first; a bug ends no beat, either."""
    answers, pauses = iter([False, False, True, True, False, True, True]), list[float]()

    def answer() -> Store:
        if next(answers):
            return store
        raise trouble("the database is away")

    beat = Beat(answer, Steps(make_job))

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 7:
            beat.stop()

    monkeypatch.setattr(beat, "_sleep", pause)
    with caplog.at_level("WARNING", logger="dbqueue.beat"):
        beat.run()
    assert ["Trying again" in each for each in caplog.messages] == [True, False, True, False]
    assert "The database answers again" in caplog.messages[1]
    first, second, after = pauses[0], pauses[1], pauses[4]
    assert all(FIRST_RETRY_SECONDS / 2 <= each <= FIRST_RETRY_SECONDS for each in (first, after))
    assert FIRST_RETRY_SECONDS <= second <= 2 * FIRST_RETRY_SECONDS


def test_the_settings_become_rows_once_the_database_answers(store: Store) -> None:
    """Not only where it does so at the start, and once: a change that somebody makes later is not undone."""
    tries: list[int] = []

    def prepare(store: Store) -> None:
        tries.append(len(tries))
        if len(tries) == 1:
            raise OperationalError("the database is away")

    beat = Beat(lambda: store, Steps(make_job), prepare=prepare)
    with pytest.raises(OperationalError):
        beat.turn(now=NOON)
    for _ in range(2):
        beat.turn(now=NOON)
    assert len(tries) == 2
