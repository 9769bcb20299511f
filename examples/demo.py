"""`make demo`: a real worker and five jobs, watched as they happen, on SQLite in a temporary folder.

The worker is the ordinary command, the application is demo_tasks.py beside this file. A trigger on
the jobs table writes down each change of a job's status: the queue is a table, so its history can
be had with plain SQL, and not even the quickest change is missed.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PATIENCE_SECONDS = 60.0
"""How long any one step may take on a slow machine before the demo says that something is wrong."""
POLL_SECONDS = 0.02

DIM, BOLD, RED, GREEN, YELLOW, BLUE, PLAIN = (f"\033[{code}m" for code in (2, 1, 31, 32, 33, 34, 0))
COLOURS = {"PENDING": DIM, "STARTED": BLUE, "RETRY": YELLOW, "SUCCESS": GREEN, "FAILURE": RED}
COLOURED = sys.stdout.isatty() and "NO_COLOR" not in os.environ

HISTORY = """
CREATE TABLE demo_history (at TEXT, task TEXT, status TEXT, retries INTEGER, result TEXT, eta TEXT, worker TEXT);
CREATE TRIGGER demo_enqueued AFTER INSERT ON dbqueue_jobs BEGIN
    INSERT INTO demo_history VALUES (strftime('%Y-%m-%d %H:%M:%f', 'now'),
        NEW.task, NEW.status, NEW.retries, NEW.result, NEW.eta, NEW.worker);
END;
CREATE TRIGGER demo_changed AFTER UPDATE OF status ON dbqueue_jobs WHEN NEW.status <> OLD.status BEGIN
    INSERT INTO demo_history VALUES (strftime('%Y-%m-%d %H:%M:%f', 'now'),
        NEW.task, NEW.status, NEW.retries, NEW.result, NEW.eta, NEW.worker);
END;
"""

EVERY_JOB = """\
SELECT task, args, status, retries,
       round((julianday(finished_at) - julianday(started_at)) * 86400, 2) AS seconds,
       coalesce(result ->> '$.exc_type', result) AS result
