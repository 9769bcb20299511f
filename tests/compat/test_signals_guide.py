"""Celery's page "Signals": what each tells, in the process where Celery sends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import CHECKOUT

PROGRAM = """
import json, logging, os, sys, time
from dbqueue import Celery, Task, signals
from dbqueue.app.log import TaskFormatter
from dbqueue.exceptions import Ignore, Reject

app = Celery("told", broker=os.environ["TOLD_URL"])


def note(*told):
    with open("told.txt", "a") as file:
        file.write(json.dumps([*told], default=str) + "\\n")


def teller(name):
    def tell(sender=None, **given):
        given.pop("signal")
        sender = sender if isinstance(sender, str) else getattr(sender, "name", type(sender).__name__)
        shown = {key: given[key] for key in ("state", "how", "sig") if key in given}
        if name == "task_failure":
            shown |= {"exception": repr(given["exception"]), "args": given["args"]}
            shown |= {"einfo": type(given["einfo"]).__name__}
        if name == "task_received":
            request = given["request"]
            shown |= {"name": request.name, "args": request.args, "id": bool(request.id)}
            shown |= {"same": (request.task_id, request.task_name) == (request.id, request.name)}
            shown |= {"stamps": request.stamps, "stamped": request.stamped_headers}
        note(name, sender, sorted(given), shown)
    return tell


for name in os.environ["TOLD_SIGNALS"].split():
    getattr(signals, name).connect(teller(name), weak=False)


@signals.worker_ready.connect
def at_start(sender, **kwargs):
    note("ready", sender.hostname, sender.app.main)


class Base(Task):
    def after_return(self, status, retval, task_id, args, kwargs, einfo):
        note("after_return", self.name, status)


@app.task(base=Base)
def add(x, y):
    return x + y

@app.task(base=Base, bind=True, max_retries=1, default_retry_delay=0)
def retry(self):
    raise self.retry(exc=KeyError("k"))

@app.task(base=Base)
def ignore():
    raise Ignore()

@app.task(base=Base)
def reject():
    raise Reject("no", requeue=False)

@app.task(base=Base, time_limit=0.3)
def hang(seconds):
    time.sleep(seconds)

@app.task(base=Base, acks_late=False)
def die():
    os._exit(3)
