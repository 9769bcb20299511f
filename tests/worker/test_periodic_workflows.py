"""Periodic entries whose call is a workflow: each due time is one, whole, and of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue, chain, chord, group, testing
from dbqueue.errors import ImproperlyConfigured
from dbqueue.failpoints import VARIABLE
from dbqueue.result import GroupResult
from dbqueue.services.beats import entries, make_beat
from dbqueue.store import schedules
from dbqueue.worker.beat import BUSY_SECONDS, Beat, steps
from dbqueue.worker.beat.steps import job_id
from tests.stores import count, run_sql
from tests.worker.canvas_tasks import NOTES, make_app, notes

NOON = datetime(2031, 5, 5, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NAME = "each minute"


@pytest.fixture
def noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "notes"
    monkeypatch.setenv(NOTES, str(path))
    return path


@pytest.fixture
def app(database_url: str, noted: Path) -> Iterator[DBQueue]:
    with make_app(database_url) as app:
        yield app


@pytest.fixture
def t(app: DBQueue) -> Any:
    return type("Tasks", (), {name.removeprefix("tasks."): task for name, task in app.tasks.items()})


def settle(beat: Beat, now: datetime) -> None:
    while beat.turn(now=now) in (0.0, BUSY_SECONDS):
        pass


def fire(app: DBQueue, *signatures: Any, times: int = 1, **options: Any) -> None:
    """Have entries of these calls, each minute, and let so many minutes pass."""
    for number, sig in enumerate(signatures):
        app.add_periodic_task(60, sig, name=f"{NAME} {number}", **options)
    beat = make_beat(app)
    for minute in range(times + 1):
        settle(beat, NOON + minute * MINUTE)


def rows(app: DBQueue) -> list[Any]:
    with app.database.store.connect() as connection:
        query = "SELECT id, task, root_id, group_id, workflow_id, status, CAST(headers AS text) FROM dbqueue_jobs"
        return list(connection.execute(sa.text(f"{query} ORDER BY id")))


def edges(app: DBQueue) -> int:
    with app.database.store.connect() as connection:
        return int(connection.scalar(sa.text("SELECT count(*) FROM dbqueue_edges")) or 0)


CALLS: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
    "link": (lambda t: t.add.s(1, 2).set(link=t.record.s()), [[3]]),
    "many links": (lambda t: t.add.s(1, 2).set(link=[t.record.s("a"), t.record.s("b")]), [[3, "a"], [3, "b"]]),
    "a link to a canvas": (lambda t: t.add.s(1, 2).set(link=t.add.s(3) | t.record.s()), [[6]]),
    "link_error": (lambda t: t.fail.s().on_error(t.record.si("told")), [["told"]]),
    "link_error of a success": (lambda t: t.add.s(1, 2).on_error(t.record.si("told")), []),
    "chain": (lambda t: t.add.s(1, 2) | t.add.s(3) | t.record.s(), [[6]]),
    "errback of a chain": (lambda t: (t.add.s(1, 2) | t.fail.s() | t.record.s()).on_error(t.record.si("e")), [["e"]]),
    "link of a chain": (lambda t: (t.add.s(1, 2) | t.add.s(3)).set(link=t.record.s()), [[6]]),
    "group": (lambda t: group(t.record.s(n) for n in range(25)), [[n] for n in range(25)]),
    "errback of a group": (lambda t: group(t.fail.s(), t.fail.s()).set(link_error=t.record.si("e")), [["e"], ["e"]]),
    "chord": (lambda t: chord([t.add.s(1, 1), t.add.s(2, 2)], t.record.s()), [[[2, 4]]]),
    "errback of a chord": (lambda t: chord([t.add.s(1, 1), t.fail.s()], t.tsum.s()).on_error(t.record.si(1)), [[1]]),
    "chunks": (lambda t: t.record.chunks([(1,), (2,), (3,)], 2), [[1], [2], [3]]),
    "a map with a link": (lambda t: t.const.map([]).set(link=t.record.s()), [[[]]]),
}


@pytest.mark.parametrize("case", CALLS)
def test_what_follows_a_periodic_call_follows_each_of_its_runs(app: DBQueue, t: Any, noted: Path, case: str) -> None:
    make, expected = CALLS[case]
    fire(app, make(t), times=2)
    assert notes(noted) == []  # a beat runs nothing
    testing.drain(app)
    assert sorted(notes(noted), key=repr) == sorted(expected * 2, key=repr)
    assert count(app.database.store, "finished_at IS NULL") == 0
    assert all(row.problem is None for row in schedules.read(app.database.store)[1])
    assert not any(row.task in ("celery.chain", "celery.group", "celery.chord", "celery.chunks") for row in rows(app))


def test_each_run_is_a_workflow_of_its_own(app: DBQueue, t: Any) -> None:
    """Whatever ids its signatures have; and each of its jobs tells for which due time it runs."""
    frozen = group(t.add.s(1, 2), t.add.s(3, 4)) | t.tsum.s()
    frozen.freeze()
    named = t.add.s(1, 2).set(task_id="one", link=t.record.s().set(task_id="two"))
    with_headers = t.add.s(1, 2).set(headers={"mine": 1}) | t.record.s().set(headers={"mine": 2})
    fire(app, frozen, named, with_headers, times=3)
    store = app.database.store
    assert not {row.id for row in rows(app)} & {"one", "two", frozen.body.id, *(each.id for each in frozen.tasks.tasks)}
    firsts = {job_id(f"{NAME} {number}", NOON + minute * MINUTE) for number in range(3) for minute in range(1, 4)}
    assert {row.root_id or row.id for row in rows(app)} == firsts | {
        row.id
        for row in rows(app)
        if row.task == "tasks.add" and row.group_id  # of a group, each is a root
    }
    assert Counter(Counter(row.workflow_id for row in rows(app)).values()) == {3: 3, 2: 6}
    assert len({row.group_id for row in rows(app) if row.group_id}) == 3
    due = Counter(json.loads(row[6])["due_at"] for row in rows(app))
    assert due == {(NOON + minute * MINUTE).isoformat(): 7 for minute in range(1, 4)}
    assert Counter(json.loads(row[6]).get("mine") for row in rows(app)) == {None: 15, 1: 3, 2: 3}
    assert count(store) == 21
    assert edges(app) == 3 * (2 + 1 + 1)


def test_many_beats_fire_it_once(app: DBQueue, t: Any, noted: Path, database_url: str) -> None:
    call = t.add.s(1, 2).set(link=t.record.s(), link_error=t.record.si("never"))
    app.add_periodic_task(60, call, name=NAME)
    app.add_periodic_task(60, t.add.s(1, 1) | t.add.s(1) | t.record.s("chain"), name="chain")
    settle(make_beat(app), NOON)
    start, errors = threading.Barrier(4), list[BaseException]()

    def race() -> None:
        try:
            with make_app(database_url) as mine:
                mine.conf.beat_schedule = app.conf.beat_schedule
                beat = make_beat(mine)
                start.wait(60)
                for minute in range(1, 6):
                    settle(beat, NOON + minute * MINUTE)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    threads = [threading.Thread(target=race) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert (count(app.database.store), edges(app)) == (5 * (3 + 3), 5 * (2 + 2))
    testing.drain(app)
    assert Counter(map(tuple, notes(noted))) == {(3,): 5, (3, "chain"): 5}


def test_a_due_time_that_comes_again_is_one_workflow(app: DBQueue, t: Any) -> None:
    """Though the entry is another one by then, and the callbacks of the first are gone."""
    app.add_periodic_task(60, t.fail.s().on_error(t.record.si("told")), name=NAME)
    for args in ([1], [2]):
        settle(make_beat(app), NOON)
        settle(make_beat(app), NOON + MINUTE)
        run_sql(app.database.store, "DELETE FROM dbqueue_schedules")
        app.conf.beat_schedule[NAME]["args"] = args
        assert (count(app.database.store), edges(app)) == (2, 1)
    testing.drain(app)
    run_sql(app.database.store, "DELETE FROM dbqueue_jobs WHERE task = 'tasks.record'")
    settle(make_beat(app), NOON)
    settle(make_beat(app), NOON + MINUTE)
    assert count(app.database.store) == 1


def test_a_large_group_that_comes_again_is_one(app: DBQueue, t: Any) -> None:
    """Nothing but the first one's id says so, which is the due time's."""
    sig = group(t.record.s(n) for n in range(30))
    for _ in range(2):
        app.schedules.set(NAME, sig, 60)
        for minute in range(2):
            settle(make_beat(app), NOON + minute * MINUTE)
        app.schedules.remove(NAME)
    found = rows(app)
    assert len(found) == 30
    assert job_id(NAME, NOON + MINUTE) in {row.id for row in found}
    assert {json.loads(row[6])["due_at"] for row in found} == {(NOON + MINUTE).isoformat()}


CRASHING = """
import json, sys
from datetime import datetime
from dbqueue.services.beats import make_beat
from tests.worker.canvas_tasks import make_app

