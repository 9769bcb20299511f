"""Celery's guide "Tasks", section "Logging", and `worker_redirect_stdouts` of "Configuration and defaults"."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbqueue import DBQueue, signals
from dbqueue.utils.log import get_task_logger
from dbqueue.utils.redirected import LoggingProxy, streams_kept
from tests.cli.commands import Commands
from tests.waiting import wait_until

PRINTING = """
import os
import subprocess
import sys

from dbqueue import DBQueue
from dbqueue.utils.log import get_task_logger

logger = get_task_logger(__name__)
app = DBQueue("cele", broker=os.environ["CELE_URL"])
app.conf.update(worker_redirect_stdouts=os.environ.get("REDIRECT") != "no")


@app.task
def say(text):
    print("said", text)
    print("to stderr", text, file=sys.stderr)
    subprocess.run([sys.executable, "-c", "print('from below')"], stdout=sys.stdout, check=True)


@app.task(bind=True)
def add(self, x, y):
    old_outs = sys.stdout, sys.stderr
    rlevel = self.app.conf.worker_redirect_stdouts_level
    try:
        self.app.log.redirect_stdouts_to_logger(logger, rlevel)
        print(f"Adding {x} + {y}")
        return x + y
    finally:
        sys.stdout, sys.stderr = old_outs
"""


@pytest.fixture
def printing(tmp_path: Path, sqlite_url: str) -> Iterator[Commands]:
    commands = Commands(tmp_path, sqlite_url)
    (tmp_path / "cele.py").write_text(PRINTING)
    yield commands
    commands.close()


def done(printing: Commands, task: str, args: str) -> None:
    job_id = printing.ok("call", task, "--args", args)
    wait_until(lambda: printing.status(job_id) == "SUCCESS", 60)


def test_what_tasks_print_is_logged(printing: Commands) -> None:
    log = printing.folder / "worker.log"
    worker = printing.worker("-l", "info", "-f", str(log))
    done(printing, "cele.say", '["hello"]')
    done(printing, "cele.add", "[1, 2]")
    assert worker.stop() == 0
    lines = log.read_text().splitlines()
    for text in ("said hello", "to stderr hello"):
        (line,) = [line for line in lines if line.endswith(text)]
        assert "WARNING/ForkPoolWorker-1]" in line
    (line,) = [line for line in lines if line.endswith("Adding 1 + 2")]
    assert "WARNING/ForkPoolWorker-1] cele.add[" in line
    assert "from below" in worker.output
    assert "said hello" not in worker.output
    assert worker.output.count("[config]") == 1


def test_without_the_setting_it_is_not(printing: Commands) -> None:
    printing.environment["REDIRECT"] = "no"
    worker = printing.worker("-l", "info")
    done(printing, "cele.say", '["hello"]')
    assert worker.stop() == 0
    assert "said hello" in worker.output.splitlines()


class TestTheLogOfAProgram:
    """`app.log`, for programs that set up a worker's log themselves."""

    @pytest.fixture(autouse=True)
    def as_before(self) -> Iterator[None]:
        root, tasks = logging.getLogger(), logging.getLogger("dbqueue.task")
        kept = root.handlers[:], root.level, tasks.handlers[:], tasks.propagate
        with streams_kept():
            yield
        for handler in {*root.handlers, *tasks.handlers} - {*kept[0], *kept[2]}:
            handler.close()
        root.handlers[:], tasks.handlers[:], tasks.propagate = kept[0], kept[2], kept[3]
        root.setLevel(kept[1])
        logging.captureWarnings(capture=False)

    def test_setup_into_a_file(self, tmp_path: Path) -> None:
        app = DBQueue("app", broker="sqlite://", set_as_current=False)
        file = tmp_path / "log"
        assert not app.log.setup(loglevel="INFO", logfile=str(file), redirect_stdouts=True)
        get_task_logger("here").info("told")
        print("printed")  # noqa: T201 - what this is about
        app.log.redirect_stdouts("ERROR")
        print("loudly")  # noqa: T201
        lines = file.read_text().splitlines()
        assert lines[0].endswith("INFO/MainProcess] ???[???]: told")
        assert lines[1].endswith("WARNING/MainProcess] printed")
        assert lines[2].endswith("ERROR/MainProcess] loudly")

    def test_a_receiver_of_setup_logging_does_it(self) -> None:
        app = DBQueue("app", broker="sqlite://", set_as_current=False)
        told = []

        def receive(**kwargs: object) -> None:
            told.append(kwargs["loglevel"])

        signals.setup_logging.connect(receive)
        before = sys.stdout
        assert app.log.setup(loglevel="DEBUG", redirect_stdouts=True)
        assert (told, sys.stdout) == ([logging.DEBUG], before)

    def test_a_handler_for_a_logger(self, tmp_path: Path) -> None:
        app = DBQueue("app", broker="sqlite://", set_as_current=False)
        logger = logging.getLogger("own")
        app.log.setup_handlers(logger, str(tmp_path / "log"), "%(message)s", colorize=None)
        app.log.setup_handlers(logger, str(tmp_path / "other"), "%(message)s", colorize=None)
        logger.warning("once")
        logger.handlers[0].close()
        assert (tmp_path / "log").read_text() == "once\n"

    def test_the_proxy(self) -> None:
        logger, text = logging.getLogger("own.proxy"), io.StringIO()
        logger.setLevel(logging.INFO)
        logger.addHandler(logging.StreamHandler(text))
        proxy = LoggingProxy(logger, logging.INFO, stream=io.BytesIO(b"x"))
        proxy.writelines(["one\n", "  \n"])
        proxy.write(b"two")
        assert text.getvalue() == "one\n"
        proxy.flush()
        assert not proxy.isatty()
        assert proxy.writable()
        assert proxy.getvalue() == b"x"
        print("a", "b\nc", file=proxy)
        assert text.getvalue() == "one\ntwo\na b\nc\n"
        proxy.close()
        proxy.write("three\n")
        assert text.getvalue() == "one\ntwo\na b\nc\n"


NAMED = """
import logging
import sys

from dbqueue.utils.log import LogOptions, enter_child

assert "multiprocessing" not in sys.modules, "a worker that has no use for it holds it in memory"
logging.basicConfig(format="%(processName)s %(message)s", stream=sys.stdout)
enter_child(LogOptions(logging.INFO, "", ""), "ForkPoolWorker-2")
logging.warning("at first")
import multiprocessing

logging.warning("with multiprocessing")
context = multiprocessing.get_context("fork")
own = context.Process(target=logging.warning, args=("from a process of the task's",), name="own")
own.start()
own.join()
enter_child(LogOptions(logging.INFO, "", ""), "ForkPoolWorker-3")
logging.warning("once more")
print(multiprocessing.current_process().name)
"""


def test_lines_name_the_pool_process_whether_multiprocessing_is_loaded_or_not() -> None:
    done = subprocess.run([sys.executable, "-c", NAMED], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "ForkPoolWorker-2 at first",
        "ForkPoolWorker-2 with multiprocessing",
        "own from a process of the task's",
        "ForkPoolWorker-3 once more",
        "ForkPoolWorker-3",
    ]
