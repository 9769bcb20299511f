"""The table of schedules: when a row fires, and what becomes of firings that were missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from dbqueue.store import schedules
from dbqueue.store.base import Store
from dbqueue.store.schedules import ScheduleRow, Step
from dbqueue.worker.beat import Beat
from dbqueue.worker.beat.steps import SKIP_GRACE_SECONDS, Steps, job_id
from dbqueue.workflows import Edge, Workflow
from tests.contract.schedules import NOON, add, fired, make_job, minutes, new_beat, row, settle
from tests.stores import count, new_job, run_sql

TOKYO = timezone(timedelta(hours=9))


def test_a_row_of_plain_sql_is_planned_and_fires(store: Store) -> None:
    add(store, args='["ü"]')
    beat = new_beat(store)
    assert settle(beat, NOON) == pytest.approx(beat.max_interval, abs=0.5)
    assert row(store).next_due_at == NOON + timedelta(minutes=1)
    assert fired(store) == []
    assert settle(beat, NOON + timedelta(seconds=59)) <= 1.0
    settle(beat, NOON + timedelta(seconds=60))
    assert fired(store) == minutes(1)
    after = row(store)
    assert (after.next_due_at, after.last_due_at, after.total_run_count) == (*reversed(minutes(1, 2)), 1)
    assert count(store, f"id = '{job_id('tick', minutes(1)[0])}' AND CAST(args AS TEXT) = '[\"ü\"]'") == 1


def test_the_clock_is_the_databases(store: Store) -> None:
    add(store, schedule="every 1 hour")
    new_beat(store).turn()
    (left,) = [each.next_due_at for _, rows in [schedules.read(store)] for each in rows]
    assert left is not None
    assert abs(left - datetime.now(UTC) - timedelta(hours=1)) < timedelta(minutes=1)


def test_intervals_do_not_drift(store: Store) -> None:
    add(store)
    beat = new_beat(store)
    settle(beat, NOON)
    for late in (0, 7, 20, 59):  # a beat that comes late moves no due time
        due = row(store).next_due_at
        assert due is not None
        settle(beat, due + timedelta(seconds=late))
    assert fired(store) == minutes(1, 2, 3, 4)


def test_zones_of_rows_and_of_the_application(store: Store) -> None:
    add(store, "theirs", "0 15 * * *", timezone="Europe/Oslo")
    add(store, "ours", "0 15 * * *")
    settle(new_beat(store, zone="America/New_York"), NOON)
    assert row(store, "theirs").next_due_at == NOON + timedelta(hours=1)
    assert row(store, "ours").next_due_at == NOON + timedelta(hours=7)


@pytest.mark.parametrize(("policy", "expected"), [("skip", []), ("once", [180]), ("all", [60, 120, 180])])
def test_missed_firings_by_policy(store: Store, policy: str, expected: list[int]) -> None:
    add(store, schedule="0 * * * *", misfire=policy)
    settle(new_beat(store), NOON)
    settle(new_beat(store), NOON + timedelta(hours=3, minutes=2))
    assert fired(store) == minutes(*expected)
    after = row(store)
    assert (after.next_due_at, after.total_run_count) == (NOON + timedelta(hours=4), len(expected))
    assert after.last_due_at == max(minutes(*expected), default=None)
    settle(new_beat(store), NOON + timedelta(hours=4))
    assert fired(store) == minutes(*expected, 240)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(40, [60]), (SKIP_GRACE_SECONDS, [60]), (SKIP_GRACE_SECONDS + 1, [])]
)
def test_a_firing_that_is_only_late_is_not_skipped(store: Store, seconds: float, expected: list[int]) -> None:
    add(store, schedule="0 * * * *", misfire="skip")
    settle(new_beat(store), NOON)
    settle(new_beat(store), NOON + timedelta(hours=1, seconds=seconds))
    assert fired(store) == minutes(*expected)


def test_all_of_many_missed_firings_in_several_steps(store: Store) -> None:
    add(store, schedule="every 1 second", misfire="all")
    settle(new_beat(store), NOON)
    settle(new_beat(store), NOON + timedelta(seconds=2500))
    assert fired(store) == [NOON + timedelta(seconds=number) for number in range(1, 2501)]


def test_years_of_downtime_are_no_work(store: Store) -> None:
    add(store, schedule="* * * * *")
    settle(new_beat(store), NOON)
    settle(new_beat(store), NOON + timedelta(days=3650))
    assert fired(store) == [NOON + timedelta(days=3650)]


def test_what_is_skipped_is_passed_over_in_one_step(store: Store) -> None:
    add(store, schedule="0 * * * *", misfire="skip")
    settle(new_beat(store), NOON)
    later = NOON + timedelta(days=3650)
    new_beat(store).turn(now=later + timedelta(minutes=30))
    assert (row(store).next_due_at, row(store).last_due_at) == (later + timedelta(hours=1), None)
    assert fired(store) == []


@pytest.mark.parametrize("seconds", [150, 120])
def test_the_deadline_of_crontabs(store: Store, seconds: float) -> None:
    add(store, schedule="* * * * *", misfire="all")
    settle(new_beat(store), NOON)
    settle(new_beat(store, deadline_seconds=seconds), NOON + timedelta(minutes=10))
    assert fired(store) == minutes(8, 9, 10)


def test_the_deadline_is_none_of_intervals(store: Store) -> None:
    """As in Celery, whose `beat_cron_starting_deadline` its intervals do not read."""
    add(store, misfire="all")
    settle(new_beat(store), NOON)
    settle(new_beat(store, deadline_seconds=150), NOON + timedelta(minutes=5))
    assert fired(store) == minutes(1, 2, 3, 4, 5)


def test_a_step_is_all_or_nothing(store: Store) -> None:
    add(store)
    settle(new_beat(store), NOON)

    def fail(row: ScheduleRow, now: datetime) -> Step:
        step = Steps(make_job).step(row, now)
        assert step is not None
        return Step(step.next_due_at, step.planned_from, jobs=(*step.jobs, object()))  # type: ignore[arg-type]

    with pytest.raises(AttributeError):
        schedules.advance(store, "tick", fail, now=NOON + timedelta(minutes=1))
    assert row(store).next_due_at == NOON + timedelta(minutes=1)
    assert fired(store) == []


def test_a_due_time_that_comes_again_is_one_job(store: Store) -> None:
    add(store)
    settle(new_beat(store), NOON)
    settle(new_beat(store), NOON + timedelta(minutes=1))
    run_sql(store, "DELETE FROM dbqueue_schedules")
    add(store, args="[2]")
    settle(new_beat(store), NOON)
    settle(new_beat(store), NOON + timedelta(minutes=1))
    assert fired(store) == minutes(1)
    assert job_id("tick", NOON) == job_id("tick", NOON.astimezone(TOKYO)) != job_id("tock", NOON)


def test_a_due_time_that_comes_again_is_one_workflow(store: Store) -> None:
    def make(row: ScheduleRow, due: datetime, id: str) -> Workflow:
        return Workflow.of([make_job(row, due, id), new_job("next")], [Edge(id, "next")])

    for args in ("[1]", "[2]"):
        add(store, args=args)
        beat = Beat(lambda: store, Steps(make))
        settle(beat, NOON)
        settle(beat, NOON + timedelta(minutes=1))
        assert row(store).total_run_count == 1
        run_sql(store, "DELETE FROM dbqueue_schedules")
    assert (fired(store), count(store)) == (minutes(1), 2)
