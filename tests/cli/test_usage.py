"""What is typed wrongly gets one clear error and its exit code, and help is cheap."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest

from dbqueue import DBQueue, __version__
from dbqueue.cli.root import COMMANDS
from dbqueue.cli.run import run
from dbqueue.errors import ImproperlyConfigured
from tests.cli.commands import CHECKOUT, Commands


def test_help_names_the_commands(dbqueue_sqlite: Commands) -> None:
    done = dbqueue_sqlite.run("--help")
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_help_imports_neither_the_database_nor_a_command() -> None:
    script = (
        "import sys; from dbqueue.cli.run import run; assert run(argv=['--help']) == 0; "
        "print(sorted(name for name in sys.modules if name.split('.')[0] in {'sqlalchemy', 'alembic', 'psycopg'} "
        "or name in {'dbqueue.app', 'dbqueue.cli.worker'}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_module_of_its_name(name: str) -> None:
    command = import_module(f"dbqueue.cli.{name.replace('-', '_')}").command
    assert (command.name, bool(command.help)) == (name, True)


def test_a_module_of_settings_in_the_place_of_an_application(dbqueue_sqlite: Commands) -> None:
    """`celery --config=celeryconfig worker`: Celery's option."""
    (dbqueue_sqlite.folder / "conf.py").write_text(f"broker_url = {dbqueue_sqlite.url!r}\ntask_default_queue = 'own'\n")
    done = dbqueue_sqlite.run("--config", "conf", "report")
    assert "task_default_queue: 'own' (code)" in done.stdout, done.stderr
    done = dbqueue_sqlite.run("--config", "absent", "report")
    assert (done.returncode, "absent" in done.stderr) == (2, True)


