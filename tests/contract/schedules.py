"""Schedules by hand: rows as a person inserts them, a beat whose clock is given, and what it has fired."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from dbqueue.jobs import NewJob
from dbqueue.store import schedules
from dbqueue.store.base import Store
from dbqueue.store.schedules import NewSchedule, ScheduleRow
from dbqueue.worker.beat import BUSY_SECONDS, Beat
from dbqueue.worker.beat.steps import Steps
from tests.stores import run_sql

NOON = datetime(2031, 5, 5, 12, tzinfo=UTC)
"""A time at which every test begins: all clocks here are given."""


RACERS = 4


def make_job(row: ScheduleRow, due: datetime, id: str) -> NewJob:
    if row.task == "broken":
        raise TypeError("no such argument")
    if row.task == "picky":
        raise TypeError(f"an unexpected keyword argument '{next(iter(json.loads(row.kwargs)))}'")
    return NewJob(id, row.task, "celery", row.args, row.kwargs, headers=json.dumps({"due_at": due.isoformat()}))


def new_beat(store: Store, **options: Any) -> Beat:
    return Beat(lambda: store, Steps(make_job, **options))


def add(store: Store, name: str = "tick", schedule: str = "every 60 seconds", **fields: Any) -> None:
    """Insert a row with plain SQL, as a person does."""
    values = {"name": name, "task": "shop.tick", "schedule": schedule} | fields
    run_sql(
        store,
        f"INSERT INTO dbqueue_schedules ({', '.join(values)}) VALUES ({', '.join(f':{each}' for each in values)})",
        **values,
    )


def row(store: Store, name: str = "tick") -> ScheduleRow:
    found = schedules.find(store, name)
    assert found is not None
    return found


def settle(beat: Beat, now: datetime) -> float:
    """Turn until nothing more is to be done at this time."""
    deadline = time.monotonic() + 60  # not a number of turns: a rival may have to wait for the processor
    while time.monotonic() < deadline:
        pause = beat.turn(now=now)
        if pause not in (0.0, BUSY_SECONDS):
            return pause
    raise AssertionError("the beat never comes to rest")


def fired(store: Store, task: str = "shop.tick") -> list[datetime]:
    """The due times of the jobs there are."""
    import sqlalchemy as sa

    with store.connect() as connection:
        query = sa.text("SELECT CAST(headers AS TEXT) FROM dbqueue_jobs WHERE task = :task")
        found = connection.execute(query, {"task": task}).scalars().all()
    return sorted(datetime.fromisoformat(json.loads(text)["due_at"]) for text in found)


def minutes(*numbers: float) -> list[datetime]:
    return [NOON + timedelta(minutes=number) for number in numbers]


def entry(name: str, **fields: Any) -> NewSchedule:
    return NewSchedule(
        **{"name": name, "task": "shop.tick", "schedule": "every 60 seconds", "timezone": "UTC"} | fields
    )