url, entries, now = json.loads(sys.argv[1])
app = make_app(url)
app.conf.beat_schedule = entries
make_beat(app).turn(now=datetime.fromisoformat(now))
"""


@pytest.mark.parametrize("action", ["kill", "raise"])
def test_a_beat_that_dies_in_its_transaction_leaves_nothing(
    app: DBQueue, t: Any, noted: Path, database_url: str, action: str
) -> None:
    app.add_periodic_task(60, t.add.s(1, 2).set(link=t.record.s()), name="call")
    app.add_periodic_task(60, group(t.add.s(1, 1), t.add.s(2, 2)) | t.record.s(), name="chord")
    settle(make_beat(app), NOON)
    given = json.dumps([database_url, app.conf.beat_schedule, (NOON + MINUTE).isoformat()])
    environment = os.environ | {VARIABLE: f"beat.between={action}@1"}
    root = Path(__file__).parents[2]
    died = subprocess.run([sys.executable, "-c", CRASHING, given], env=environment, cwd=root, timeout=120, check=False)
    assert died.returncode == (-signal.SIGKILL if action == "kill" else 1)
    assert (count(app.database.store), edges(app)) == (0, 0)
    settle(make_beat(app), NOON + MINUTE)
    assert (count(app.database.store), edges(app)) == (5, 3)
    assert [row.total_run_count for row in schedules.read(app.database.store)[1]] == [1, 1]
    testing.drain(app)
    assert sorted(notes(noted), key=repr) == [[3], [[2, 4]]]


def test_what_was_missed_is_enqueued_in_steps(app: DBQueue, t: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workflow counts as the jobs that it has."""
    monkeypatch.setattr(steps, "MAX_JOBS", 4)
    sig = chain(t.add.s(1, 2), t.add.s(3), t.record.s())
    app.conf.beat_schedule = {NAME: {"task": sig.name, "schedule": 60, "kwargs": sig.kwargs, "misfire": "all"}}
    beat = make_beat(app)
    beat.turn(now=NOON)
    for expected, planned in ((2, 3), (4, 5), (5, 6)):
        beat.turn(now=NOON + 5 * MINUTE)
        (row,) = schedules.read(app.database.store)[1]
        assert (row.total_run_count, row.next_due_at) == (expected, NOON + planned * MINUTE)
        assert row.last_due_at == NOON + expected * MINUTE
    assert count(app.database.store) == 15


