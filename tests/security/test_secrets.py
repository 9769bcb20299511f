"""The password of the database's URL is nowhere to be read: banner, log, errors, sessions of the server."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from dbqueue.cli import hidden_arguments
from dbqueue.cli.run import run
from dbqueue.errors import OperationalError
from tests.servers import libpq_url
from tests.waiting import wait_until
from tests.worker.sample import make_app

PASSWORD = "correct-horse-battery"


def with_password(url: str, **changes: Any) -> str:
    return sa.make_url(url).set(password=PASSWORD, **changes).render_as_string(hide_password=False)


def test_a_worker_shows_it_nowhere(postgres_url: str, start_worker: Callable[..., Any]) -> None:
    worker = start_worker(with_password(postgres_url))
    with make_app(with_password(postgres_url)) as app:
        assert app.tasks["sample.add"].delay(1, 2).get(timeout=60) == 3
        app.tasks["sample.fail"].delay("plain").get(timeout=60, propagate=False)
        with psycopg.connect(libpq_url(postgres_url)) as connection:
            query = "SELECT application_name, query FROM pg_stat_activity WHERE datname = current_database()"
            sessions = connection.execute(query).fetchall()
        assert any(name.startswith("dbqueue ") for name, _ in sessions)
        assert PASSWORD not in repr(sessions)
        shown = [repr(app), app.bugreport(), app.conf.humanize(), app.database.url, repr(app.connection())]
        assert PASSWORD not in "".join(shown)
    assert worker.stop() == 0
    assert PASSWORD not in worker.log


@pytest.mark.parametrize("given", ["environment", "configuration", "command line"])
def test_no_process_of_a_worker_shows_it(postgres_url: str, tmp_path: Path, given: str) -> None:
    """`ps` shows command lines to every user of the machine: those of the supervisor, the nursery and its children."""
    url = with_password(postgres_url)
    environment = {**os.environ, "DBQUEUE_BROKER_URL": url} if given == "environment" else dict(os.environ)
    broker = f", broker={url!r}" if given == "configuration" else ""
    (tmp_path / "shop.py").write_text(f"from dbqueue import DBQueue\n\napp = DBQueue('shop'{broker})\n")
    option = ["--database", url] if given == "command line" else []
    command = [sys.executable, "-m", "dbqueue", "-A", "shop", *option, "worker", "-c", "2"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        with psycopg.connect(libpq_url(postgres_url), autocommit=True) as connection:
            query = "SELECT string_agg(application_name, ' ') FROM pg_stat_activity WHERE datname = current_database()"

            def names() -> str:
                assert process.poll() is None, (tmp_path / "log").read_text()
                return str((connection.execute(query).fetchone() or ("",))[0])

            wait_until(lambda: "dbqueue " in names(), what="the worker's connections")
            assert PASSWORD not in names()
        # Supervisor, nursery, and two children.
        wait_until(lambda: len(command_lines(process.pid)) >= 4, what="the worker's processes")
        shown = "".join(command_lines(process.pid))
        assert PASSWORD not in shown
        assert given != "command line" or "--database postgresql" in shown
        process.terminate()
        assert process.wait(60) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert PASSWORD not in (tmp_path / "log").read_text()


def command_lines(session: int) -> list[str]:
    """Of all processes of the session, as `ps` shows them: supervisor, nursery, and its children."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def test_multi_shows_it_nowhere(tmp_path: Path) -> None:
    """Neither in what it prints, nor in the process list for the moment that a node takes to start."""
    recorder = tmp_path / "recorder"
    recorder.write_text(f'#!/bin/sh\nprintf "%s " "$@" >> started\nexec {sys.executable} "$@"\n')
    recorder.chmod(0o755)
    (tmp_path / "shop.py").write_text("from dbqueue import DBQueue\n\napp = DBQueue('shop')\n")
    database = tmp_path / f"u:{PASSWORD}@jobs.db"  # a file whose name looks like one, so that nodes can open it

    def multi(*words: str) -> str:
        command = [sys.executable, "-m", "dbqueue", "-A", "shop", "--database", f"sqlite:///{database}", "multi"]
        with (tmp_path / "said").open("w") as said:  # nodes go on, and have it open
            subprocess.run([*command, *words], cwd=tmp_path, stdout=said, stderr=said, check=True)
        return (tmp_path / "said").read_text()

    given = ("1", "-c", "1", f"--executable={recorder}")
    try:
        shown = [multi("show", *given), multi("get", "celery1", *given), multi("start", *given)]
        wait_until(database.exists, what="the database of a node that had it as it was typed")
    finally:
        shown.append(multi("stopwait", *given))
    shown.append((tmp_path / "started").read_text())
    assert [":********@jobs.db" in text for text in shown] == [True, True, False, False, True]
    assert PASSWORD not in "".join(shown)