def test_version(dbqueue_sqlite: Commands) -> None:
    assert dbqueue_sqlite.ok("--version") == f"dbqueue {__version__}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-A", "nonexist", "worker"], "nonexist"),
        (["-A", "nonexist.app", "worker"], "nonexist"),
        (["-A", "", "worker"], "'' is no module's name"),
        (["-A", "..", "worker"], "'..' is no module's name"),
        (["-A", "./cele.py", "worker"], "it is 'cele', without .py"),
        (["-A", "cele.py:app", "worker"], "it is 'cele', without .py"),
        (["-A", "cele:nothing", "worker"], "the module 'cele' has no 'nothing'"),
        (["-A", "cele:add", "worker"], "cele.add is no DBQueue application, but of type add"),
        (["-A", "without_app", "worker"], "has no application"),
        (["-A", "redis_app", "worker"], "(redis_app.py, line 3)"),
        (["-A", "two_databases", "worker"], "name different databases"),
        (["worker"], "Missing option '-A'"),
        (["-A", "cele", "worker", "-l", "loud"], "'debug', 'info', 'warning', 'error', 'critical'"),
        (["-A", "cele", "worker", "-P", "nope"], "prefork, threads, asyncio, solo"),
        (["-A", "cele", "worker", "-P", "gevent"], "use threads or asyncio"),
        (["-A", "cele", "worker", "-c", "0"], "'-c'"),
        (["-A", "cele", "worker", "-X", "celery"], "no queue is left"),
        (["-A", "cele", "graph"], "not in this version"),
        (["-A", "cele", "worker", "--max-tasks-per-child", "none"], "'--max-tasks-per-child'"),
        (["-A", "cele", "worker", "--time-limit", "0"], "'--time-limit'"),
        (["-A", "cele", "beat", "--max-interval", "0"], "'--max-interval'"),
        (["-A", "cele", "amqp"], "not in this version"),
        (["-A", "cele", "wroker"], "there is no command 'wroker': did you mean 'worker'?"),
        (["-A", "cele", "xyzzy"], "`dbqueue --help` lists them"),
        (["worker", "-A", "cele"], "before the command"),
        (["jobs", "list"], "Which database?"),
        (["--database", "redis://localhost", "queues"], "redis:// is no database"),
        (["-A", "cele", "call", "cele.add", "-a", "1"], "must be a JSON array"),
        (["-A", "cele", "call", "cele.add", "-a", "[1"], "no JSON"),
        (["-A", "cele", "call", "cele.add", "-a", "[" * 100_000], "nested too deeply"),
        (["-A", "cele", "call", "cele.add", "-a", f"[{'9' * 5000}]"], "no JSON"),
        (["-A", "cele", "jobs", "list", "-n", "9" * 400], "'-n'"),
        (["-A", "cele", "schedule", "next", "-n", "9" * 400], "'-n'"),
        (["-A", "cele", "limits", "set", "k", "--running", "9" * 400], "from 0 to 2147483647"),
        (["-A", "cele", "queues", "pause", "\udcff"], "not '\\udcff'"),
        (["-A", "cele", "queues", "pause", ""], "1 to 255 printable characters"),
        (["-A", "cele", "queues", "pause", "q" * 256], "1 to 255 printable characters"),
        (["-A", "cele", "migrate", "--partition", "day", "--check"], "--partition goes with"),
        (["-A", "cele", "migrate", "--apply"], "--apply goes with --roles"),
        (["-A", "cele", "queues", "pause", "mail.*"], "is a pattern: name each queue to pause"),
        (["-A", "cele", "purge", "-f", "-Q", ""], "'-Q'"),
        (["-A", "cele", "purge", "-f", "-X", " , "], "'-X'"),
        (["-A", "cele", "control", "shutdown", "-d", ""], "this names nothing: leave it out for all"),
        (["-A", "cele", "inspect", "ping", "-d", ","], "'-d'"),
        (["-A", "cele", "status", "-d", ""], "'-d'"),
        (["-A", "cele", "worker", "-n", "\udcff"], "printable characters, not '\\udcff'"),
        (["-A", "cele", "worker", "--time-limit", "nan"], "nan is no length of time"),
        (["-A", "cele", "beat", "--max-interval", "inf"], "inf is no length of time"),
        (["-A", "cele", "call", "cele.add", "-a", "[1]"], "missing 1 required positional argument: 'y'"),
        (["-A", "cele", "call", "cele.add", "-a", "[1, 2]", "--eta", "soon"], "'soon'"),
    ],
)
def test_usage_errors(dbqueue_sqlite: Commands, arguments: list[str], text: str) -> None:
    folder = dbqueue_sqlite.folder
    (folder / "without_app.py").write_text("x = 1\n")
    (folder / "redis_app.py").write_text(
        "from dbqueue import DBQueue\n\napp = DBQueue('x', broker='redis://localhost')\n"
    )
    (folder / "two_databases.py").write_text(
        "from dbqueue import DBQueue\n\napp = DBQueue('x', broker='sqlite:///a.db', backend='sqlite:///b.db')\n"
    )
    done = dbqueue_sqlite.run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_may_have_py_in_its_name(dbqueue_sqlite: Commands) -> None:
    """`my.pyramid:app`: only an ending of .py is a file's."""
    package = dbqueue_sqlite.folder / "shop"
    package.mkdir()
    (package / "pyramid.py").write_text("from cele import app as queue\n")
    assert dbqueue_sqlite.run("-A", "shop.pyramid:queue", "call", "cele.add", "-a", "[1, 2]").returncode == 0


def test_an_error_in_the_application_is_shown_as_its_own(dbqueue_sqlite: Commands) -> None:
    (dbqueue_sqlite.folder / "broken.py").write_text("import nosuchthing\n")
    done = dbqueue_sqlite.run("-A", "broken", "worker")
    assert done.returncode == 1
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith("Traceback")
    assert second.endswith('broken.py", line 1, in <module>')
    assert "No module named 'nosuchthing'" in done.stderr