def test_each_run_is_pruned_whole(app: DBQueue, t: Any) -> None:
    """Once all of it has ended long ago, though nothing joins the calls of a group."""
    fire(app, group(t.const.s(), t.const.s()), t.const.s().set(link=t.record.s()), times=2)
    testing.drain(app)
    store = app.database.store
    session = store.work_session("test")
    try:
        later = datetime.now(UTC) + timedelta(days=3)
        assert session.prune(older_than_seconds=86400, limit=3, now=later) % 2 == 0
        while session.prune(older_than_seconds=86400, limit=100, now=later):
            pass
    finally:
        session.close()
    assert (count(store), edges(app)) == (0, 0)


def test_running_one_now(app: DBQueue, t: Any, noted: Path) -> None:
    callbacks = {"link": t.record.s("linked"), "task_id": "of no run"}
    app.schedules.set("call", t.add, 3600, (1, 2), options=callbacks)
    app.conf.beat_schedule = {}
    for sig, name in ((t.add.s(1, 2) | t.add.s(3), "chain"), (group(t.add.s(1, 1), t.add.s(2, 2)), "group")):
        app.schedules.set(name, sig.name, 3600, kwargs=sig.kwargs)
    results = [app.schedules.run(name) for name in ("call", "call", "chain", "group")]
    testing.drain(app)
    assert [result.get(timeout=10) for result in results] == [3, 3, 6, [2, 4]]
    assert isinstance(results[-1], GroupResult)
    assert notes(noted) == [[3, "linked"]] * 2
    assert {json.loads(row[6])["periodic_task_name"] for row in rows(app)} == {"call", "chain", "group"}


def test_an_entry_of_a_signature(app: DBQueue, t: Any, noted: Path) -> None:
    """As the task of the setting, and from Python; what is given beside it goes before its own."""
    sig = t.kw.s(2, x=3, y=4).set(queue="slow", priority=1, link=[t.record.s()])
    beside = {"args": (1,), "kwargs": {"y": 5}, "options": {"priority": 2}}
    app.conf.beat_schedule = {"setting": {"task": sig, "schedule": 60, **beside}}
    (entry,) = entries(app)
    made = app.schedules.set("python", sig, 60, **beside)  # type: ignore[arg-type]
    app.schedules.set("chain", t.add.s(1, 2) | t.record.s("chain"), 60)
    assert (made.task, made.args, made.kwargs) == ("tasks.kw", [1, 2], {"x": 3, "y": 5})
    assert (made.options["queue"], made.options["priority"], len(made.options["link"])) == ("slow", 2, 1)
    assert (json.loads(entry.args), json.loads(entry.options)) == (made.args, made.options)
    for name in ("python", "chain"):
        app.schedules.run(name)
    testing.drain(app)
    assert sorted(notes(noted), key=len) == [[[[1, 2], {"x": 3, "y": 5}]], [3, "chain"]]