def test_what_is_hidden_of_a_command_line_arrives_as_it_was_typed(sqlite_url: str, tmp_path: Path) -> None:
    """Also what only looks like a password; and the program's own children have no variable that holds it."""
    words = ["--database", sqlite_url, "call", "any", "-a", f'["x://u:{PASSWORD}@h ü", "--", ""]']
    done = subprocess.run([sys.executable, "-m", "dbqueue", *words], cwd=tmp_path, check=True, capture_output=True)
    with make_app(sqlite_url) as app:
        record = app.database.record(done.stdout.decode().strip())
    assert record is not None
    assert json.loads(record.args or "") == [f"x://u:{PASSWORD}@h ü", "--", ""]


def test_a_program_s_own_command_is_not_started_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one whose arguments are not those of its process."""
    words = ["dbqueue", "--database", f"postgresql://u:{PASSWORD}@h/d", "status"]
    monkeypatch.setattr(sys, "argv", words)
    hidden_arguments.hide()
    assert sys.argv == words


TYPED = ["--database", f"sqla+postgresql://u:{PASSWORD}@h/d", "status"]
SHOWN = ["--database", "sqla+postgresql://u:********@h/d", "status"]


class Program:
    """The command as `hide` sees it, that would be started anew."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, words: list[str], *, name: str = "posix", **environ: str
    ) -> None:
        self.argv, self.environ = ["dbqueue", *words], {"PATH": "/bin", **environ}
        self.started: list[tuple[object, ...]] = []
        self.refuses = False
        system = SimpleNamespace(environ=self.environ, name=name, execve=self._start)
        python = SimpleNamespace(
            argv=self.argv, orig_argv=["python", "-m", "dbqueue", *words], executable="/usr/bin/python"
        )
        monkeypatch.setattr(hidden_arguments, "os", system)
        monkeypatch.setattr(hidden_arguments, "sys", python)
        self.hide = hidden_arguments.hide

    def _start(self, *given: object) -> None:
        if self.refuses:
            raise OSError(errno.E2BIG, "too long")
        self.started.append(given)


def test_a_command_is_started_anew_with_what_was_typed_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Program(monkeypatch, TYPED)
    program.hide()
    environ = {"PATH": "/bin", hidden_arguments.VARIABLE: json.dumps(TYPED)}
    assert program.started == [("/usr/bin/python", ["python", "-m", "dbqueue", *SHOWN], environ)]


def test_its_own_children_have_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each `dbqueue` that it starts would do once more what was typed here."""
    program = Program(monkeypatch, SHOWN, **{hidden_arguments.VARIABLE: json.dumps(TYPED)})
    program.hide()
    assert program.started == []
    assert program.argv[1:] == TYPED
    assert program.environ == {"PATH": "/bin"}


@pytest.mark.parametrize("why", ["nothing to hide", "another system", "too long"])
def test_what_cannot_be_hidden_runs_as_it_was_typed(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    words = ["status"] if why == "nothing to hide" else TYPED
    program = Program(monkeypatch, words, name="nt" if why == "another system" else "posix")
    program.refuses = why == "too long"
    program.hide()
    assert program.started == []
    assert program.argv[1:] == words


SPELLINGS = [
    f"postgresql://user:{PASSWORD}@127.0.0.1:1/none",
    f"postgresql://user@server:{PASSWORD}@127.0.0.1:1/none",
    f"postgresql://user@127.0.0.1:1/none?password=a {PASSWORD}",
]


COMMANDS = [["status"], ["doctor"], ["report"], ["queues"], ["migrate"], ["migrate", "--roles"]]


@pytest.mark.parametrize(
    ("command", "nowhere"),
    [(command, SPELLINGS[0]) for command in COMMANDS] + [(["status"], nowhere) for nowhere in SPELLINGS[1:]],
)
def test_no_command_shows_it(command: list[str], nowhere: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(None, ["--database", nowhere, *command])
    shown = capsys.readouterr()
    assert shown.out + shown.err
    assert PASSWORD not in shown.out + shown.err


@pytest.mark.parametrize("url", SPELLINGS)
def test_no_text_of_an_application_shows_it(url: str) -> None:
    with make_app(url) as app:
        shown = [app.database.url, app.backend.as_uri(), app.bugreport(), app.conf.humanize(), repr(app.connection())]
    assert PASSWORD not in "".join(shown)


def test_no_error_shows_it(postgres_url: str) -> None:
    away = with_password(postgres_url, port=1)
    with make_app(away) as app, pytest.raises(OperationalError, match="connection") as caught:
        app.tasks["sample.add"].delay(1, 2)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
