"""`dbqueue worker` as a process: its start, what it shows, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from dbqueue.cli.output import count
from dbqueue.cli.pidfile import holding
from tests.cli.commands import Commands
from tests.servers import PostgresServer, libpq_url
from tests.waiting import wait_until


def test_banner_one_job_and_a_warm_end(dbqueue: Commands) -> None:
    worker = dbqueue.worker("--loglevel=INFO", "-Q", "celery,mail", "-n", "one@%h", "-Ofair", "--without-gossip")
    worker.says("ready.")
    job_id = dbqueue.ok("call", "cele.add", "-a", "[1, 2]")
    worker.says(f"Task cele.add[{job_id}] succeeded in ")
    assert worker.stop() == 0
    host = os.uname().nodename
    for line in (
        f" -------------- one@{host} v",
        "[config]\n.> app:         cele:0x",
        ".> transport:   ",
        ".> results:     the same table (dbqueue_jobs)",
        ".> concurrency: 1 (prefork)",
        ".> task events: OFF",
        "[queues]\n.> celery\n.> mail\n",
        "[tasks]\n  . cele.add\n  . cele.fail\n  . cele.pid\n  . cele.wait_for\n",
        f": INFO/MainProcess] one@{host} ready.",
        ": WARNING/MainProcess] Without effect here: ",
        f": INFO/ForkPoolWorker-1] cele.add[{job_id}]: adding 1",
        f": INFO/ForkPoolWorker-1] Task cele.add[{job_id}] succeeded in ",
        ": WARNING/MainProcess] worker: Warm shutdown (MainProcess)",
    ):
        assert line in worker.output
    assert dbqueue.ok("result", job_id) == "3"


@pytest.mark.parametrize("pool", ["threads", "asyncio", "solo"])
def test_each_pool(dbqueue_sqlite: Commands, pool: str) -> None:
    worker = dbqueue_sqlite.worker("-l", "info", "-P", pool)
    job_id = dbqueue_sqlite.ok("call", "cele.add", "-a", "[1, 2]")
    worker.says(f"cele.add[{job_id}]: adding 1")
    assert dbqueue_sqlite.ok("result", job_id, "--timeout", "30") == "3"
    assert worker.stop(signal.SIGINT) == 0


def test_quit_ends_running_tasks_and_hands_them_back(dbqueue: Commands) -> None:
    job_id = dbqueue.ok("call", "cele.wait_for", "-a", '["never"]')
    worker = dbqueue.worker("-l", "info")
    worker.says(f"Task cele.wait_for[{job_id}] received")
    assert worker.stop(signal.SIGQUIT) == 1
    assert dbqueue.status(job_id) == "PENDING"


def test_no_list_of_tasks_at_the_default_level(dbqueue_sqlite: Commands) -> None:
    worker = dbqueue_sqlite.worker()
    worker.says("[queues]")
    wait_until(lambda: dbqueue_sqlite.here("status").returncode == 0)
    assert worker.stop() == 0
    assert "[tasks]" not in worker.output
    assert "ready." not in worker.output


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_without_standard_streams(dbqueue_sqlite: Commands, pool: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-m", "dbqueue.cli", "-A", "cele", "worker", "-c", "1", "-P", pool, "-f", str(log)]
    worker = subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command],
        cwd=dbqueue_sqlite.folder,
        env=dbqueue_sqlite.environment,
    )
    try:
        job_id = dbqueue_sqlite.ok("call", "cele.add", "-a", "[1, 2]")
        assert dbqueue_sqlite.ok("result", job_id, "--timeout", "30") == "3"
        # Nothing of the worker's own has their numbers: it would get what others print.
        if sys.platform == "linux":
            assert {os.readlink(f"/proc/{worker.pid}/fd/{number}") for number in range(3)} == {os.devnull}
        worker.terminate()
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()


def test_a_worker_that_starts_before_its_database(postgres_server: PostgresServer, dbqueue_postgres: Commands) -> None:
    postgres_server.stop()
    try:
        worker = dbqueue_postgres.worker("-l", "info")
        worker.says("Trying again in ")
        assert "Cannot reach " in worker.output
        children = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children")
        if children.exists():  # what is written meanwhile is to be shared by the processes of the pool
            assert children.read_text() == ""
    finally:
        postgres_server.start()
    worker.says("ready.")
    assert worker.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_waits_for_the_database(dbqueue_nowhere: Commands, number: int) -> None:
    worker = dbqueue_nowhere.worker("--pidfile", "worker.pid")
    worker.says("Trying again in ")
    assert (dbqueue_nowhere.folder / "worker.pid").exists()
    assert worker.stop(number) == 0
    assert not (dbqueue_nowhere.folder / "worker.pid").exists()
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_outlives_the_signal_that_asks_where_it_is(dbqueue_sqlite: Commands, pool: str) -> None:
    """As in Celery, whose workers print where each thread is; solo's process is that of its tasks."""
    worker = dbqueue_sqlite.worker("-l", "info", "-P", pool)
    worker.says("ready.")
    worker.process.send_signal(signal.SIGUSR1)
    if pool == "prefork":
        worker.says('dbqueue/worker/watch.py", line ')
    job_id = dbqueue_sqlite.ok("call", "cele.add", "-a", "[1, 2]")
    assert dbqueue_sqlite.ok("result", job_id, "--timeout", "30") == "3"
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_that_is_told_to_stop_while_it_cannot_be_registered(dbqueue_postgres: Commands, pool: str) -> None:
    """It has nothing to lose, and has not failed: a process manager need not look at it."""
    with psycopg.connect(libpq_url(dbqueue_postgres.url)) as somebody:
        somebody.execute("LOCK TABLE dbqueue_workers IN ACCESS EXCLUSIVE MODE")
        worker = dbqueue_postgres.worker("-P", pool)
        worker.says("The worker cannot be registered")
        assert worker.stop() == 0
    assert "worker: stopped before it was registered: " in worker.output
    assert "Error" not in worker.output


