"""The password of the database's URL is nowhere to be read: banner, log, errors, sessions of the server."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

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


@pytest.mark.parametrize("given", ["environment", "configuration"])
def test_no_process_of_a_worker_shows_it(postgres_url: str, tmp_path: Path, given: str) -> None:
    """`ps` shows command lines to every user of the machine: those of the supervisor, the nursery and its children."""
    url = with_password(postgres_url)
    environment = {**os.environ, "DBQUEUE_BROKER_URL": url} if given == "environment" else dict(os.environ)
    broker = "" if given == "environment" else f", broker={url!r}"
    (tmp_path / "shop.py").write_text(f"from dbqueue import DBQueue\n\napp = DBQueue('shop'{broker})\n")
    command = [sys.executable, "-m", "dbqueue", "-A", "shop", "worker", "-c", "2"]
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
        assert PASSWORD not in "".join(command_lines(process.pid))
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


@pytest.mark.parametrize(
    "command", [["status"], ["doctor"], ["report"], ["queues"], ["migrate"], ["migrate", "--roles"]]
)
def test_no_command_shows_it(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = f"postgresql://user:{PASSWORD}@127.0.0.1:1/none"
    run(None, ["--database", nowhere, *command])
    shown = capsys.readouterr()
    assert shown.out + shown.err
    assert PASSWORD not in shown.out + shown.err


def test_no_error_shows_it(postgres_url: str) -> None:
    away = with_password(postgres_url, port=1)
    with make_app(away) as app, pytest.raises(OperationalError, match="connection") as caught:
        app.tasks["sample.add"].delay(1, 2)
    error: BaseException | None = caught.value
    while error is not None:
        assert PASSWORD not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
