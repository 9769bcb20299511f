"""`dbqueue inspect`, `control` and `status`, as people type them."""

from __future__ import annotations

import json
import signal

import pytest
import sqlalchemy as sa

from dbqueue.store.tables import control
from tests.cli.commands import Commands
from tests.stores import TestWorker, opened
from tests.waiting import wait_until


def test_asking_and_telling(dbqueue: Commands) -> None:
    worker = dbqueue.worker("-n", "one@host", "-l", "info")
    worker.says("ready.")
    said = dbqueue.ok("inspect", "ping", "-t", "30")
    assert said == "->  one@host: OK\n    pong\n\n1 node online."
    assert dbqueue.json("inspect", "active", "-t", "30") == {"one@host": []}
    assert dbqueue.ok("inspect", "reserved", "-t", "30") == "->  one@host: OK\n    - empty -"
    assert "    * cele.add\n" in dbqueue.ok("inspect", "registered", "-t", "30")
    job_id = dbqueue.ok("call", "cele.wait_for", "-a", '["never"]')
    worker.says(f"cele.wait_for[{job_id}] received")
    assert list(dbqueue.json("inspect", "query_task", job_id, "-t", "30")["one@host"]) == [job_id]
    dbqueue.ok("control", "revoke", job_id, "--terminate", "-t", "30")
    wait_until(lambda: dbqueue.status(job_id) == "REVOKED")
    job_id = dbqueue.ok("call", "cele.wait_for", "-a", '["never"]')
    worker.says(f"cele.wait_for[{job_id}] received")
    dbqueue.ok("control", "terminate", "KILL", job_id, "-t", "30")
    wait_until(lambda: dbqueue.status(job_id) == "REVOKED")
    assert "pool will grow" in dbqueue.ok("control", "pool_grow", "1", "-t", "30")
    assert "add consumer mail" in dbqueue.ok("control", "add_consumer", "mail", "-t", "30")
    nobody = dbqueue.here("inspect", "ping", "-d", "two@host")
    assert (nobody.returncode, nobody.stderr) == (69, "Error: No nodes replied within time constraint\n")
    assert dbqueue.here("status").returncode == 0
    (status,) = dbqueue.json("status")
    assert (status["answers"], status["concurrency"], status["queues"]) == (True, 2, ["celery", "mail"])
    dbqueue.ok("control", "shutdown", "-t", "30")
    assert worker.process.wait(60) == 0


def test_mistakes(dbqueue_sqlite: Commands) -> None:
    assert "no command 'nonsense'" in dbqueue_sqlite.here("inspect", "nonsense").stderr
    assert dbqueue_sqlite.here("inspect", "nonsense").returncode == 2
    assert "takes no 'x'" in dbqueue_sqlite.here("inspect", "ping", "x").stderr
    assert "cannot be 'x'" in dbqueue_sqlite.here("control", "pool_grow", "x").stderr
    assert "revoke [id1" in dbqueue_sqlite.here("control", "--list").stdout
    assert "ping" in dbqueue_sqlite.here("inspect").stdout


def test_a_waiting_job_is_revoked_without_a_worker(dbqueue_sqlite: Commands) -> None:
    job_id = dbqueue_sqlite.ok("call", "cele.add", "-a", "[1, 2]")
    nobody = dbqueue_sqlite.here("control", "revoke", job_id)
    assert (nobody.returncode, "it is written in the database" in nobody.stderr) == (69, True)
    assert dbqueue_sqlite.status(job_id) == "REVOKED"


def test_a_worker_that_lives_and_answers_nothing(dbqueue: Commands) -> None:
    with opened(dbqueue.url) as store:
        worker = TestWorker(store)
        mute = dbqueue.here("status", "-t", "0.1")
        assert (mute.returncode, "1 worker online." in mute.stdout) == (69, True)
        assert "Did not answer within 0.1 s: " in mute.stderr
        worker.close()


def test_the_signal_of_a_revoke_is_told_to_the_workers(dbqueue_sqlite: Commands) -> None:
    dbqueue_sqlite.here("control", "revoke", "a", "--terminate", "--signal", "KILL", "-t", "0.1")
    with opened(dbqueue_sqlite.url) as store, store.engine.connect() as connection:
        (told,) = connection.execute(sa.select(sa.cast(control.c.body, sa.Text))).scalars()
    assert json.loads(told) == {"task_id": ["a"], "terminate": True, "signal": "KILL"}


def test_autoscale(dbqueue_sqlite: Commands) -> None:
    worker = dbqueue_sqlite.worker("-l", "info", "--autoscale", "3,1")
    worker.says("ready.")
    assert "now max=5 min=2" in dbqueue_sqlite.ok("control", "autoscale", "5", "2", "-t", "30")
    assert worker.stop() == 0
    wrong = dbqueue_sqlite.run("-A", "cele", "worker", "--autoscale", "1,x")
    assert (wrong.returncode, "10,3" in wrong.stderr) == (2, True)
    wrong = dbqueue_sqlite.run("-A", "cele", "worker", "--autoscale", "1,3")
    assert (wrong.returncode, "less than the minimum" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("option", ["--concurrency", "--autoscale"])
def test_a_number_of_processes_that_no_machine_bears_is_refused(dbqueue_sqlite: Commands, option: str) -> None:
    wrong = dbqueue_sqlite.run("-A", "cele", "worker", option, "1000000000")
    assert (wrong.returncode, "5000" in wrong.stderr) == (2, True), wrong.stderr


def test_events(dbqueue: Commands) -> None:
    """`worker -E` and `events --dump`, in Celery's form."""
    worker = dbqueue.worker("-n", "one@host", "-l", "info", "-E")
    worker.says("ready.")
    assert ".> task events: ON\n" in worker.output
    watching = dbqueue.background("events", "--dump", "--timeout", "60")
    watching.says("one@host [")
    job_id = dbqueue.ok("call", "cele.add", "-a", "[1, 2]")
    watching.says("] task succeeded: ")
    for line in (
        "-> evdump: starting capture...\n",
        "] heartbeat: active=0, clock=",
        f"] task received: cele.add({job_id}) args=(1, 2) kwargs={{}} clock=",
        f"] task started: cele.add({job_id}) args=(1, 2) kwargs={{}} clock=",
        f"] task succeeded: cele.add({job_id}) args=(1, 2) kwargs={{}} clock=",
        ", result=3, runtime=",
    ):
        assert line in watching.output
    assert watching.stop(signal.SIGINT) == 0
    assert "--camera is not in this version" in dbqueue.here("events", "--camera", "x.Y").stderr
    assert "use --dump" in dbqueue.here("events").stderr
