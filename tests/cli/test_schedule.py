"""`dbqueue beat`, `dbqueue schedule` and `worker -B`, on each database."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import psycopg
import pytest

from tests.cli.commands import Commands, Worker
from tests.servers import libpq_url
from tests.waiting import wait_until

BEAT_SCHEDULE = """
from dbqueue.schedules import crontab
from dbqueue.signals import beat_embedded_init, beat_init

app.conf.timezone = "Europe/Oslo"
app.conf.beat_schedule = {
    "adding": {"task": "cele.add", "schedule": 0.2, "args": (16, 16), "options": {"expires": 60}},
    "new year": {"task": "cele.add", "schedule": crontab(0, 0, 1, 1), "kwargs": {"x": 1, "y": 2}},
}


@beat_init.connect
def say_beat(sender, **kwargs):
    print("beat_init by", type(sender).__name__, flush=True)


@beat_embedded_init.connect
def say_embedded(sender, **kwargs):
    print("beat_embedded_init by", type(sender).__name__, flush=True)
"""


def with_schedule(dbqueue: Commands) -> None:
    path = dbqueue.folder / "cele.py"
    path.write_text(path.read_text() + BEAT_SCHEDULE)


@contextmanager
def beat(dbqueue: Commands, *arguments: str) -> Iterator[Worker]:
    """A running `dbqueue -A cele beat`; it must end with 0 when it is told to."""
    log = dbqueue.folder / "beat.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dbqueue.cli", "-A", "cele", "beat", "-l", "info", *arguments],
            cwd=dbqueue.folder,
            env=dbqueue.environment,
            stdout=output,
            stderr=output,
        )
    running = Worker(process, log)
    dbqueue.workers.append(running)
    yield running
    assert running.stop(signal.SIGTERM) == 0, running.output


def sql(dbqueue: Commands, statement: str) -> None:
    """What a person types into psql or sqlite3."""
    if dbqueue.url.startswith("sqlite"):
        connection = sqlite3.connect(dbqueue.url.removeprefix("sqlite:///"), timeout=30)
        with connection:
            connection.execute(statement)
        connection.close()
    else:
        with psycopg.connect(libpq_url(dbqueue.url)) as postgres:
            postgres.execute(statement.encode())


def runs(dbqueue: Commands, name: str) -> int:
    found = {each["name"]: each["total_run_count"] for each in dbqueue.json("schedule", "list")}
    return int(found.get(name, -1))


def test_beat_from_start_to_end(dbqueue: Commands) -> None:
    with_schedule(dbqueue)
    assert dbqueue.ok("schedule", "list").startswith("No schedules.")
    pidfile = dbqueue.folder / "beat.pid"
    with beat(
        dbqueue, "--pidfile", str(pidfile), "-s", "anywhere/celerybeat-schedule", "--max-interval", "0.1"
    ) as running:
        running.says("beat is ready.")
        running.says("Scheduler: Sending due task adding (cele.add)")
        assert "dbqueue beat v" in running.output
        assert "maxinterval -> 0.1 s" in running.output
        assert "beat_init by Beat" in running.output
        assert "beat_embedded_init" not in running.output
        assert "Without effect here: --schedule (the times of the last runs are in the database)" in running.output
        assert int(pidfile.read_text()) == running.process.pid
        second = dbqueue.run("-A", "cele", "beat", "--pidfile", str(pidfile))
        assert (second.returncode, "exists, and its process" in second.stderr) == (1, True)

        job = dbqueue.json("jobs", "list", "--limit", "1")[0]
        assert (job["task"], job["args"], job["headers"]["periodic_task_name"]) == ("cele.add", [16, 16], "adding")
        assert job["expires_at"] is not None
        assert datetime.fromisoformat(job["headers"]["due_at"]) <= datetime.fromisoformat(job["created_at"])

        # A change in the table is seen while it runs.
        sql(
            dbqueue,
            "INSERT INTO dbqueue_schedules (name, task, schedule) VALUES ('mine', 'cele.fail', 'every 0.1 seconds')",
        )
        running.says("Sending due task mine (cele.fail)")
        sql(dbqueue, "UPDATE dbqueue_schedules SET schedule = 'nonsense' WHERE name = 'mine'")
        running.says("Entry mine does not fire: cron text has five fields")
    assert not pidfile.exists()
    assert "beat: Stopped" in running.output
    assert "Traceback" not in running.output


def test_pause_resume_and_run(dbqueue: Commands) -> None:
    with_schedule(dbqueue)
    with beat(dbqueue, "--max-interval", "0.05") as running:
        running.says("Sending due task adding")
        assert dbqueue.json("schedule", "pause", "adding", "nope", code=1) == {"paused": ["adding"]}
        before = runs(dbqueue, "adding")
        listed = {each["name"]: each for each in dbqueue.json("schedule", "list")}
        assert listed["adding"]["enabled"] is False
        assert listed["adding"]["next_due_at"] is None
        assert listed["new year"]["kwargs"] == {"x": 1, "y": 2}
        assert (listed["new year"]["schedule"], listed["new year"]["timezone"]) == ("0 0 1 1 *", "Europe/Oslo")
        assert runs(dbqueue, "adding") == before
        assert "paused" in dbqueue.ok("schedule", "list")

        job_id = dbqueue.ok("schedule", "run", "new year")
        shown = dbqueue.json("jobs", "show", job_id)
        assert (shown["task"], shown["kwargs"], shown["headers"]) == (
            "cele.add",
            {"x": 1, "y": 2},
            {"periodic_task_name": "new year"},
        )
        assert dbqueue.json("schedule", "run", "new year")["name"] == "new year"

        assert dbqueue.ok("schedule", "resume", "adding") == "1 schedule resumed."
        wait_until(lambda: runs(dbqueue, "adding") > before, what="a firing after the resumption")
    missing = dbqueue.run("-A", "cele", "schedule", "run", "nope")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "there is no schedule 'nope'" in missing.stderr


def test_the_due_times_to_come(dbqueue: Commands) -> None:
    with_schedule(dbqueue)
    with beat(dbqueue) as running:
        running.says("Entry new year (0 0 1 1 *) is due next at")
    coming = dbqueue.json("schedule", "next", "new year", "-n", "3")
    years = [datetime.fromisoformat(each["due_at"]).year for each in coming]
    assert years == [years[0], years[0] + 1, years[0] + 2]
    assert {each["due_at"][4:] for each in coming} == {"-12-31T23:00:00+00:00"}  # midnight in Oslo
    table = dbqueue.ok("schedule", "next", "-n", "2").splitlines()
    assert table[0].split() == ["DUE", "IN", "NAME"]
    assert table[1].endswith("adding")
    assert len(table) == 3
    assert dbqueue.run("-A", "cele", "schedule", "next", "nope").returncode == 1
    dbqueue.here("schedule", "pause", "adding")
    assert {each["name"] for each in dbqueue.json("schedule", "next")} == {"new year"}


def test_the_due_times_of_an_entry_that_cannot_be_planned_here(dbqueue: Commands) -> None:
    """A package is missing, or a row is wrong: the others are shown, and it is said of that one."""
    (dbqueue.folder / "ephem.py").write_text("raise ImportError\n")
    rows = {"evening": "solar sunset 59.91 10.75", "typo": "every nonsense", "hourly": "@hourly"}
    for name, schedule in rows.items():
        values = f"('{name}', 'cele.add', '{schedule}')"
        sql(dbqueue, f"INSERT INTO dbqueue_schedules (name, task, schedule) VALUES {values}")
    done = dbqueue.run("-A", "cele", "schedule", "next", "-n", "2")
    assert (done.returncode, [line.split()[-1] for line in done.stdout.splitlines()]) == (0, ["NAME"] + ["hourly"] * 2)
    told = done.stderr.splitlines()
    assert told[0].startswith(
        "Error: the due times of 'evening' cannot be told: a solar schedule needs the package ephem"
    )
    assert told[1].startswith("Error: the due times of 'typo' cannot be told: an interval reads like")
    assert len(told) == 2
    named = dbqueue.run("-A", "cele", "schedule", "next", "evening")
    assert (named.returncode, named.stdout, named.stderr.splitlines()) == (1, "", told[:1])


def test_a_worker_with_a_beat(dbqueue: Commands) -> None:
    with_schedule(dbqueue)
    worker = dbqueue.worker("-B", "-l", "info", "-s", "somewhere")
    worker.says("Sending due task adding (cele.add)")
    worker.says("succeeded in")
    assert "beat_init by Beat" in worker.output
    assert "beat_embedded_init by Beat" in worker.output
    assert "--schedule-filename (beat's state is in the database)" in worker.output
    assert worker.stop() == 0
    assert "Traceback" not in worker.output
    assert dbqueue.json("jobs", "list", "-s", "SUCCESS", "-n", "1")[0]["result"] == 32


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ('{"task": "cele.add", "schedule": crontab(minute=75)}', "minute of a crontab takes numbers from 0 to 59"),
        ('{"task": "cele.add"}', "beat_schedule['x']: 'schedule' is missing"),
        ('{"task": "cele.add", "schedule": 30, "arguments": (1,)}', "there is no field 'arguments'"),
        ('{"task": "cele.add", "schedule": "0 5 *"}', "cron text has five fields"),
        ('{"task": "cele.add", "schedule": 30, "misfire": "never"}', "misfire is one of skip, once, all"),
        ('{"task": "cele.add", "schedule": 30, "args": ("ab")}', "a tuple of one ends in a comma"),
        ('{"task": "cele.add", "schedule": 30, "kwargs": {"x": object()}}', "beat_schedule['x']: kwargs"),
    ],
)
def test_entries_that_cannot_be(dbqueue_sqlite: Commands, entry: str, problem: str) -> None:
    path = dbqueue_sqlite.folder / "cele.py"
    path.write_text(
        f"{path.read_text()}\nfrom dbqueue.schedules import crontab\napp.conf.beat_schedule = {{'x': {entry}}}\n"
    )
    done = dbqueue_sqlite.run("-A", "cele", "beat")
    assert done.returncode in (1, 2)
    assert problem in done.stderr


def test_without_tables(dbqueue_postgres: Commands) -> None:
    sql(dbqueue_postgres, "DROP TABLE dbqueue_schedules, dbqueue_jobs, dbqueue_workers, dbqueue_alembic_version")
    done = dbqueue_postgres.run("-A", "cele", "beat")
    assert (done.returncode, "`dbqueue -A cele migrate`" in done.stderr) == (3, True)
