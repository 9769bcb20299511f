"""What a forked process may not share with the one that it is a copy of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.workers import ROOT

IDS = """
import json, os, sys
from dbqueue.jobs import new_job_id, new_job_ids

def random_parts():
    return [id[19:] for id in (new_job_id(), *new_job_ids(3), new_job_id())]

random_parts()  # there is randomness in stock
reader, writer = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.write(writer, json.dumps(random_parts()).encode() + b"\\n")
        os._exit(0)
    os.wait()
os.close(writer)
lines = os.fdopen(reader).read().splitlines()
print(json.dumps([random_parts(), *map(json.loads, lines)]))
"""

STORES = """
import json, os, sys
from dbqueue import DBQueue

app = DBQueue("forked", broker=sys.argv[1], set_as_current=False)
task = app.task(name="work")(lambda: None)
task.delay()
before, waiter = app.database.store, app.database.waiter
pid = os.fork()
if pid == 0:
    seen = [app.database.opened is None, app.database.store is not before, app.database.store.dialect]
    seen.append(app.database.waiter is not waiter)  # it asks on connections of the other process
    task.delay()
    app.close()
    print(json.dumps(seen), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
assert app.database.store is before
task.delay()  # on the connection of before the fork, which the copy has not ended
from dbqueue.store import queries
print(json.dumps(len(queries.find_jobs(before))))
app.close()
"""

KEPT = """
import json, os, sys
from dbqueue import DBQueue

app = DBQueue("forked", broker=sys.argv[1], set_as_current=False)
app.database.store.ensure_schema()
before = app.database.store
app.database.before_fork()
print(json.dumps([before.engine.pool.checkedin(), app.database.store is before]), flush=True)
if os.fork() == 0:
    print(json.dumps(app.database.store is before), flush=True)
    app.close()
    os._exit(0)
os.wait()
app.close()
"""

LEFT = """
import os, signal
from dbqueue.pools import interrupts

with interrupts.Interruptible("job"):
    interrupts._aimed_at.add("job")  # as another thread does, which the copy has not
    copy = os.fork()
    if copy == 0:
        signal.alarm(60)
    else:
        interrupts._aimed_at.discard("job")
if copy == 0:
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]))
"""


def said(script: str, *arguments: str) -> list[Any]:
    """In a process without threads: a fork of any other is warned of."""
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_ids_are_drawn_anew() -> None:
    (parts,) = said(IDS)
    drawn = [part for of_one in parts for part in of_one]
    assert len(parts) == 4
    assert len(set(drawn)) == len(drawn) == 20


def test_the_database_is_opened_anew(database_url: str) -> None:
    of_the_copy, jobs = said(STORES, database_url)
    assert of_the_copy == [True, True, database_url.partition(":")[0].partition("+")[0], True]
    assert jobs == 3


def test_who_forks_keeps_its_store_without_a_connection(database_url: str) -> None:
    (connections, is_kept), is_shared = said(KEPT, database_url)
    assert connections == 0
    assert is_kept
    assert not is_shared


FOLDERS = """
import json, os, sys
from dbqueue import DBQueue
from dbqueue.store import queries

os.chdir(sys.argv[1])
app = DBQueue("forked", broker=sys.argv[3], set_as_current=False)
task = app.task(name="work")(lambda: None)
app.database.before_fork()
if os.fork() == 0:
    os.chdir(sys.argv[2])
    task.delay()
    os._exit(0)
os.wait()
store = app.database.store
os.chdir(sys.argv[2])
print(json.dumps([len(queries.find_jobs(store)), store.task_engines.plain().url.database]))
print(json.dumps(os.listdir()))
app.close()
"""


@pytest.mark.parametrize("url", ["sqlite:///jobs.db", "sqlite:///file:jobs.db?uri=true"])
def test_a_relative_path_begins_where_the_program_was_when_it_was_first_used(tmp_path: Path, url: str) -> None:
    """Not where a task, or a daemon, has gone since: its calls would be acknowledged, and lie in another file."""
    begun, gone = tmp_path / "begun", tmp_path / "gone"
    begun.mkdir()
    gone.mkdir()
    (jobs, of_tasks), beside = said(FOLDERS, str(begun), str(gone), url)
    assert jobs == 1
    assert Path(of_tasks.removeprefix("file:")) == (begun / "jobs.db").resolve()
    assert beside == []


IN_MEMORY = """
import json, os, sys
from dbqueue import DBQueue
from dbqueue.errors import ImproperlyConfigured
from dbqueue.store import queries

app = DBQueue("forked", broker="sqlite://", set_as_current=False)
task = app.task(name="work")(lambda: None)
task.delay()
app.database.before_fork()
if os.fork() == 0:
    try:
        task.delay()
    except ImproperlyConfigured as error:
        print(json.dumps(str(error).partition(":")[0]), flush=True)
    os._exit(0)
os.wait()
print(json.dumps(len(queries.find_jobs(app.database.store))))
"""


def test_a_database_in_memory_stays_in_its_process() -> None:
    refusal, jobs = said(IN_MEMORY)
    assert refusal == "the database is in the memory of another process"
    assert jobs == 1


def test_a_copy_that_a_task_lets_come_back_leaves_its_job() -> None:
    """Whatever another thread was about when it was made: only then is it ended."""
    assert said(LEFT) == [7]