FROM dbqueue_jobs ORDER BY created_at, id"""

BY_STATUS = "SELECT status, count(*) AS jobs FROM dbqueue_jobs GROUP BY status ORDER BY jobs DESC"


class DemoFailed(Exception):
    """Something did not happen; the text says what."""


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worker is ended too
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without the lines of the headings
    folder = Path(tempfile.mkdtemp(prefix="dbqueue-demo-"))
    log = folder / "worker.log"
    try:
        run(folder, log)
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    except Exception as error:
        print(paint(f"\nThe demo failed: {str(error) or type(error).__name__}", RED), file=sys.stderr)
        said = log.read_text(errors="replace") if log.exists() else ""
        print(f"The worker's log:\n{indented(said or '(empty)')}", file=sys.stderr)
        if not isinstance(error, DemoFailed):
            raise
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def run(folder: Path, log: Path) -> None:
    os.chdir(folder)  # where the embedded database is made, for this process and for the worker
    heading("A worker on the embedded database, SQLite")
    command = ["worker", "--concurrency=4", "--loglevel=info"]
    print(f"$ dbqueue -A demo_tasks {' '.join(command)}")
    with worker(command, log) as process:
        wait_until(lambda: is_ready(folder, process, log), "the worker to be ready")
        print(paint(indented(banner(log)), DIM))
        with closing(sqlite3.connect(folder / "dbqueue.sqlite3")) as database:
            database.executescript(HISTORY)
            began = time.monotonic()
            heading("Five jobs, as it happens")
            results = enqueue()
            watch(database, process, len(results))
            heading("The results, from any process that knows the id")
            show_results(results)
            heading("The same jobs through SQL: sqlite3 dbqueue.sqlite3")
            show_query(database, EVERY_JOB)
            print()
            show_query(database, BY_STATUS)
        stop(process, log)
    print(f"\n{paint('All as it should be', GREEN)}, {time.monotonic() - began:.1f} s. Next: docs/tutorial.md")


# the worker


@contextmanager
def worker(arguments: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The worker's process, in a process group of its own; whatever happens here, none of it is left."""
    paths = [str(HERE), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    script = Path(sys.executable).with_name("dbqueue")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "dbqueue.cli"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*program, "-A", "demo_tasks", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_ready(folder: Path, process: subprocess.Popen[bytes], log: Path) -> bool:
    check_alive(process)
    if " ready." not in banner(log):
        return False
    try:
        with closing(sqlite3.connect(f"file:{folder / 'dbqueue.sqlite3'}?mode=ro", uri=True)) as database:
            return bool(database.execute("SELECT 1 FROM dbqueue_workers WHERE closed_at IS NULL").fetchone())
    except sqlite3.OperationalError:  # no file yet, or no tables yet
        return False


def check_alive(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        raise DemoFailed(f"the worker ended with exit code {process.returncode}")


def banner(log: Path) -> str:
    return log.read_text(errors="replace").strip("\n")


def stop(process: subprocess.Popen[bytes], log: Path) -> None:
    heading("The end: a warm shutdown")
    print(f"$ kill -TERM {process.pid}")
    process.terminate()
    try:
        code = process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        raise DemoFailed("the worker did not end after SIGTERM") from None
    farewell = [line for line in log.read_text(errors="replace").splitlines() if "hutdown" in line]
    print(paint(indented("\n".join(farewell)), DIM))
    if code != 0:
        raise DemoFailed(f"the worker ended with exit code {code} after SIGTERM, not 0")
    print("The worker let its running tasks end, and ended with exit code 0.")


# the jobs


def enqueue() -> dict[str, Any]:
    """Enqueue the jobs, and show the code that does it."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]  # the application, and dbqueue where it is not installed
    tasks = importlib.import_module("demo_tasks")

    soon = datetime.now(UTC) + timedelta(seconds=4.5)
    calls: list[tuple[str, str, str, Callable[[], Any]]] = [
        ("total", "add.delay(2, 3)", "quick", lambda: tasks.add.delay(2, 3)),
        ("report", "write_report.delay('March')", "slow", lambda: tasks.write_report.delay("March")),
        ("rate", "fetch_rate.delay('NOK')", "fails once, retried", lambda: tasks.fetch_rate.delay("NOK")),
        ("payment", "charge.delay('4000-0002', 99)", "fails for good", lambda: tasks.charge.delay("4000-0002", 99)),
        (
            "tea",
            "remind.apply_async(['Aiko'], eta=soon)",
            "later",
            lambda: tasks.remind.apply_async(["Aiko"], eta=soon),
        ),
    ]
    results = {}
    for name, code, remark, call in calls:
        print(f">>> {f'{name} = {code}':46}" + paint(f"# {remark}", DIM))
        results[name] = call()
    tasks.app.close()
    return results


def watch(database: sqlite3.Connection, process: subprocess.Popen[bytes], jobs: int) -> None:
    """Print each change of a job's status when it comes, until all jobs have ended."""
    print()
    seen = ended = 0
    first: datetime | None = None
    deadline = time.monotonic() + PATIENCE_SECONDS
    while ended < jobs:
        check_alive(process)
        rows = database.execute("SELECT rowid, * FROM demo_history WHERE rowid > ? ORDER BY rowid", [seen]).fetchall()
        for rowid, at, task, status, retries, result, eta, by in rows:
            moment = datetime.fromisoformat(at)
            first = first or moment
            seen = rowid
            ended += status in ("SUCCESS", "FAILURE", "REVOKED")
            name = task.rpartition(".")[2]
            remark = describe(status, retries, result, eta and datetime.fromisoformat(eta) - first, by)
            columns = f"{(moment - first).total_seconds():6.2f} s", f"{name:13}", paint(f"{status:8}", COLOURS[status])
            print("  ".join((*columns, paint(remark, DIM))).rstrip(), flush=True)
        if time.monotonic() > deadline:
            raise DemoFailed(f"only {ended} of {jobs} jobs ended within {PATIENCE_SECONDS:g} s")
        time.sleep(POLL_SECONDS)


def describe(status: str, retries: int, result: str | None, eta: timedelta | None, by: str | None) -> str:
    """What a row says of itself, in a few words."""
    if status == "PENDING":
        return f"not before {eta.total_seconds():.2f} s" if eta else ""
    if status == "STARTED":
        return f"attempt {retries + 1}" if retries else f"by {(by or '').partition('#')[0]}"
    value = json.loads(result) if result else None
    if status == "SUCCESS":
        return repr(value)
    error = f"{value['exc_type']}: {', '.join(map(str, value['exc_message']))}" if isinstance(value, dict) else ""
    return f"{error}; again in 1.5 s" if status == "RETRY" else error


def show_results(results: dict[str, Any]) -> None:
    for name, result in results.items():
        print(f">>> {name}.get(timeout=10)")
        try:
            print(repr(result.get(timeout=10)))
        except Exception as error:  # noqa: BLE001 - the task's own exception comes back
            print(paint(f"{type(error).__module__}.{type(error).__qualname__}: {error}", RED))


def show_query(database: sqlite3.Connection, query: str) -> None:
    print(paint(query.replace("\n", "\n   ...> ").join(("sqlite> ", ";")), BOLD))
    cursor = database.execute(query)
    rows = [tuple(column[0] for column in cursor.description), *cursor.fetchall()]
    text = [["" if value is None else str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*text, strict=True)]
    text.insert(1, ["-" * width for width in widths])
    for row in text:
        print("  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip())


# the terminal


def heading(text: str) -> None:
    print(f"\n{paint(f'── {text} ' + '─' * max(3, 76 - len(text)), BOLD)}", flush=True)


def paint(text: str, colour: str) -> str:
    return f"{colour}{text}{PLAIN}" if COLOURED and text else text


def indented(text: str) -> str:
    return "\n".join(f"  {line}".rstrip() for line in text.splitlines())


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {PATIENCE_SECONDS:g} s in vain for {what}")
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
