"""A row of the schedules that cannot be planned or fired says so, and stops no other."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

import pytest

from dbqueue.errors import OperationalError
from dbqueue.store import schedules
from dbqueue.store.base import Store
from dbqueue.store.schedules import Step
from tests.contract.schedules import NOON, add, fired, minutes, new_beat, row, settle
from tests.stores import run_sql


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"schedule": "every now and then"}, "an interval reads like"),
        ({"schedule": "61 * * * *"}, "minute of a crontab takes numbers from 0 to 59"),
        ({"schedule": "0 0 30 2 *"}, "is never due"),
        ({"schedule": "every 999999999 days"}, "date value out of range"),
        ({"timezone": "Mars/Phobos"}, "no time zone 'Mars/Phobos'"),
        ({"timezone": "America"}, "no time zone 'America'"),  # a folder, where the package tzdata is installed
    ],
)
def test_a_row_that_cannot_be_planned_says_so_and_may_be_corrected(
    store: Store, fields: dict[str, str], problem: str
) -> None:
    add(store, **fields)
    add(store, "good")
    beat = new_beat(store)
    settle(beat, NOON)
    assert problem in (row(store).problem or "")
    settle(beat, NOON + timedelta(minutes=1))
    assert len(fired(store)) == 1
    run_sql(store, "UPDATE dbqueue_schedules SET schedule = 'every 60 seconds', timezone = NULL")
    settle(beat, NOON + timedelta(minutes=2))
    assert row(store).problem is None
    assert row(store).next_due_at == NOON + timedelta(minutes=3)


def test_a_row_whose_job_cannot_be_made_does_not_stop_others(store: Store) -> None:
    add(store, "bad", task="broken")
    add(store, "good")
    beat = new_beat(store)
    settle(beat, NOON)
    settle(beat, NOON + timedelta(minutes=1))
    assert fired(store) == minutes(1)
    bad = row(store, "bad")
    assert (bad.problem, bad.next_due_at) == ("TypeError: no such argument", NOON + timedelta(minutes=2))
    run_sql(store, "UPDATE dbqueue_schedules SET task = 'shop.tick' WHERE name = 'bad'")
    settle(beat, NOON + timedelta(minutes=2))
    assert row(store, "bad").problem is None
    assert fired(store) == minutes(1, 2, 2)


@pytest.mark.parametrize("name", ["\\u0000", "\\ud800"])
def test_a_row_whose_problem_quotes_what_no_text_can_hold_does_not_stop_others(store: Store, name: str) -> None:
    """A step that could not be written would be tried in turn after turn, each of which it ends."""
    add(store, "bad", task="picky", kwargs=f'{{"{name}": 1}}')
    add(store, "good")
    beat = new_beat(store)
    settle(beat, NOON)
    settle(beat, NOON + timedelta(minutes=1))
    assert fired(store) == minutes(1)
    shown = {"\\u0000": "\\x00", "\\ud800": "\\ud800"}[name]
    assert row(store, "bad").problem == f"TypeError: an unexpected keyword argument '{shown}'"
    assert row(store, "bad").next_due_at == NOON + timedelta(minutes=2)


def test_a_start_forgets_no_due_time_of_a_row_with_a_problem(store: Store) -> None:
    """Planned anew is only what could not be planned."""
    add(store, task="broken")
    settle(new_beat(store), NOON)
    settle(new_beat(store), NOON + timedelta(minutes=1))
    assert row(store).problem is not None
    run_sql(store, "UPDATE dbqueue_schedules SET task = 'shop.tick'")
    schedules.reconsider(store)
    settle(new_beat(store), NOON + timedelta(minutes=2))
    assert fired(store) == minutes(2)


def test_a_row_that_the_database_refuses_does_not_stop_others(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their names: the turn ends with the error, and the next takes the rows in another order."""
    advance = schedules.advance

    def refusing(store: Store, name: str, *arguments: Any, **options: Any) -> Step | None:
        if name == "a":
            raise OperationalError("refused")
        return advance(store, name, *arguments, **options)

    for name in ("a", "b"):
        add(store, name)
    settle(new_beat(store), NOON)
    monkeypatch.setattr(schedules, "advance", refusing)
    beat = new_beat(store)
    for _ in range(60):
        with contextlib.suppress(OperationalError):
            beat.turn(now=NOON + timedelta(minutes=1))
    assert (row(store, "a").total_run_count, row(store, "b").total_run_count) == (0, 1)