@pytest.mark.parametrize(
    ("code", "said"), [("3", " with exit code 3"), ("'no .env'", ": no .env"), ("", " with exit code 0")]
)
def test_an_application_that_ends_the_program_is_told(dbqueue_sqlite: Commands, code: str, said: str) -> None:
    """Its exit code is not taken for one of dbqueue's own."""
    (dbqueue_sqlite.folder / "leaving.py").write_text(f"import sys\n\nsys.exit({code})\n")
    done = dbqueue_sqlite.run("-A", "leaving", "status")
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert f"ended the program when it was imported{said}" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["queues", "resume", "\udcff"], 1, "was not paused"),
        (["purge", "-f", "-Q", "\udcff"], 0, "Purged 0 messages"),
        (["limits", "clear", "\udcff"], 1, "has no limit"),
        (["schedule", "pause", "\udcff"], 1, "there is no schedule"),
        (["schedule", "run", "\udcff"], 1, "there is no schedule"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_name_that_is_no_text_is_nobody_s(
    dbqueue_sqlite: Commands, arguments: list[str], code: int, said: str
) -> None:
    """The bytes of an argument may be no UTF-8."""
    dbqueue_sqlite.ok("call", "cele.add", "-a", "[1, 2]")
    done = dbqueue_sqlite.run("-A", "cele", *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert said in done.stdout + done.stderr
    assert "cele.add" in dbqueue_sqlite.ok("jobs", "list")


def test_a_file_that_is_no_database_is_said_to_be_none(dbqueue_sqlite: Commands) -> None:
    (dbqueue_sqlite.folder / "text.db").write_text("no database\n" * 100)
    done = dbqueue_sqlite.run("--database", "sqlite:///text.db", "status")
    assert done.returncode == 1
    assert "is no SQLite database" in done.stderr


def test_reading_makes_no_sqlite_file(dbqueue_sqlite: Commands) -> None:
    for arguments in (["jobs", "list"], ["queues"], ["status"], ["doctor"], ["migrate", "--check"]):
        done = dbqueue_sqlite.run("--database", "sqlite:///mistyped.db", *arguments)
        assert done.returncode == 1
        assert "no SQLite file" in done.stdout + done.stderr
    assert not (dbqueue_sqlite.folder / "mistyped.db").exists()


def test_a_program_runs_the_command_line_for_its_own_application(
    capsys: pytest.CaptureFixture[str], sqlite_url: str
) -> None:
    with DBQueue("own", broker=sqlite_url, set_as_current=False) as app:
        assert app.start(["report"]) == 0
        assert sqlite_url in capsys.readouterr().out
        assert app.start(["status"]) == 69
        assert app.worker_main(["-P", "nope"]) == 2
        assert "prefork" in capsys.readouterr().err


def test_colour_only_where_it_is_wanted(dbqueue_sqlite: Commands) -> None:
    assert "\033[" not in dbqueue_sqlite.ok("call", "cele.add", "-a", "[1, 2]") + dbqueue_sqlite.ok("jobs", "list")


def test_completion(dbqueue_sqlite: Commands) -> None:
    done = dbqueue_sqlite.run(_DBQUEUE_COMPLETE="bash_complete", COMP_WORDS="dbqueue wor", COMP_CWORD="1")
    assert done.stdout.split() == ["plain,worker"]


@pytest.mark.parametrize(("given", "concurrency"), [("auto", None), ("3", 3)])
def test_concurrency_as_celery_takes_it(given: str, concurrency: int | None) -> None:
    from dbqueue.cli.worker import command

    assert command.make_context("worker", ["-c", given]).params["concurrency"] == concurrency


@pytest.mark.parametrize(("given", "bounds"), [("3", (3, 0)), ("10,3", (10, 3))])
def test_the_bounds_of_a_pool_as_celery_takes_them(given: str, bounds: tuple[int, int]) -> None:
    from dbqueue.cli.worker import command

    assert command.make_context("worker", ["--autoscale", given]).params["autoscale"] == bounds


def test_what_is_said_of_a_worker_reaches_it(monkeypatch: pytest.MonkeyPatch, dbqueue_sqlite: Commands) -> None:
    """Each option its own setting of the worker; the program that it would run is not."""
    told: dict[str, Any] = {}

    def make(**options: Any) -> None:
        told.update(options)
        raise ImproperlyConfigured("enough")

    with DBQueue("told", broker=dbqueue_sqlite.url, set_as_current=False) as app:
        app.conf.include = ["os"]
        monkeypatch.setattr(app, "Worker", make)
        values = {
            "hostname": "one@host", "queues": "a,b", "exclude_queues": "c", "time_limit": 9.0, "soft_time_limit": 8.0,
            "max_tasks_per_child": 7, "max_memory_per_child": 6000, "autoscale": (5, 4), "concurrency": 3,
        }  # fmt: skip
        texts = {**values, "autoscale": "5,4"}
        options = [f"--{name.replace('_', '-')}={text}" for name, text in texts.items()]
        arguments = ["worker", "-P", "threads", "-E", "-B", "-I", "json, sys", *options]
        assert run(app=app, argv=arguments) != 0
        assert app.conf.include == ["os", "json", "sys"]
    expected = {**values, "pool": "threads", "task_events": True, "beat": True}
    assert {name: told[name] for name in expected} == expected
