"""The commands that look at the database and change it, on each database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from dbqueue.cli.server_checks import examine_server
from dbqueue.cli.target import Target
from dbqueue.errors import OperationalError
from dbqueue.jobs import BLOCKED_BY_LIMIT
from dbqueue.store import migrate, queues
from dbqueue.store.compatibility import SchemaState
from tests.cli.commands import Commands
from tests.servers import libpq_url
from tests.stores import TestWorker, enqueued, new_job, opened, run_sql
from tests.waiting import wait_until


def test_jobs_from_enqueue_to_deletion(dbqueue: Commands) -> None:
    first = dbqueue.ok("call", "cele.add", "-a", "[1]", "-k", '{"y": 2}')
    options = ("-Q", "mail", "--priority", "3", "--countdown", "3000", "--id", "second")
    assert dbqueue.here("call", "other.task", *options).stdout == "second\n"

    assert [(job["id"], job["status"], job["queue"]) for job in dbqueue.json("jobs", "list")] == [
        ("second", "PENDING", "mail"),
        (first, "PENDING", "celery"),
    ]
    shown = dbqueue.json("jobs", "show", first)
    assert (shown["args"], shown["kwargs"], shown["priority"]) == ([1], {"y": 2}, 0)
    assert shown["created_at"].endswith("+00:00")
    assert dbqueue.json("jobs", "cancel", first, "nope", code=1) == {
        "cancelled": [first],
        "refused": {"nope": "there is no such job"},
    }
    assert json.loads(dbqueue.here("jobs", "show", first, "--json").stdout)["result"]["exc_type"] == "TaskRevokedError"
    assert dbqueue.json("jobs", "retry", first, "second", code=1) == {
        "retried": [first],
        "refused": {"second": "it waits already (PENDING)"},
    }
    assert json.loads(dbqueue.here("jobs", "show", first, "--json").stdout)["options"] == {"retried_by_operator": 1}
    assert dbqueue.json("jobs", "delete", first, code=1)["refused"] == {first: "it waits (PENDING): cancel it first"}


def test_a_job_whose_unique_key_is_anothers_is_not_retried(dbqueue: Commands) -> None:
    with opened(dbqueue.url) as store:
        store.enqueue([new_job("old", unique_key="k")])
        dbqueue.ok("jobs", "cancel", "old")
        store.enqueue([new_job("new", unique_key="k")])
    refused = dbqueue.here("jobs", "retry", "old")
    assert (refused.returncode, "the job new stands for its unique key" in refused.stderr) == (1, True)


def test_what_was_revoked_before_it_was_enqueued_is_not_retried(dbqueue: Commands) -> None:
    dbqueue.here("control", "revoke", "a", "-t", "0.1")
    refused = dbqueue.json("jobs", "retry", "a", code=1)
    assert refused["retried"] == []
    assert "was revoked before it was enqueued" in refused["refused"]["a"]


def test_jobs_in_words(dbqueue: Commands) -> None:
    dbqueue.here("call", "cele.add", "-a", "[1, 2]", "--id", "first")
    dbqueue.here("call", "other.task", "-Q", "mail", "--id", "second")
    header, *rows = dbqueue.here("jobs", "list").stdout.splitlines()
    assert header.split() == ["ID", "TASK", "QUEUE", "STATUS", "ENQUEUED", "RAN"]
    assert [row.split()[:4] for row in rows] == [
        ["second", "other.task", "mail", "PENDING"],
        ["first", "cele.add", "celery", "PENDING"],
    ]
    for chosen in (("-s", "pending", "-Q", "mail"), ("-t", "other.task"), ("--limit", "1")):
        assert [job["id"] for job in json.loads(dbqueue.here("jobs", "list", "--json", *chosen).stdout)] == ["second"]
    assert dbqueue.here("jobs", "list", "-s", "FAILURE").stdout == "No jobs.\n"
    shown = dbqueue.here("jobs", "show", "first").stdout.replace(", ", ",")
    assert "\nargs:       [1,2]\n" in shown
    assert "\npriority:   0\n" in shown

    assert dbqueue.here("jobs", "cancel", "first").stdout == "1 job cancelled.\n"
    again = dbqueue.here("jobs", "cancel", "first")
    assert (again.returncode, again.stdout) == (1, "0 jobs cancelled.\n")
    assert again.stderr == "Error: first: it has ended already (REVOKED)\n"
    assert dbqueue.here("jobs", "delete", "first").stdout == "1 job deleted.\n"
    missing = dbqueue.here("jobs", "show", "first")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "there is no job 'first'" in missing.stderr


def test_results(dbqueue: Commands) -> None:
    good, bad = dbqueue.ok("call", "cele.add", "-a", "[1, 2]"), dbqueue.ok("call", "cele.fail")
    assert dbqueue.here("result", good).stdout == "PENDING: there is no result yet.\n"
    called_off = dbqueue.here("call", "cele.add", "-a", "[1, 2]").stdout.strip()
    dbqueue.here("jobs", "cancel", called_off)
    assert dbqueue.here("result", called_off).returncode == 1
    assert dbqueue.json("result", "unknown", code=1) == {"id": "unknown", "exists": False}
    assert "there is no job 'unknown'" in dbqueue.here("result", "unknown").stderr
    worker = dbqueue.worker()
    assert dbqueue.ok("result", good, "--timeout", "30") == "3"
    failed = dbqueue.run("-A", "cele", "result", bad, "--wait")
    assert (failed.returncode, failed.stdout) == (1, "FAILURE: ValueError('bad')\n")
    traceback = dbqueue.here("result", bad, "--traceback").stdout
    assert traceback.startswith("Traceback")
    assert traceback.endswith("ValueError: bad\n")
    assert dbqueue.json("result", bad, code=1)["result"]["exc_message"] == ["bad"]
    assert json.loads(dbqueue.here("result", good, "--json").stdout)["result"] == 3
    assert (
        dbqueue.here("result", "-t", "cele.add", good).stdout == "3\n"
    )  # as in Celery, whose backends tasks may choose
    assert worker.stop() == 0


def test_queues_status_and_purge_beside_a_worker(dbqueue: Commands, tmp_path: Path) -> None:
    none = dbqueue.run("-A", "cele", "status", "--json")
    assert (none.returncode, json.loads(none.stdout)) == (69, [])
    assert "no worker is online: start one with `dbqueue -A cele worker`" in none.stderr
    assert dbqueue.here("queues").stdout == "No jobs, and no workers.\n"

    gate = tmp_path / "gate"
    running = dbqueue.ok("call", "cele.wait_for", "-a", json.dumps([str(gate)]))
    worker = dbqueue.worker("-n", "one@host")
    wait_until(lambda: dbqueue.status(running) == "STARTED")
    dbqueue.here("call", "cele.add", "-a", "[1, 2]")
    dbqueue.here("call", "cele.add", "-a", "[1, 2]", "--countdown", "3000")
    dbqueue.here("call", "cele.add", "-a", "[1, 2]", "-Q", "mail")

    celery, mail = dbqueue.json("queues")
    assert [celery[name] for name in ("queue", "waiting", "scheduled", "running", "workers")] == ["celery", 1, 1, 1, 1]
    assert [mail[name] for name in ("queue", "waiting", "scheduled", "running", "workers")] == ["mail", 1, 0, 0, 0]
    assert celery["oldest_waiting_seconds"] >= 0
    assert dbqueue.here("queues").stdout.splitlines()[1].split()[:5] == ["celery", "1", "1", "1", "1"]

    (status,) = dbqueue.json("status")
    assert (status["name"], status["pool"], status["concurrency"]) == ("one@host", "prefork", 1)
    assert (status["queues"], status["pid"]) == (["celery"], worker.process.pid)
    assert dbqueue.here("status").stdout.endswith("\n1 worker online.\n")
    assert dbqueue.here("status", "-d", "one@host,two@host", "-t", "30").stdout.endswith("\n1 worker online.\n")
    other = dbqueue.here("status", "-d", "two@host", "-t", "0.1", "-j")
    assert (other.returncode, other.stdout) == (69, "[]\n")

    refused = dbqueue.here("jobs", "cancel", running)
    assert refused.returncode == 1
    assert "it is running: `dbqueue control revoke ID --terminate` ends it" in refused.stderr
    assert "it is running" in dbqueue.here("jobs", "retry", running).stderr

    asked = dbqueue.run("-A", "cele", "purge", typed="n\n")
    assert asked.returncode == 1
    assert "3 waiting jobs (celery: 2, mail: 1)" in asked.stderr
    assert dbqueue.json("purge", "-f", "-Q", "mail") == {"purged": 1}
    assert dbqueue.ok("purge", typed="y\n").endswith("Purged 2 messages.")
    assert dbqueue.here("purge").stdout == "Purged 0 messages.\n"
    assert dbqueue.status(running) == "STARTED"
    gate.touch()
    assert dbqueue.ok("result", running, "--timeout", "30") == "None"
    assert worker.stop() == 0


def test_what_a_purge_asks_about_and_leaves(dbqueue: Commands) -> None:
    with opened(dbqueue.url) as store:
        names = ("celery", "mail", "images")
        store.enqueue([new_job(name, queue=name) for name in names])
        store.enqueue([new_job("held", queue="celery", limit_key="k", blocked_reason=BLOCKED_BY_LIMIT)])
    asked = dbqueue.run("-A", "cele", "purge", "-X", "mail, images", "--json", typed="n\n")
    assert (asked.returncode, asked.stdout, "2 waiting jobs (celery: 2)" in asked.stderr) == (1, "", True)
    assert len(dbqueue.json("jobs", "list")) == 4
    assert dbqueue.json("purge", "-f", "-X", "mail, images") == {"purged": 2}
    assert {job["id"] for job in dbqueue.json("jobs", "list")} == {"mail", "images"}


def test_doctor(dbqueue: Commands) -> None:
    def levels(report: dict[str, object]) -> dict[str, str]:
        checks = report["checks"]
        assert isinstance(checks, list)
        return {check["check"]: check["level"] for check in checks}

    idle = dbqueue.json("doctor")
    assert idle["ok"]
    found = levels(idle)
    found.pop("database")  # a warning where Python's SQLite has a known bug
    found.pop("server", None)  # that of the tests does not sync
    assert found == {
        "settings": "ok",
        "tables": "ok",
        "index": "ok",
        "clock": "ok",
        "workers": "warning",
        "queues": "ok",
        "jobs": "ok",
    }

    dbqueue.here("call", "cele.add", "-a", "[1, 2]", "-Q", "mail")
    worker = dbqueue.worker()
    wait_until(lambda: dbqueue.here("status").returncode == 0)
    text = dbqueue.ok("doctor")
    assert "1 worker online, for 1 task at once" in text
    assert "1 job in the queue 'mail', which no worker serves" in text
    assert "-> start one for it: `dbqueue -A cele worker -Q mail`" in text
    assert worker.stop() == 0


def test_doctor_tells_of_queues_that_are_paused(dbqueue: Commands) -> None:
    """And takes no worker for too slow there. What is to be copied is one word to a shell, whatever it is named."""
    with opened(dbqueue.url) as store:
        worker = TestWorker(store, queues=["mail & more"])
        for queue in ("mail & more", "images; rm"):
            enqueued(store, queue=queue)
        run_sql(store, "UPDATE dbqueue_jobs SET ready_at = '2020-01-01 00:00:00.000'")
        slow, unserved = dbqueue.json("doctor")["checks"], "1 job in the queue 'images; rm', which no worker serves"
        assert any("'mail & more', the oldest for" in each["message"] for each in slow)
        queues.pause(store, ["mail & more"])
        said = {each["message"]: each["advice"] for each in dbqueue.json("doctor")["checks"]}
        worker.close()
    assert not any("the oldest for" in message for message in said)
    assert said[unserved] == "start one for it: `dbqueue -A cele worker -Q 'images; rm'`"
    paused = "1 job waiting in the queue 'mail & more', which is paused"
    assert said[paused] == "let workers take them again: `dbqueue -A cele queues resume 'mail & more'`"


@pytest.mark.parametrize("name", ["claim", "held", "workflow"])
def test_doctor_misses_an_index(dbqueue: Commands, name: str) -> None:
    """On SQLite statements name theirs, and are refused without."""
    with opened(dbqueue.url) as store:
        run_sql(store, f"DROP INDEX dbqueue_jobs_{name}")
    messages = [each["message"] for each in dbqueue.json("doctor", code=1)["checks"]]
    assert any(message.startswith(f"the index dbqueue_jobs_{name} is missing") for message in messages)


@pytest.mark.parametrize(("job_id", "shown"), [("CAST(x'61ff' AS BLOB)", "'a\ufffd'"), ("'a; rm'", "'a; rm'")])
def test_doctor_names_jobs_of_no_worker(dbqueue: Commands, job_id: str, shown: str) -> None:
    """Whatever their ids are: SQLite keeps bytes there."""
    with opened(dbqueue.url) as store:
        if store.dialect == "postgresql" and "x'" in job_id:
            pytest.skip("no text of PostgreSQL's is one of these")
        columns = "id, task, status, worker, lease, ready_at"
        values = f"{job_id}, 't', 'STARTED', 'gone#1', '00000000-0000-0000-0000-000000000000', NULL"
        run_sql(store, f"INSERT INTO dbqueue_jobs ({columns}) VALUES ({values})")
        run_sql(store, f"INSERT INTO dbqueue_paused_queues (queue) VALUES ({job_id})")
        run_sql(store, f"INSERT INTO dbqueue_limits (key) VALUES ({job_id}), ('k')")
    (last,) = dbqueue.json("doctor", code=1)["checks"][-1:]
    assert last["advice"].endswith(f"`dbqueue -A cele jobs retry {shown}`")
    assert [dbqueue.here(*words).returncode for words in (["queues"], ["limits", "list"])] == [0, 0]


def findings(commands: Commands, code: int = 0) -> dict[str, str]:
    return {each["check"]: each["message"] for each in commands.json("doctor", code=code)["checks"]}


def test_doctor_looks_at_the_server(tmp_path: Path, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands(tmp_path, empty_postgres_url)
    commands.ok("migrate")
    assert "autovacuum is off" not in str(findings(commands))
    monkeypatch.setattr("dbqueue.cli.server_checks.FEW_ROWS", 100)
    monkeypatch.setattr("dbqueue.cli.server_checks.OLD_SNAPSHOT_SECONDS", -1.0)
    app = DBQueue("health", broker=empty_postgres_url, set_as_current=False)
    engine = sa.create_engine(empty_postgres_url, isolation_level="AUTOCOMMIT")
    with psycopg.connect(libpq_url(empty_postgres_url)) as old, engine.connect() as connection:
        old.execute("SET application_name = 'forgotten'")
        old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        old.execute("SELECT 1")
        for statement in (
            "ALTER TABLE dbqueue_jobs SET (autovacuum_enabled = off)",
            "ALTER TABLE dbqueue_jobs RESET (fillfactor)",
            "DROP INDEX dbqueue_jobs_held",
            "INSERT INTO dbqueue_jobs (task) SELECT 'a' FROM generate_series(1, 500)",
            "UPDATE dbqueue_jobs SET retries = 1",
            "UPDATE dbqueue_jobs SET retries = 2",
            "SELECT pg_stat_force_next_flush()",
        ):
            connection.exec_driver_sql(statement)
        target = Target(app)
        found = list(examine_server(target))
        target.raw_store.close()
    messages = {each.check: each.message for each in found}
    assert "of forgotten" in messages["snapshots"]
    assert messages["index"].startswith("the index dbqueue_jobs_held is missing")
    assert "dead rows" in messages["bloat"]
    assert "statistics" in messages["statistics"]
    assert messages["storage"].endswith("fillfactor")
    assert "autovacuum is off" in [each.message for each in found]
    app.close()
    engine.dispose()


def test_doctor_without_tables_and_without_a_server(tmp_path: Path, empty_postgres_url: str) -> None:
    commands = Commands(tmp_path, empty_postgres_url)
    report = commands.json("doctor", code=1)
    assert not report["ok"]
    assert report["checks"][-1] == {
        "check": "tables",
        "level": "error",
        "message": "the database has no dbqueue tables",
        "advice": "run `dbqueue -A cele migrate`",
    }
    nowhere = commands.run("--database", "postgresql://u:secret@127.0.0.1:1/x", "doctor")
    assert nowhere.returncode == 1
    assert "error    database:" in nowhere.stdout
    assert "secret" not in nowhere.stdout + nowhere.stderr


def test_migrate(tmp_path: Path, empty_database_url: str) -> None:
    commands = Commands(tmp_path, empty_database_url)
    # No file is made by asking.
    assert commands.here("migrate", "--check").returncode == (1 if "sqlite" in empty_database_url else 3)
    head = migrate.head()
    assert commands.ok("migrate").endswith(f"from base to {head}.")
    assert commands.here("migrate").stdout == f"Nothing to do: the tables are at revision {head}.\n"
    assert commands.json("migrate", "--check") == {"status": "current", "revision": head, "head": head}
    assert commands.here("migrate", "--revision", head).stdout.startswith("Nothing to do: ")
    unknown = commands.here("migrate", "--revision", "9999")
    assert (unknown.returncode, "there is no revision '9999'" in unknown.stderr) == (2, True)
    unsure = commands.run("-A", "cele", "migrate", "--revision", "base")
    assert (unsure.returncode, unsure.stdout) == (1, "")
    unsure = commands.run("-A", "cele", "migrate", "--revision", "0001", "--json", typed="n\n")
    assert (unsure.returncode, unsure.stdout, "is lost" in unsure.stderr) == (1, "", True)
    assert "current" in commands.here("migrate", "--check").stdout
    assert commands.here("migrate", "--revision", "-1", "--yes").stdout.endswith(f"from {head} to 0001.\n")
    assert commands.here("migrate", "--revision", "base", "--yes").stdout.endswith("from 0001 to base.\n")
    assert commands.json("migrate", "--check", code=3)["status"] == "missing"
    statements = commands.here("migrate", "--sql").stdout
    assert statements.startswith("BEGIN")
    assert "CREATE TABLE dbqueue_jobs" in statements


def test_migrate_waits_for_a_database_that_is_not_up_yet(
    dbqueue_sqlite: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = [OperationalError("it starts") for _ in range(3)]

    def check(*arguments: Any, **options: Any) -> SchemaState:
        if errors:
            raise errors.pop()
        return found(*arguments, **options)

    found = migrate.check
    monkeypatch.setattr(migrate, "check", check)
    monkeypatch.setattr("dbqueue.cli.migrate.RETRY_SECONDS", 0.0)
    assert (dbqueue_sqlite.here("migrate", "--check").returncode, len(errors)) == (1, 2)
    assert (dbqueue_sqlite.here("migrate", "--check", "--wait", "600").returncode, errors) == (0, [])


def test_migrate_by_older_code(tmp_path: Path, empty_database_url: str) -> None:
    """A deployment that went back to the release before: its own migrate step finds nothing to do."""
    commands = Commands(tmp_path, empty_database_url)
    commands.ok("migrate")
    engine = sa.create_engine(empty_database_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE dbqueue_alembic_version SET version_num = '9999'")
    assert commands.ok("migrate").startswith("Nothing to do: the dbqueue tables are at revision 9999")
    assert commands.json("migrate", "--check")["status"] == "newer"
    assert "this one" in commands.ok("doctor")
    back = commands.here("migrate", "--revision", "base", "--yes")
    assert (back.returncode, "only that version can take them back" in back.stderr) == (3, True)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE dbqueue_alembic_version SET oldest_code = '9999'")
    assert commands.json("migrate", "--check", code=3)["status"] == "ahead"
    engine.dispose()


def test_migrate_into_a_schema(tmp_path: Path, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands(tmp_path, empty_postgres_url)
    commands.ok("migrate", "--schema", "Our jobs")
    monkeypatch.setenv("DBQUEUE_DATABASE_SCHEMA", "Our jobs")
    assert commands.here("call", "cele.add", "-a", "[1, 2]", "--id", "a").returncode == 0
    assert [job["id"] for job in json.loads(commands.here("jobs", "list", "--json").stdout)] == ["a"]
    assert commands.here("jobs", "cancel", "a").returncode == 0
    assert commands.here("jobs", "retry", "a").returncode == 0
    assert json.loads(commands.here("queues", "--json").stdout)[0]["waiting"] == 1
    assert commands.here("doctor").returncode == 0
    assert commands.here("purge", "-f").stdout == "Purged 1 message.\n"


def test_report_and_shell(dbqueue_sqlite: Commands) -> None:
    report = dbqueue_sqlite.json("report")
    assert report["settings"]["broker_url"] == {"value": dbqueue_sqlite.url, "origin": "code"}
    masked = dbqueue_sqlite.run("--database", "postgresql://u:secret@h/x", "report").stdout
    assert "secret" not in masked
    assert "postgresql://u:********@h/x" in masked
    assert "<@task: cele.add of cele at 0x" in dbqueue_sqlite.ok("shell", typed="add\n")
    assert "<@task: cele.add of cele at 0x" in dbqueue_sqlite.ok(
        "shell", "--python", typed="celery.tasks['cele.add']\n"
    )
    assert "name 'add' is not defined" in dbqueue_sqlite.run("-A", "cele", "shell", "-T", typed="add\n").stderr


@pytest.mark.parametrize(("option", "name"), [("-I", "IPython"), ("--bpython", "bpython")])
def test_a_shell_that_is_not_installed(dbqueue_sqlite: Commands, option: str, name: str) -> None:
    blocker = f"import sys\nsys.modules[{name!r}] = None\n"
    (dbqueue_sqlite.folder / "cele.py").write_text(blocker + (dbqueue_sqlite.folder / "cele.py").read_text())
    refused = dbqueue_sqlite.run("-A", "cele", "shell", option)
    assert refused.returncode == 2
    assert f"{name} is not installed: pip install {name.lower()}" in refused.stderr


def test_options_of_celerys_commands_that_mean_nothing_here(dbqueue_sqlite: Commands) -> None:
    dbqueue_sqlite.here("call", "cele.add", "-a", "[1, 2]", "--exchange", "x", "--serializer", "json", "--id", "a")
    assert dbqueue_sqlite.status("a") == "PENDING"
    assert dbqueue_sqlite.run("--skip-checks", "-A", "cele", "purge", "-f").stdout == "Purged 1 message.\n"
