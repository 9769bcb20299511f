"""The table of schedules may be edited while a beat runs: what is changed is planned anew, a pause holds."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from dbqueue.jobs import NewJob
from dbqueue.store import schedules
from dbqueue.store.base import Store
from dbqueue.store.schedules import Step
from tests.contract.schedules import NOON, add, entry, fired, minutes, new_beat, row, settle
from tests.stores import moment, run_sql


def test_an_edit_of_the_schedule_is_planned_anew(store: Store) -> None:
    add(store)
    beat = new_beat(store)
    settle(beat, NOON)
    run_sql(store, "UPDATE dbqueue_schedules SET schedule = '*/5 * * * *'")
    settle(beat, NOON + timedelta(seconds=90))
    assert fired(store) == []  # the minute that had been planned is no due time of the new schedule
    assert row(store).next_due_at == NOON + timedelta(minutes=5)
    run_sql(store, "UPDATE dbqueue_schedules SET timezone = 'Asia/Kolkata', schedule = '0 18 * * *'")
    settle(beat, NOON + timedelta(seconds=91))
    assert row(store).next_due_at == NOON + timedelta(minutes=30)
    run_sql(store, "DELETE FROM dbqueue_schedules")
    settle(beat, NOON + timedelta(days=2))
    assert fired(store) == []


def test_an_interval_that_is_edited_counts_from_its_last_due_time(store: Store) -> None:
    add(store)
    beat = new_beat(store)
    settle(beat, NOON)
    settle(beat, NOON + timedelta(seconds=60))
    run_sql(store, "UPDATE dbqueue_schedules SET schedule = 'every 90 seconds'")
    settle(beat, NOON + timedelta(seconds=80))
    assert row(store).next_due_at == NOON + timedelta(seconds=150)
    run_sql(store, "UPDATE dbqueue_schedules SET schedule = 'every 10 seconds'")
    settle(beat, NOON + timedelta(seconds=85))
    assert row(store).next_due_at == NOON + timedelta(seconds=95)  # that of 70 s is over, and not made up for
    assert fired(store) == minutes(1)


@pytest.mark.parametrize(
    ("edited", "due"),
    [("every 30 seconds", NOON - timedelta(minutes=59.5)), ("* * * * *", NOON + timedelta(minutes=2))],
)
def test_an_edit_while_the_clock_is_put_back(store: Store, edited: str, due: datetime) -> None:
    """An interval does not wait for the clock to catch up, and what has a time of the clock does."""
    add(store)
    beat = new_beat(store)
    settle(beat, NOON)
    settle(beat, NOON + timedelta(minutes=1))
    run_sql(store, "UPDATE dbqueue_schedules SET schedule = :schedule", schedule=edited)
    settle(beat, NOON - timedelta(hours=1))
    assert (row(store).next_due_at, row(store).problem) == (due, None)
    assert fired(store) == minutes(1)


def test_pause_and_resume(store: Store) -> None:
    add(store)
    add(store, "other")
    beat = new_beat(store)
    settle(beat, NOON)
    assert schedules.set_enabled(store, ["tick", "absent"], enabled=False) == {"tick"}
    settle(beat, NOON + timedelta(minutes=5))
    assert row(store).total_run_count == 0
    assert row(store, "other").total_run_count == 1
    schedules.set_enabled(store, ["tick", "other"], enabled=True)
    other = row(store, "other").next_due_at
    assert other is not None
    settle(beat, NOON + timedelta(minutes=5, seconds=30))
    assert row(store).total_run_count == 0  # what passed meanwhile is not made up for
    assert row(store).next_due_at == NOON + timedelta(minutes=6, seconds=30)
    assert row(store, "other").next_due_at == other


def test_a_pause_that_no_beat_has_seen(store: Store) -> None:
    add(store)
    beat = new_beat(store)
    settle(beat, NOON)
    for enabled in (False, True):
        schedules.set_enabled(store, ["tick"], enabled=enabled)
    settle(beat, NOON + timedelta(hours=1))
    assert (row(store).total_run_count, row(store).next_due_at) == (0, NOON + timedelta(hours=1, seconds=60))


@pytest.mark.parametrize("how", ["resumed", "set anew"])
def test_an_entry_that_could_not_fire_is_planned_when_it_is_resumed(store: Store, how: str) -> None:
    """Somebody pauses it, corrects it and resumes it: its problem is no reason to leave it out."""
    add(store, task="broken", timezone="UTC")
    beat = new_beat(store)
    settle(beat, NOON)
    settle(beat, NOON + timedelta(minutes=1))
    assert row(store).problem == "TypeError: no such argument"
    schedules.set_enabled(store, ["tick"], enabled=False)
    settle(beat, NOON + timedelta(minutes=2))
    assert row(store).problem == "TypeError: no such argument"
    if how == "resumed":
        run_sql(store, "UPDATE dbqueue_schedules SET task = 'shop.tick'")
        schedules.set_enabled(store, ["tick"], enabled=True)
    else:
        assert schedules.put(store, entry("tick"), enabled=True)
    settle(beat, NOON + timedelta(minutes=5, seconds=30))
    assert (row(store).next_due_at, row(store).problem) == (NOON + timedelta(minutes=6, seconds=30), None)
    settle(beat, NOON + timedelta(minutes=6, seconds=30))
    assert fired(store) == minutes(6.5)


def test_a_pause_with_plain_sql(store: Store) -> None:
    add(store)
    beat = new_beat(store)
    settle(beat, NOON)
    run_sql(store, "UPDATE dbqueue_schedules SET enabled = false")
    settle(beat, NOON + timedelta(minutes=5))
    run_sql(store, "UPDATE dbqueue_schedules SET enabled = true")
    settle(beat, NOON + timedelta(minutes=9))
    assert fired(store) == []
    assert row(store).next_due_at == NOON + timedelta(minutes=10)


def test_times_of_plain_sql_are_read(store: Store) -> None:
    """A due time that a person writes, in the form of their psql or sqlite3."""
    add(store)
    settle(new_beat(store), NOON)
    run_sql(store, "UPDATE dbqueue_schedules SET next_due_at = '2031-05-05 12:00:10'")
    assert moment(row(store).next_due_at) == NOON + timedelta(seconds=10)
    settle(new_beat(store), NOON + timedelta(seconds=10))
    assert fired(store) == [NOON + timedelta(seconds=10)]


def test_planning_anew_forgets_no_firing(store: Store) -> None:
    """An edit, or a resumption: the next due time is another one, and what has been stays."""
    add(store)
    later = NOON + timedelta(hours=1)
    fired = Step(NOON, "plan", jobs=[NewJob("tick", "shop.tick", "celery")], last_due_at=NOON)
    for step in (fired, Step(later, "another plan")):
        assert schedules.advance(store, "tick", lambda _, __, step=step: step) == step  # type: ignore[misc]
    found = row(store)
    assert (found.next_due_at, found.planned_from) == (later, "another plan")
    assert (found.last_due_at, found.total_run_count) == (NOON, 1)
