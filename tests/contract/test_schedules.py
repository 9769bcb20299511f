"""The table of schedules: each due time fires once, whoever looks, and the table may be edited meanwhile."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest

from dbqueue.errors import OperationalError
from dbqueue.jobs import NewJob
from dbqueue.store import schedules
from dbqueue.store.base import Store
from dbqueue.store.schedules import NewSchedule, ScheduleRow, Step
from dbqueue.store.trouble import BRIEF_LOCK_SECONDS, BRIEFEST_LOCK_SECONDS
from dbqueue.worker.beat import BUSY_SECONDS, FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS, Beat
from dbqueue.worker.schedule_steps import SKIP_GRACE_SECONDS, Steps, job_id
from dbqueue.workflows import Edge, Workflow
from tests.stores import count, moment, new_job, opened, run_sql
from tests.waiting import wait_until

NOON = datetime(2031, 5, 5, 12, tzinfo=UTC)
TOKYO = timezone(timedelta(hours=9))
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


# -- the settings -------------------------------------------------------------------------------


def entry(name: str, **fields: Any) -> NewSchedule:
    return NewSchedule(
        **{"name": name, "task": "shop.tick", "schedule": "every 60 seconds", "timezone": "UTC"} | fields
    )


def names(store: Store) -> list[str]:
    return [each.name for each in schedules.read(store)[1]]


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


def test_rows_follow_the_settings(store: Store) -> None:
    add(store, "by hand")
    assert schedules.synchronise(store, "shop", [entry("a", args='["ü", 1e16]'), entry("b")]) == []
    assert names(store) == ["a", "b", "by hand"]
    assert (row(store, "a").args, row(store, "a").source, row(store, "a").app) == ('["ü", 1e16]', "settings", "shop")
    assert schedules.synchronise(store, "shop", [entry("b", schedule="every 5 seconds", options='{"queue":"q"}')]) == []
    assert names(store) == ["b", "by hand"]
    assert (row(store, "b").schedule, row(store, "b").options) == ("every 5 seconds", '{"queue":"q"}')
    schedules.synchronise(store, "shop", [])
    assert names(store) == ["by hand"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task", "shop.tock"),
        ("schedule", "every 5 seconds"),
        ("timezone", "Asia/Tokyo"),
        ("args", "[1]"),
        ("kwargs", '{"a":1}'),
        ("options", '{"queue":"q"}'),
        ("misfire", "all"),
    ],
)
def test_a_row_follows_each_field_of_its_entry(store: Store, field: str, value: str) -> None:
    schedules.synchronise(store, "shop", [entry("a")])
    schedules.synchronise(store, "shop", [entry("a", **{field: value})])
    assert getattr(row(store, "a"), field) == value


def test_a_row_tells_when_it_was_changed_last(store: Store) -> None:
    """By the settings or by a user; a start with the same settings is no change."""
    schedules.synchronise(store, "shop", [entry("theirs")])
    schedules.put(store, entry("ours"), enabled=True)

    def changed() -> list[str]:
        """Since the last call."""
        with store.connect() as connection:
            query = "SELECT name FROM dbqueue_schedules WHERE updated_at > '2021-01-01' ORDER BY name"
            found = list(connection.exec_driver_sql(query).scalars())
        run_sql(store, "UPDATE dbqueue_schedules SET updated_at = '2020-01-01 00:00:00.000'")
        return found

    changed()
    schedules.synchronise(store, "shop", [entry("theirs")])
    assert changed() == []
    schedules.synchronise(store, "shop", [entry("theirs", schedule="every 5 seconds")])
    assert changed() == ["theirs"]
    schedules.put(store, entry("ours", schedule="every 5 seconds"), enabled=True)
    assert changed() == ["ours"]
    schedules.set_enabled(store, ["ours"], enabled=False)
    assert changed() == ["ours"]


def test_what_runs_goes_on_when_the_settings_are_the_same(store: Store) -> None:
    beat = new_beat(store)
    schedules.synchronise(store, "shop", [entry("tick")])
    settle(beat, NOON)
    settle(beat, NOON + timedelta(seconds=61))
    schedules.set_enabled(store, ["tick"], enabled=False)
    schedules.set_enabled(store, ["tick"], enabled=True)
    settle(beat, NOON + timedelta(seconds=62))
    before = row(store)
    schedules.synchronise(store, "shop", [entry("tick")])
    assert row(store) == before
    schedules.set_enabled(store, ["tick"], enabled=False)
    schedules.synchronise(store, "shop", [entry("tick", schedule="every 2 seconds")])
    assert not row(store).enabled  # a pause holds through a deployment


def test_names_of_others_are_left_to_them(store: Store) -> None:
    add(store, "mine", schedule="every 1 hour")
    schedules.synchronise(store, "shop", [entry("a")])
    assert schedules.synchronise(store, "mail", [entry("a", task="mail.send"), entry("mine"), entry("c")]) == [
        "a",
        "mine",
    ]
    assert names(store) == ["a", "c", "mine"]
    assert (row(store, "a").task, row(store, "mine").schedule) == ("shop.tick", "every 1 hour")
    schedules.synchronise(store, "mail", [])
    assert names(store) == ["a", "mine"]
    run_sql(store, "UPDATE dbqueue_schedules SET app = 'mail' WHERE name = 'mine'")  # by plain SQL, which may
    schedules.synchronise(store, "mail", [])
    assert names(store) == ["a", "mine"]


def test_a_row_of_the_settings_is_not_a_users_to_change_or_remove(store: Store) -> None:
    schedules.synchronise(store, "shop", [entry("a")])
    before = row(store, "a")
    assert not schedules.put(store, entry("a", task="other"), enabled=False)
    assert not schedules.remove(store, "a")
    assert row(store, "a") == before
    assert schedules.put(store, entry("mine"), enabled=True)
    assert schedules.put(store, entry("mine", task="other"), enabled=False)
    assert (row(store, "mine").task, row(store, "mine").enabled) == ("other", False)
    assert schedules.remove(store, "mine")
    assert names(store) == ["a"]


def test_two_applications_start_at_once(store: Store, in_threads: Callable[..., None]) -> None:
    entries = [entry(f"e{number}") for number in range(20)]
    # In whatever order each has its entries: else they would wait for each other in turn.
    orders = [entries, entries[::-1]] * (RACERS // 2)
    in_threads(*(lambda order=order: schedules.synchronise(store, "shop", order) for order in orders))
    assert len(names(store)) == 20


@pytest.fixture
def in_threads() -> Callable[..., None]:
    def run(*actions: Callable[[], object]) -> None:
        errors: list[BaseException] = []

        def guarded(action: Callable[[], object]) -> None:
            try:
                action()
            except BaseException as error:  # noqa: BLE001 - shown by the test
                errors.append(error)

        threads = [threading.Thread(target=guarded, args=[action]) for action in actions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert errors == []

    return run


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
