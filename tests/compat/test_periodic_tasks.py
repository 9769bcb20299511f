"""Celery's page "Periodic Tasks" (docs.celeryq.dev/en/stable/userguide/periodic-tasks.html), example by example.

Where the page calls `test.s("hello")`, a signature stands here as what it is: a mapping with a task's
name, arguments and options.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue, group, signals
from dbqueue.errors import ImproperlyConfigured, PayloadTooLarge
from dbqueue.schedules import crontab, schedule, solar
from dbqueue.services.beats import entries, make_beat
from dbqueue.store import queries, schedules
from dbqueue.store.events import Reader
from dbqueue.store.schedules import NewSchedule, ScheduleRow
from dbqueue.testing import drain
from dbqueue.worker.beat import MAX_INTERVAL_SECONDS
from tests.stores import row, run_sql
from tests.waiting import wait_until

MIDNIGHT = datetime(2026, 6, 1, tzinfo=UTC)
"""A Monday."""


def signature(task: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"task": task.name, "args": args, "kwargs": kwargs, "options": {}}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[DBQueue]:
    # "Entries": the example's application.
    app = DBQueue("tasks", broker=f"sqlite:///{tmp_path / 'jobs.db'}", set_as_current=False)

    @app.task(name="tasks.test")
    def test(arg: str) -> None:
        print(arg)  # noqa: T201 - the page's own

    @app.task(name="tasks.add")
    def add(x: int, y: int) -> int:
        return x + y

    yield app
    app.close()


def by_name(app: DBQueue) -> dict[str, NewSchedule]:
    return {entry.name: entry for entry in entries(app)}


def rows(app: DBQueue) -> dict[str, ScheduleRow]:
    return {row.name: row for row in schedules.read(app.database.store)[1]}


def test_entries_from_on_after_configure(app: DBQueue) -> None:
    calls: list[Any] = []

    @app.on_after_configure.connect
    def setup_periodic_tasks(sender: DBQueue, **kwargs: Any) -> None:
        calls.append(kwargs["source"])
        test = sender.tasks["tasks.test"]
        # Calls test('hello') every 10 seconds.
        sender.add_periodic_task(10.0, signature(test, "hello"), name="add every 10")
        # Calls test('hello') every 30 seconds; an explicit name, to avoid this task replacing the previous one.
        sender.add_periodic_task(30.0, signature(test, "hello"), name="add every 30")
        # Calls test('world') every 30 seconds
        sender.add_periodic_task(30.0, signature(test, "world"), expires=10)
        # Executes every Monday morning at 7:30 a.m.
        sender.add_periodic_task(crontab(hour=7, minute=30, day_of_week=1), signature(test, "Happy Mondays!"))

    found = by_name(app)
    assert {name: (entry.schedule, entry.args, entry.options) for name, entry in found.items()} == {
        "add every 10": ("every 10 seconds", '["hello"]', "{}"),
        "add every 30": ("every 30 seconds", '["hello"]', "{}"),
        "tasks.test('world')": ("every 30 seconds", '["world"]', '{"expires":10}'),
        "tasks.test('Happy Mondays!')": ("30 7 * * 1", '["Happy Mondays!"]', "{}"),
    }
    assert list(app.conf.beat_schedule) == list(found)  # "will add the entry to the beat_schedule setting"
    by_name(app)
    assert calls == [app.conf]  # once


def test_arguments_and_options_of_a_call_and_of_its_signature(app: DBQueue) -> None:
    """As where a signature is called: what is given then stands first, or goes before what has the same name."""
    sig = app.tasks["tasks.add"].signature((2,), {"z": 3, "w": 4}, queue="slow", priority=1)
    app.add_periodic_task(60, sig, args=(1,), kwargs={"w": 5}, name="both", priority=2)
    entry = by_name(app)["both"]
    assert (entry.args, entry.kwargs) == ("[1,2]", '{"z":3,"w":5}')
    assert entry.options == '{"queue":"slow","priority":2}'


def test_what_is_linked_to_a_call_is_called(app: DBQueue, caplog: pytest.LogCaptureFixture) -> None:
    """As options of the entry, of its signature, and of a canvas; on each run anew."""

    @app.task(name="tasks.fail")
    def fail() -> None:
        raise ValueError("bad")

    told: list[str] = []
    note = app.task(name="tasks.note")(told.append)
    test = app.tasks["tasks.test"]
    app.add_periodic_task(60, test.s("x").set(link=note.si("linked")), name="signature")
    app.add_periodic_task(60, test.s("x"), name="options", link=note.si("option"))
    app.add_periodic_task(60, (test.si("x") | fail.si()).on_error(note.si("chain")), name="chain")
    app.add_periodic_task(60, group(fail.si(), test.si("x")), name="group", link_error=note.si("group"))
    app.conf.beat_schedule["setting"] = {
        "task": "tasks.fail",
        "schedule": 60,
        "options": {"link_error": note.si("set")},
    }
    beat = make_beat(app)
    for minute in range(3):
        while beat.turn(now=MIDNIGHT + timedelta(minutes=minute)) == 0.0:
            pass
    assert caplog.messages == []
    drain(app)
    assert sorted(told) == sorted(["linked", "option", "chain", "group", "set"] * 2)


def test_entries_from_on_after_finalize(app: DBQueue) -> None:
    order: list[str] = []

    @app.on_after_finalize.connect
    def later(sender: DBQueue, **kwargs: Any) -> None:
        order.append("finalize")
        name = sender.add_periodic_task(60, sender.tasks["tasks.add"], args=(1,), kwargs={"y": 2}, queue="slow")
        assert name == "tasks.add(1, y=2)"

    @app.on_after_configure.connect
    def first(sender: DBQueue, **kwargs: Any) -> None:
        order.append("configure")

    app.import_tasks()  # what a worker does at its start
    assert order == ["configure", "finalize"]
    entry = by_name(app)["tasks.add(1, y=2)"]
    assert (entry.task, entry.args, entry.kwargs, entry.options) == ("tasks.add", "[1]", '{"y":2}', '{"queue":"slow"}')


def test_entries_without_a_handler_survive_the_settings(app: DBQueue) -> None:
    app.add_periodic_task(5, app.tasks["tasks.add"], (1, 2), name="early")
    app.conf.beat_schedule = {"other": {"task": "tasks.add", "schedule": 1}}
    assert set(by_name(app)) == {"early", "other"}


def test_the_setting(app: DBQueue) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the setting is in effect: no warning
        app.conf.beat_schedule = {
            "add-every-30-seconds": {"task": "tasks.add", "schedule": 30.0, "args": (16, 16)},
        }
        app.conf.timezone = "UTC"
    make_beat(app).turn(now=MIDNIGHT)
    row = rows(app)["add-every-30-seconds"]
    # "the first task will be sent 30 seconds after beat starts, and then every 30 seconds"
    assert row.next_due_at == MIDNIGHT + timedelta(seconds=30)
    beat = make_beat(app)
    for _ in range(3):
        beat.turn(now=MIDNIGHT + timedelta(seconds=30))
    from dbqueue.store import queries

    (job,) = queries.find_jobs(app.database.store)
    assert (job.task, job.args, job.queue) == ("tasks.add", "[16,16]", "celery")


def test_a_change_of_the_time_zone_resets_the_schedule(app: DBQueue) -> None:
    app.conf.beat_schedule = {"morning": {"task": "tasks.add", "schedule": crontab(0, 7)}}
    make_beat(app).turn(now=MIDNIGHT)
    assert rows(app)["morning"].next_due_at == MIDNIGHT + timedelta(hours=7)
    app.conf.timezone = "Europe/London"
    make_beat(app).turn(now=MIDNIGHT)
    assert rows(app)["morning"].next_due_at == MIDNIGHT + timedelta(hours=6)


def test_the_settings_of_a_beat(app: DBQueue) -> None:
    """For an entry that names no zone, and for what a crontab may be late: where no policy says more."""
    assert make_beat(app).max_interval == MAX_INTERVAL_SECONDS
    app.conf.update(timezone="Europe/Oslo", beat_cron_starting_deadline=60, beat_max_loop_interval=7)
    run_sql(
        app.database.store,
        "INSERT INTO dbqueue_schedules (name, task, schedule) VALUES ('nightly', 'elsewhere.count', '0 3 * * *')",
    )
    beat = make_beat(app)
    assert (beat.max_interval, make_beat(app, max_interval=1).max_interval) == (7, 1)
    beat.turn(now=MIDNIGHT)
    due = MIDNIGHT + timedelta(hours=1)
    assert rows(app)["nightly"].next_due_at == due
    beat.turn(now=due + timedelta(seconds=61))
    assert (rows(app)["nightly"].next_due_at, rows(app)["nightly"].total_run_count) == (due + timedelta(days=1), 0)
    beat.turn(now=due + timedelta(days=1, seconds=59))
    assert rows(app)["nightly"].total_run_count == 1


def test_available_fields(app: DBQueue) -> None:
    app.conf.beat_schedule = {
        "all": {
            "task": "tasks.add",
            "schedule": timedelta(hours=1),
            "args": [1],
            "kwargs": {"y": 2},
            "options": {"expires": 15.0, "routing_key": "slow", "exchange": "x", "priority": 3, "queue": "q"},
            "relative": True,
        }
    }
    beat = make_beat(app)
    beat.turn(now=MIDNIGHT + timedelta(minutes=20))
    assert rows(app)["all"].next_due_at == MIDNIGHT + timedelta(hours=1)  # "by the clock"
    beat.turn(now=MIDNIGHT + timedelta(hours=1))
    from dbqueue.store import queries

    (job,) = queries.find_jobs(app.database.store)
    assert (job.queue, job.priority, job.kwargs) == ("q", 3, '{"y":2}')
    assert job.expires_at is not None
    assert job.expires_at - job.created_at == timedelta(seconds=15)


CRONTABS = [
    (crontab(), "every minute", [0, 1, 2]),
    (crontab(minute=0, hour=0), "daily at midnight", [1440, 2880]),
    (crontab(minute=0, hour="*/3"), "every three hours", [180, 360, 540]),
    (crontab(minute=0, hour="0,3,6,9,12,15,18,21"), "the same", [180, 360, 540]),
    (crontab(minute="*/15"), "every 15 minutes", [15, 30, 45]),
    (crontab(day_of_week="sunday"), "every minute (!) at Sundays", [6 * 1440, 6 * 1440 + 1]),
    (crontab(minute="*", hour="*", day_of_week="sun"), "the same", [6 * 1440, 6 * 1440 + 1]),
    (
        crontab(minute="*/10", hour="3,17,22", day_of_week="thu,fri"),
        "every ten minutes, between 3-4 am, 5-6 pm, 10-11 pm on Thursdays or Fridays",
        [3 * 1440 + 180, 3 * 1440 + 190],
    ),
    (crontab(minute=0, hour="*/2,*/3"), "even hours, and those divisible by three", [120, 180, 240, 360, 480, 540]),
    (crontab(minute=0, hour="*/5"), "hours divisible by 5", [300, 600, 900, 1200, 1440]),
    (crontab(minute=0, hour="*/3,8-17"), "those divisible by 3, and office hours", [180, 360, 480, 540, 600]),
    (crontab(0, 0, day_of_month="2"), "the second day of every month", [1440, 31 * 1440]),
    (crontab(0, 0, day_of_month="2-30/2"), "even numbered days", [1440, 3 * 1440, 5 * 1440]),
    (crontab(0, 0, day_of_month="1-7,15-21"), "the first and third weeks", [n * 1440 for n in (1, 2, 3, 4, 5, 6, 14)]),
    (crontab(0, 0, day_of_month="11", month_of_year="5"), "the eleventh of May", [344 * 1440]),
    (crontab(0, 0, month_of_year="*/3"), "every day of the first month of every quarter", [30 * 1440, 31 * 1440]),
]


@pytest.mark.parametrize(("rule", "meaning", "minutes"), CRONTABS, ids=[repr(each[0]) for each in CRONTABS])
def test_crontab_schedules(rule: crontab, meaning: str, minutes: list[int]) -> None:
    """The table of the page, from midnight of Monday, the first of June."""
    moment = MIDNIGHT if minutes[0] else MIDNIGHT - timedelta(seconds=1)
    found = []
    for _ in minutes:
        due = rule.next_after(moment)
        assert due is not None
        found.append((due - MIDNIGHT) // timedelta(minutes=1))
        moment = due
    assert found == minutes, meaning


def test_solar_schedules(app: DBQueue) -> None:
    pytest.importorskip("ephem")
    from dbqueue.schedules import solar

    app.conf.beat_schedule = {
        # Executes at sunset in Melbourne
        "add-at-melbourne-sunset": {
            "task": "tasks.add",
            "schedule": solar("sunset", -37.81753, 144.96715),
            "args": (16, 16),
        },
    }
    make_beat(app).turn(now=MIDNIGHT)
    due = rows(app)["add-at-melbourne-sunset"].next_due_at
    assert due is not None
    assert due.hour == 7  # five in the afternoon there, in winter


@pytest.mark.parametrize("name", ["is_due", "remaining_estimate"])
def test_a_schedule_class_of_ones_own_is_refused_with_the_reason(app: DBQueue, name: str) -> None:
    """Different on purpose: a schedule is a text in the database, which any beat reads."""
    own = type("MySchedule", (schedule,), {name: lambda self, last_run_at: (True, 1.0)})
    app.conf.beat_schedule = {"mine": {"task": "tasks.add", "schedule": own(30)}}
    with pytest.raises(ImproperlyConfigured, match=r"beat_schedule\['mine'\]: MySchedule has its own is_due"):
        make_beat(app)


def test_the_headers_of_a_firing_are_its_own_beside_those_of_its_entry(app: DBQueue) -> None:
    options = {"headers": {"tenant": 7, "periodic_task_name": "another's"}}
    app.conf.beat_schedule = {"add": {"task": "tasks.add", "schedule": 30.0, "args": (1, 1), "options": options}}
    beat = make_beat(app)
    for seconds in (0, 30):
        beat.turn(now=MIDNIGHT + timedelta(seconds=seconds))
    (job,) = queries.find_jobs(app.database.store)
    headers = row(app.database.store, job.id)["headers"]
    headers = json.loads(headers) if isinstance(headers, str) else headers
    due_at = (MIDNIGHT + timedelta(seconds=30)).isoformat()
    assert headers == {"tenant": 7, "periodic_task_name": "add", "due_at": due_at}


def test_starting_needs_no_single_scheduler(app: DBQueue) -> None:
    """Different on purpose: the page says "ensure only a single scheduler is running"; here any number may."""
    app.conf.beat_schedule = {"add": {"task": "tasks.add", "schedule": 30.0, "args": (1, 1)}}
    beats = [make_beat(app) for _ in range(3)]
    for beat in beats:
        beat.turn(now=MIDNIGHT)
    for beat in beats:
        beat.turn(now=MIDNIGHT + timedelta(seconds=30))
    assert rows(app)["add"].total_run_count == 1


def test_each_firing_is_a_job_whatever_id_the_options_name(app: DBQueue) -> None:
    """Different on purpose: in Celery all firings have that id, and so one result; here they would be one job."""
    app.conf.beat_schedule = {
        "add": {"task": "tasks.add", "schedule": 30.0, "args": (1, 1), "options": {"task_id": "one"}}
    }
    beat = make_beat(app)
    for number in range(3):
        beat.turn(now=MIDNIGHT + timedelta(seconds=30 * number))
    jobs = queries.find_jobs(app.database.store, tasks=["tasks.add"])
    assert len({job.id for job in jobs} - {"one"}) == 2
    by_hand = [app.schedules.run("add") for _ in range(2)]
    assert len({job.id for job in jobs} | {result.id for result in by_hand} - {"one"}) == 4
    assert [result.state for result in by_hand] == ["PENDING"] * 2


@pytest.mark.parametrize("back", [timedelta(minutes=1), timedelta(hours=1), timedelta(days=3)])
def test_a_clock_that_is_put_back(app: DBQueue, back: timedelta, caplog: pytest.LogCaptureFixture) -> None:
    """No due time fires twice, and an interval does not wait until the clock has caught up. Celery's beat has no such
    clock: it is by its own host's, and by the monotonic one between two looks."""
    app.conf.beat_schedule = {
        "often": {"task": "tasks.add", "schedule": 10.0, "args": (1, 1)},
        "each minute": {"task": "tasks.add", "schedule": crontab(), "args": (2, 2)},
        "full": {"task": "tasks.add", "schedule": timedelta(minutes=1), "relative": True, "args": (3, 3)},
    }
    beats = [make_beat(app) for _ in range(2)]

    def run(begin: datetime, seconds: int) -> dict[str, int]:
        before = {name: row.total_run_count for name, row in rows(app).items()}
        for second in range(0, seconds + 1, 5):
            for beat in beats:
                while beat.turn(now=begin + timedelta(seconds=second)) == 0:
                    pass
        return {name: row.total_run_count - before.get(name, 0) for name, row in rows(app).items()}

    assert run(MIDNIGHT, 120) == {"often": 12, "each minute": 2, "full": 2}
    again = MIDNIGHT + timedelta(seconds=121) - back
    little = back == timedelta(minutes=1)  # that is waited out
    assert run(again, 60) == {"often": 0 if little else 6, "each minute": 0, "full": 0}
    assert ("the database's clock was put back" in caplog.text) is not little
    if little:
        assert run(again + timedelta(seconds=60), 60) == {"often": 6, "each minute": 1, "full": 1}
    jobs = queries.find_jobs(app.database.store, tasks=["tasks.add"], limit=1000)
    assert len(jobs) == sum(row.total_run_count for row in rows(app).values()), "each firing is a job"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_app_beat(app: DBQueue, number: signal.Signals) -> None:
    """`app.Beat().run()`, as programs start a beat; the signals of publishing are sent in its process."""
    told: list[tuple[str, str]] = []

    def before(sender: str, headers: dict[str, Any], **kwargs: Any) -> None:
        told.append(("before", sender))
        headers["trace"] = "abc"
        if len(told) > 9:
            beat.stop()  # nobody tells of what is published

    def after(sender: str, headers: dict[str, Any], **kwargs: Any) -> None:
        told.append(("after", sender))
        signal.raise_signal(number)

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    app.conf.task_send_sent_event = True
    app.conf.beat_schedule = {"often": {"task": "tasks.add", "schedule": 0.05, "args": (1, 2)}}
    beat = app.Beat(max_interval=0.05, loglevel="INFO")
    reader = Reader(app.database.store)
    reader.start()
    handler = signal.getsignal(number)
    beat.run()
    assert signal.getsignal(number) is handler
    assert told[:2] == [("before", "tasks.add"), ("after", "tasks.add")]
    (job, *_) = queries.find_jobs(app.database.store, tasks=["tasks.add"])
    assert json.loads(job.headers or "{}")["trace"] == "abc"
    (event, *_) = reader.read()
    assert (event["type"], event["name"], event["args"]) == ("task-sent", "tasks.add", "(1, 2)")