def test_running_a_unique_one_now_gives_the_call_that_stands_for_it(app: DBQueue, t: Any) -> None:
    app.schedules.set("one", t.const, 3600, options={"unique": True})
    assert app.schedules.run("one").id == app.schedules.run("one").id


def test_callbacks_of_a_row_of_plain_sql(app: DBQueue, noted: Path) -> None:
    """The least that a signature is: the task's name."""
    options = {"link": [{"task": "tasks.record"}, {"task": "tasks.record", "args": ["b"]}]}
    names = "name, task, schedule, args, options"
    insert = (
        f"INSERT INTO dbqueue_schedules ({names}) VALUES ('mine', 'tasks.add', 'every 60 seconds', :args, :options)"
    )
    run_sql(app.database.store, insert, args="[1, 2]", options=json.dumps(options))
    beat = make_beat(app)
    for minute in range(2):
        settle(beat, NOON + minute * MINUTE)
    testing.drain(app)
    assert sorted(notes(noted)) == [[3], [3, "b"]]


@pytest.mark.parametrize("link", ["tasks.record", ["tasks.record"], 5])
def test_callbacks_that_are_no_signatures(app: DBQueue, t: Any, link: Any) -> None:
    """In the settings they are refused at the start, in a row of plain SQL they are its problem."""
    app.conf.beat_schedule = {NAME: {"task": "tasks.add", "schedule": 60, "options": {"link_error": link}}}
    with pytest.raises(ImproperlyConfigured, match="link_error takes signatures"):
        entries(app)
    with pytest.raises(TypeError, match="link takes signatures"):
        t.add.apply_async((1, 2), link=link)
    app.conf.beat_schedule = {}
    names = "name, task, schedule, options"
    insert = f"INSERT INTO dbqueue_schedules ({names}) VALUES ('mine', 'tasks.const', 'every 60 seconds', :options)"
    run_sql(app.database.store, insert, options=json.dumps({"link": link}))
    beat = make_beat(app)
    for minute in range(2):
        settle(beat, NOON + minute * MINUTE)
    (row,) = schedules.read(app.database.store)[1]
    assert "link takes signatures" in (row.problem or "")
    assert count(app.database.store) == 0


NO_CALLS: list[Any] = [5, "x", None, [], {}, [[]], [None], {"task": None}, {"task": 5}, {"task": "\0", "options": []}]
NO_CALLS += [{"task": "x", "options": {"link": {"task": ""}}}, {"task": "x", "subtask_type": "chord", "kwargs": {}}]
NO_CALLS += [{"task": "x", "kwargs": 5}, {"task": "x", "args": {}}, {"task": "celery.chain", "subtask_type": "chain"}]


def test_rows_that_make_no_workflow_keep_no_other_from_firing(app: DBQueue) -> None:
    names = "name, task, schedule, kwargs, options"
    insert = f"INSERT INTO dbqueue_schedules ({names}) VALUES (:name, :task, 'every 60 seconds', :kwargs, :options)"
    for number, value in enumerate(NO_CALLS):
        for task, kwargs, options in (
            ("tasks.const", {}, {"link": value, "link_error": value}),
            ("tasks.const", {}, {"link": [{"task": "tasks.record"}, value]}),
            ("celery.chain", {"tasks": value}, {}),
            ("celery.group", {"tasks": [{"task": "tasks.const"}, value]}, {}),
            ("celery.chord", {"header": value, "body": value}, {}),
            ("celery.chunks", {"task": value, "it": value, "n": value}, {}),
        ):
            given = {"kwargs": json.dumps(kwargs), "options": json.dumps(options)}
            run_sql(app.database.store, insert, name=f"{task} {number} {options}", task=task, **given)
    run_sql(app.database.store, insert, name="sound", task="tasks.kw", kwargs="{}", options="{}")
    beat = make_beat(app)
    for minute in range(3):
        settle(beat, NOON + minute * MINUTE)
    assert count(app.database.store, "task = 'tasks.kw'") == 2
    for row in schedules.read(app.database.store)[1]:
        assert row.problem or row.total_run_count == 2, row


@pytest.mark.parametrize("empty", [group(), chain()])
def test_a_canvas_of_nothing_is_told(app: DBQueue, empty: Any) -> None:
    fire(app, empty)
    (row,) = schedules.read(app.database.store)[1]
    assert "nothing to call" in (row.problem or "")
