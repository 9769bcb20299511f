"""Beats beside each other, and beside somebody's lock: each due time fires once, and no entry waits for another."""

from __future__ import annotations

import multiprocessing
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest

from dbqueue.jobs import NewJob
from dbqueue.store import schedules
from dbqueue.store.base import Store
from dbqueue.store.schedules import ScheduleRow, Step
from dbqueue.store.trouble import BRIEF_LOCK_SECONDS, BRIEFEST_LOCK_SECONDS
from dbqueue.worker.beat import BUSY_SECONDS, Beat
from dbqueue.worker.beat.steps import Steps
from tests.contract.schedules import NOON, RACERS, add, fired, make_job, minutes, new_beat, row, settle
from tests.stores import opened, run_sql
from tests.waiting import wait_until


def test_a_row_that_another_beat_holds_is_passed_over(store: Store) -> None:
    if store.dialect == "sqlite":
        pytest.skip("a beat waits for the file's one lock, and then finds the row moved")
    add(store)
    settle(new_beat(store), NOON)
    later = NOON + timedelta(minutes=1)
    with store.connect() as connection:
        import sqlalchemy as sa

        connection.execute(sa.text("SELECT * FROM dbqueue_schedules FOR UPDATE"))
        assert new_beat(store).turn(now=later) == BUSY_SECONDS
        assert fired(store) == []
    settle(new_beat(store), later)
    assert fired(store) == minutes(1)


def test_an_entry_that_waits_for_somebody_s_lock_keeps_no_other_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An application has enqueued a call of the same unique key, and its transaction is still open."""
    if store.dialect == "sqlite":
        pytest.skip("there is one lock, and nothing else can be written meanwhile")

    def make_keyed(row: ScheduleRow, due: datetime, id: str) -> NewJob:
        return make_job(row, due, id)._replace(unique_key="k" if row.name == "a" else None)

    monkeypatch.setattr("dbqueue.worker.beat.PUT_OFF_SECONDS", 0.1)
    for name in ("a", "b"):
        add(store, name)
    beat, later = Beat(lambda: store, Steps(make_keyed)), NOON + timedelta(minutes=1)
    settle(beat, NOON)
    with store.connect() as connection:
        connection.exec_driver_sql("INSERT INTO dbqueue_unique_keys (key, job_id) VALUES ('k', 'rival')")
        for _ in range(2):
            assert settle(beat, later) <= 0.1, "it sleeps no longer than until the next try"
        assert (row(store, "a").total_run_count, row(store, "b").total_run_count) == (0, 1)
        connection.rollback()
        wait_until(lambda: (beat.turn(now=later), row(store, "a").total_run_count)[1] == 1, what="its firing")
    assert caplog.text.count("Entry a waits for what somebody's transaction has locked") == 1


def test_an_entry_that_waits_is_known_to_while_another_beat_has_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one may be waiting for the same lock. A single one that waits is given its time again and again."""
    if store.dialect == "sqlite":
        pytest.skip("there is one lock, and nothing else can be written meanwhile")
    patience: list[float] = []
    advance = schedules.advance

    def counted(*arguments: Any, lock_seconds: float, **options: Any) -> Step | None:
        patience.append(lock_seconds)
        return advance(*arguments, lock_seconds=lock_seconds, **options)

    monkeypatch.setattr(schedules, "advance", counted)
    monkeypatch.setattr("dbqueue.worker.beat.PUT_OFF_SECONDS", 0.0)
    add(store)
    beat = Beat(lambda: store, Steps(lambda *call: make_job(*call)._replace(unique_key="k")))
    settle(beat, NOON)
    for taken in (False, True, False):
        with store.connect() as connection:
            connection.exec_driver_sql("INSERT INTO dbqueue_unique_keys (key, job_id) VALUES ('k', 'rival')")
            if taken:
                connection.exec_driver_sql("SELECT FROM dbqueue_schedules FOR UPDATE")
            assert beat.turn(now=NOON + timedelta(minutes=1)) == (BUSY_SECONDS if taken else 0.0)
            connection.rollback()
    assert caplog.text.count("waits for what somebody's transaction has locked") == 1
    assert set(patience) == {BRIEF_LOCK_SECONDS}