class TestSchedulesInPython:
    """Beyond Celery: entries are made, changed and removed while beats run."""

    def test_made_changed_and_removed(self, app: DBQueue) -> None:
        task = app.task(name="tasks.add")(lambda x, y: x + y)
        made = app.schedules.set("nightly", task, crontab(hour=3, minute=0), (1, 2), options={"queue": "slow"})
        assert (made.task, made.schedule, made.args, made.options) == (
            "tasks.add", crontab(hour=3, minute=0), [1, 2], {"queue": "slow"},
        )  # fmt: skip
        assert (made.enabled, made.from_settings, made.misfire, "nightly" in app.schedules) == (
            True,
            False,
            "once",
            True,
        )
        changed = app.schedules.set("nightly", "tasks.add", 30, kwargs={"x": 1, "y": 2}, misfire="skip", enabled=False)
        assert (changed.schedule, changed.args, changed.kwargs) == (schedule(30), [], {"x": 1, "y": 2})
        assert (changed.misfire, changed.enabled, changed.timezone) == ("skip", False, "UTC")
        changed = app.schedules.set("nightly", task, 30, kwargs={"x": 1, "y": 2}, timezone="Asia/Tokyo", enabled=False)
        assert changed.timezone == "Asia/Tokyo"
        assert app.schedules.resume("nightly", "absent") == {"nightly"}
        assert [each.name for each in app.schedules] == ["nightly"]
        result = app.schedules.run("nightly")
        assert result.kwargs == {"x": 1, "y": 2}
        assert (app.schedules.remove("nightly"), app.schedules.remove("nightly")) == (True, False)
        assert app.schedules.get("nightly") is None
        with pytest.raises(KeyError):
            app.schedules.run("nightly")

    def test_a_beat_that_runs_sees_it(self, app: DBQueue) -> None:
        beat = app.Beat(max_interval=0.05)
        thread = threading.Thread(target=beat.run)
        thread.start()
        try:
            app.schedules.set("often", "tasks.add", 0.05, (1, 2))

            def runs() -> int:
                found = app.schedules.get("often")
                return found.total_run_count if found else 0

            wait_until(lambda: runs() >= 2)
            app.schedules.pause("often")
            wait_until(lambda: app.schedules.get("often").next_due_at is None)  # type: ignore[union-attr]
            count = runs()
            app.schedules.set("often", "tasks.add", 0.05, (1, 2))
            wait_until(lambda: runs() > count)
        finally:
            beat.stop()
            thread.join()

    def test_what_the_settings_name_is_theirs(self, app: DBQueue) -> None:
        app.conf.beat_schedule = {"theirs": {"task": "tasks.add", "schedule": 60}}
        make_beat(app).turn()
        with pytest.raises(ValueError, match="belongs to the settings"):
            app.schedules.set("theirs", "tasks.add", 30)
        with pytest.raises(ValueError, match="belongs to the settings"):
            app.schedules.remove("theirs")
        assert app.schedules.pause("theirs") == {"theirs"}
        found = app.schedules.get("theirs")
        assert found is not None
        assert (found.from_settings, found.enabled) == (True, False)

    def test_names_are_given_one_by_one(self, app: DBQueue) -> None:
        for change in (app.schedules.pause, app.schedules.resume):
            with pytest.raises(TypeError, match=r"one by one, as text, not \['theirs'\]"):
                change(["theirs"])  # type: ignore[arg-type]

    def test_what_cannot_work_is_refused(self, app: DBQueue) -> None:
        for schedule_, options, error in (
            ("sometimes", {}, ValueError),
            (30, {"misfire": "never"}, ValueError),
            (30, {"args": "text"}, TypeError),
            (30, {"args": {"x": 1}}, TypeError),
            (30, {"args": ["x" * app.conf.max_payload_bytes]}, PayloadTooLarge),
            (object(), {}, TypeError),
        ):
            with pytest.raises(error):
                app.schedules.set("wrong", "tasks.add", schedule_, **options)
        with pytest.raises(ValueError, match="'task' is missing"):
            app.schedules.set("wrong", "", 30)
        for name in ("", "a\0b", "half \ud800", "two\nlines", "x" * 256, 5, None):
            with pytest.raises(
                ValueError, match="the name of an entry is a text of 1 to 255 printable characters in one"
            ):
                app.schedules.set(name, "tasks.add", 30)  # type: ignore[arg-type]
        for task in ("a\0b", "x" * 256, 5):
            with pytest.raises(ValueError, match="the name of a task is a text"):
                app.schedules.set("wrong", task, 30)
        assert list(app.schedules) == []
        assert 5 not in app.schedules

    def test_a_call_that_is_long_gives_its_entry_a_name_that_is_not(self, app: DBQueue) -> None:
        add = app.signature("tasks.add")
        app.add_periodic_task(30, add, name="毎日\u3000集計")  # of a space that is not printable
        names = {app.add_periodic_task(30, add, args=("x" * 5000, last)) for last in (1, 2)}
        assert {len(name) for name in names} == {255}
        make_beat(app).turn()
        assert {each.name for each in app.schedules} == names | {"毎日\u3000集計"}

    def test_what_cannot_be_read_here_is_shown_and_planned_elsewhere(
        self, app: DBQueue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A package is missing where the beat runs: one that starts when it is there plans the entry."""
        pytest.importorskip("ephem")
        app.schedules.set("evening", "tasks.add", "solar sunset 59.91 10.75")
        app.schedules.set("often", "tasks.add", 30)
        with monkeypatch.context() as without:
            without.setitem(sys.modules, "ephem", None)
            make_beat(app).turn()
            evening, often = app.schedules
            assert (evening.schedule, evening.next_due_at) == (None, None)
            assert "needs the package ephem" in (evening.problem or "")
            assert often.next_due_at is not None
        make_beat(app).turn()
        (evening, again) = app.schedules
        assert (evening.schedule, evening.problem) == (solar("sunset", 59.91, 10.75), None)
        assert evening.next_due_at is not None
        assert again == often