"""


def told(folder: Path) -> list[Any]:
    return [json.loads(line) for line in (folder / "told.txt").read_text().splitlines()]


@pytest.fixture
def environment(tmp_path: Path, sqlite_url: str) -> dict[str, str]:
    (tmp_path / "told.py").write_text(PROGRAM)
    return {**os.environ, "TOLD_URL": sqlite_url, "PYTHONPATH": str(CHECKOUT), "TOLD_SIGNALS": ""}


def run_all(folder: Path, environment: dict[str, str], script: str, *options: str) -> str:
    """A worker that ends after the calls of the script."""
    command = [sys.executable, "-m", "dbqueue.cli", "-A", "told", "worker", "-c", "1", "-n", "w@h", *options]
    with (folder / "out.txt").open("w") as out:
        worker = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        subprocess.run(
            [sys.executable, "-c", f"from told import *\n{script}"],
            cwd=folder, env=environment | {"TOLD_SIGNALS": ""}, check=True, timeout=60,
        )  # fmt: skip
    finally:
        worker.terminate()
        assert worker.wait(60) == 0
    return (folder / "out.txt").read_text()


GET = "\nfor result in results:\n    result.get(timeout=30, propagate=False)\n"


def test_tasks(tmp_path: Path, environment: dict[str, str]) -> None:
    environment["TOLD_SIGNALS"] = "task_received task_postrun task_success task_failure worker_shutting_down"
    first = "add.s(1, 2).stamp(by='me').delay()"
    calls = f"results = [{first}, retry.delay(), ignore.delay(), reject.delay(), hang.delay(60), die.delay()]"
    run_all(tmp_path, environment, calls + GET)
    lines = told(tmp_path)
    assert ["ready", "w@h", "told"] in lines
    assert ["task_success", "told.add", ["result", "runtime"], {}] in lines
    received = [line for line in lines if line[0] == "task_received"]
    request = {"name": "told.add", "args": [1, 2], "id": True, "same": True, "stamps": {"by": "me"}, "stamped": ["by"]}
    assert received[0] == ["task_received", "w@h", ["request"], request]
    states = [(line[1], line[3]["state"]) for line in lines if line[0] == "task_postrun"]
    assert sorted(states) == [
        ("told.add", "SUCCESS"),
        ("told.ignore", "IGNORED"),
        ("told.reject", "REJECTED"),
        ("told.retry", "FAILURE"),
        ("told.retry", "RETRY"),
    ]
    failures = {line[1]: line[3] for line in lines if line[0] == "task_failure"}
    assert failures.keys() == {"told.retry", "told.reject", "told.hang", "told.die"}
    assert failures["told.hang"] == {"exception": "TimeLimitExceeded(0.3)", "args": [60], "einfo": "ExceptionInfo"}
    assert failures["told.die"]["exception"].startswith("WorkerLostError(")
    returned = sorted((line[1], line[2]) for line in lines if line[0] == "after_return")
    assert returned == [("told.add", "SUCCESS"), ("told.retry", "FAILURE")]
    assert lines[-1] == ["worker_shutting_down", "w@h", ["exitcode", "how", "sig"], {"how": "Warm", "sig": "SIGTERM"}]


def test_the_worker_and_its_processes(tmp_path: Path, environment: dict[str, str]) -> None:
    """The sender is the worker's name; `celeryd_init` gets the options of the command line, too."""
    environment["TOLD_SIGNALS"] = "celeryd_init celeryd_after_setup worker_process_init worker_process_shutdown"
    setting_up = (
        "\n\n@signals.celeryd_init.connect\n"
        "def at_init(options=None, instance=None, **kwargs):\n"
        "    note('options', repr(instance), options['concurrency'], options['queues'], options['loglevel'])\n"
    )
    (tmp_path / "told.py").write_text(PROGRAM + setting_up)
    run_all(tmp_path, environment, "results = [add.delay(1, 2)]" + GET, "-Q", "celery,mail", "-l", "info")
    lines = told(tmp_path)
    assert ["options", "<Worker: w@h>", 1, "celery,mail", "INFO"] in lines
    told_by = {line[0]: line[1:] for line in lines if line[0] not in ("options", "ready", "after_return")}
    assert told_by == {
        "celeryd_init": ["w@h", ["conf", "instance", "options"], {}],
        "celeryd_after_setup": ["w@h", ["conf", "instance"], {}],
        "worker_process_init": ["w@h", [], {}],
        "worker_process_shutdown": ["w@h", ["exitcode", "pid"], {}],
    }


LOGGING = """

@signals.{signal}.connect
def set_up(logger=None, **kwargs):
    note("{signal}", logger and logger.name, sorted(kwargs))
    handlers = logger.handlers if logger else [logging.StreamHandler()]
    for handler in handlers:
        handler.setFormatter(TaskFormatter("mine %(task_name)s %(message)s"))
    if not logger:
        logging.basicConfig(level="INFO", handlers=handlers)
"""


@pytest.mark.parametrize("signal", ["setup_logging", "after_setup_logger", "after_setup_task_logger"])
def test_logging(tmp_path: Path, environment: dict[str, str], signal: str) -> None:
    (tmp_path / "told.py").write_text(PROGRAM + LOGGING.format(signal=signal))
    out = run_all(tmp_path, environment, "results = [add.delay(1, 2)]" + GET, "-l", "info")
    (line,) = [line for line in told(tmp_path) if line[0] == signal]
    assert {"loglevel", "logfile", "format", "colorize"} <= set(line[2])
    if signal == "after_setup_task_logger":
        assert line[1] == "dbqueue.task"
    elif signal == "after_setup_logger":
        assert "mine ??? w@h ready." in out
    else:
        assert "mine ??? w@h ready." in out
        assert "INFO/MainProcess" not in out