def test_many_entries_that_wait_for_somebody_s_lock_keep_no_other_waiting(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each turn ends with the first of them, and they come last: what else has become due is at most a try late."""
    if store.dialect == "sqlite":
        pytest.skip("there is one lock, and nothing else can be written meanwhile")
    patience: list[float] = []
    advance = schedules.advance

    def counted(store: Store, name: str, *arguments: Any, lock_seconds: float, **options: Any) -> Step | None:
        if name != "free":
            patience.append(lock_seconds)
        return advance(store, name, *arguments, lock_seconds=lock_seconds, **options)

    def make_keyed(row: ScheduleRow, due: datetime, id: str) -> NewJob:
        return make_job(row, due, id)._replace(unique_key=None if row.name == "free" else "k")

    monkeypatch.setattr(schedules, "advance", counted)
    monkeypatch.setattr("dbqueue.worker.beat.PUT_OFF_SECONDS", 0.0)  # so that all are always due
    names = [f"locked{number}" for number in range(6)]
    for name in [*names, "free"]:
        add(store, name)
    beat = Beat(lambda: store, Steps(make_keyed))
    settle(beat, NOON)
    patience.clear()
    with store.connect() as connection:
        connection.exec_driver_sql("INSERT INTO dbqueue_unique_keys (key, job_id) VALUES ('k', 'rival')")
        for number in range(1, 31):
            before = len(patience)
            assert beat.turn(now=NOON + timedelta(minutes=1)) == 0.0
            assert len(patience) <= before + 1
            if number == 20:  # by now all have been met
                assert row(store, "free").total_run_count == 1
        for minute in (2, 3):
            beat.turn(now=NOON + timedelta(minutes=minute))
            assert row(store, "free").total_run_count == minute
    assert patience == [BRIEF_LOCK_SECONDS, *[BRIEFEST_LOCK_SECONDS] * (len(patience) - 1)]
    for name in names:  # what waits no more is not counted as waiting
        run_sql(store, "DELETE FROM dbqueue_schedules WHERE name = :name", name=name)
    beat.turn(now=NOON + timedelta(minutes=3))
    assert not beat._put_off


@pytest.mark.parametrize("misfire", schedules.MISFIRES)
def test_a_beat_that_saw_the_row_before_another_fired_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, misfire: str
) -> None:
    """Under the lock it is no longer due: nothing is sent before its time, and no due time is passed over."""
    add(store, misfire=misfire)
    settle(new_beat(store), NOON)
    seen = schedules.read(store, now=minutes(1)[0])
    settle(new_beat(store), minutes(1)[0])
    with monkeypatch.context() as late:
        late.setattr(schedules, "read", lambda *_, **__: seen)
        assert new_beat(store).turn(now=minutes(1)[0]) == BUSY_SECONDS
    after = row(store)
    assert (fired(store), after.next_due_at, after.total_run_count) == (minutes(1), minutes(2)[0], 1)


def test_beats_in_threads_fire_each_due_time_once(store: Store, database_url: str) -> None:
    for number in range(5):
        add(store, f"tick{number}", f"every {number + 1} seconds", misfire="all")
    settle(new_beat(store), NOON)
    start, errors = threading.Barrier(RACERS), list[BaseException]()

    def race() -> None:
        try:
            with opened(database_url) as mine:
                beat = new_beat(mine)
                start.wait(30)
                for second in range(1, 41):
                    settle(beat, NOON + timedelta(seconds=second))
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=race) for _ in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    expected = sorted(NOON + timedelta(seconds=s) for n in range(1, 6) for s in range(n, 41, n))
    assert fired(store) == expected
    assert sum(each.total_run_count for each in schedules.read(store)[1]) == len(expected)


def race_in_process(url: str, start: Any) -> None:
    with opened(url) as store:
        beat = new_beat(store)
        start.wait(60)
        for second in range(1, 31):
            settle(beat, NOON + timedelta(seconds=second))


def test_beats_in_processes_fire_each_due_time_once(store: Store, database_url: str) -> None:
    add(store, "tick", "every 1 second", misfire="all")
    add(store, "tock", "every 2 seconds", misfire="all")
    settle(new_beat(store), NOON)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(RACERS)
    racers = [context.Process(target=race_in_process, args=(database_url, start)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(120)
    assert [racer.exitcode for racer in racers] == [0] * RACERS
    assert fired(store) == sorted(NOON + timedelta(seconds=s) for n in (1, 2) for s in range(n, 31, n))
    assert sum(each.total_run_count for each in schedules.read(store)[1]) == 45  # a job made twice would count twice