def test_a_database_that_does_not_exist_is_not_waited_for(dbqueue_postgres: Commands) -> None:
    done = dbqueue_postgres.run("-A", "cele", "--database", f"{dbqueue_postgres.url}_other", "worker")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "does not exist" in done.stderr


def test_tables_that_are_missing(tmp_path: Path, empty_postgres_url: str) -> None:
    commands = Commands(tmp_path, empty_postgres_url)
    done = commands.run("-A", "cele", "worker")
    assert done.returncode == 3
    assert "run `dbqueue -A cele migrate`" in done.stderr
    assert "Traceback" not in done.stderr


def test_sqlite_needs_no_migration(tmp_path: Path, empty_sqlite_url: str) -> None:
    commands = Commands(tmp_path, empty_sqlite_url)
    worker = commands.worker("-l", "info")
    try:
        worker.says("ready.")
        assert worker.stop() == 0
    finally:
        commands.close()


def test_a_sqlite_file_that_cannot_be_opened(dbqueue_sqlite: Commands) -> None:
    (dbqueue_sqlite.folder / "text.db").write_text("this is no database, and longer than a header\n" * 100)
    done = dbqueue_sqlite.run("-A", "cele", "--database", "sqlite:///text.db", "worker")
    assert done.returncode == 1
    assert "not a database" in done.stderr
    assert "Traceback" not in done.stderr


def test_pidfile(dbqueue_sqlite: Commands) -> None:
    pidfile = dbqueue_sqlite.folder / "one.pid"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    pidfile.write_text(f"{dead.pid}\n")

    worker = dbqueue_sqlite.worker("-l", "info", "-n", "one", "--pidfile", "%n.pid")
    worker.says("ready.")
    assert pidfile.read_text() == f"{worker.process.pid}\n"

    second = dbqueue_sqlite.run("-A", "cele", "worker", "--pidfile", "one.pid")
    assert second.returncode == 1
    assert f"its process {worker.process.pid} lives" in second.stderr

    assert worker.stop() == 0
    assert not pidfile.exists()


def test_a_pidfile_is_removed_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of the pool solo may leave the folder in which its worker, this process, was started."""
    (tmp_path / "begun").mkdir()
    monkeypatch.chdir(tmp_path / "begun")
    with holding(Path("one.pid")):
        assert (tmp_path / "begun" / "one.pid").exists()
        monkeypatch.chdir(tmp_path)
    assert not (tmp_path / "begun" / "one.pid").exists()


def test_logfile_for_each_process(dbqueue_sqlite: Commands) -> None:
    job_id = dbqueue_sqlite.ok("call", "cele.add", "-a", "[1, 2]")
    worker = dbqueue_sqlite.worker("-l", "info", "-n", "one@host", "-f", "%n%I.log")
    assert dbqueue_sqlite.ok("result", job_id, "--timeout", "30") == "3"
    assert worker.stop() == 0
    assert "one@host ready." in (dbqueue_sqlite.folder / "one.log").read_text()
    assert f"Task cele.add[{job_id}] succeeded" in (dbqueue_sqlite.folder / "one-1.log").read_text()
    assert "INFO" not in worker.output


def test_logfile_that_cannot_be_opened(dbqueue_sqlite: Commands) -> None:
    done = dbqueue_sqlite.run("-A", "cele", "worker", "-f", "no/such/folder/x.log")
    assert done.returncode == 1
    assert "the log file cannot be opened" in done.stderr


def test_logfile_whose_folder_is_away_for_some_time(dbqueue_sqlite: Commands) -> None:
    logs, away = dbqueue_sqlite.folder / "logs", dbqueue_sqlite.folder / "away"
    logs.mkdir()
    worker = dbqueue_sqlite.worker("-l", "info", "-n", "one@host", "-f", "logs/%n%I.log", "--max-tasks-per-child", "1")
    job_id = dbqueue_sqlite.ok("call", "cele.add", "-a", "[1, 2]")
    assert dbqueue_sqlite.ok("result", job_id, "--timeout", "30") == "3"
    logs.rename(away)
    for _ in range(3):
        job_id = dbqueue_sqlite.ok("call", "cele.add", "-a", "[1, 2]")
        assert dbqueue_sqlite.ok("result", job_id, "--timeout", "30") == "3"
    logs.mkdir()
    job_id = dbqueue_sqlite.ok("call", "cele.add", "-a", "[1, 2]")
    assert dbqueue_sqlite.ok("result", job_id, "--timeout", "30") == "3"
    assert worker.stop() == 0
    assert f"Task cele.add[{job_id}] received" in (logs / "one.log").read_text()
    assert any(f"Task cele.add[{job_id}] succeeded" in path.read_text() for path in logs.iterdir())


def test_time_limit(dbqueue_sqlite: Commands) -> None:
    job_id = dbqueue_sqlite.ok("call", "cele.wait_for", "-a", '["never"]')
    worker = dbqueue_sqlite.worker("--time-limit", "0.2")
    ended = dbqueue_sqlite.here("result", job_id, "--timeout", "30")
    assert (ended.returncode, ended.stdout) == (1, "FAILURE: TimeLimitExceeded(0.2)\n")
    assert worker.stop() == 0


def test_max_tasks_per_child(dbqueue_sqlite: Commands) -> None:
    ids = [dbqueue_sqlite.here("call", "cele.pid").stdout.strip() for _ in range(3)]
    worker = dbqueue_sqlite.worker("--max-tasks-per-child", "1")
    pids = {dbqueue_sqlite.here("result", job_id, "--timeout", "30").stdout for job_id in ids}
    assert len(pids) == 3
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ((), ["other"]),
        (("-Q", "*", "-X", "other"), ["other"]),
        (("-Q", "reports.*"), ["celery", "other"]),  # it names queues of which none is there, and not all that are
    ],
)
def test_purge_at_the_start(dbqueue_sqlite: Commands, arguments: tuple[str, ...], left: list[str]) -> None:
    for queue in ("celery", "other"):
        dbqueue_sqlite.here("call", "cele.add", "-a", "[1, 2]", "-Q", queue, "--countdown", "3000", "--id", queue)
    worker = dbqueue_sqlite.worker("-l", "info", "--purge", *arguments)
    worker.says(f"Purged {count(2 - len(left), 'message')}.")
    assert worker.stop() == 0
    assert sorted(job["id"] for job in dbqueue_sqlite.json("jobs", "list")) == left
