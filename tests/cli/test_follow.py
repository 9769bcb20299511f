"""`dbqueue result --follow`: the states of a running job as they come."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dbqueue.cli.follow import _line
from dbqueue.jobs import Progress, Succeeded
from tests.cli.commands import TIMEOUT_SECONDS, Commands
from tests.stores import TestWorker, enqueued, opened
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("state", "info", "line"),
    [
        ("STARTED", None, "STARTED"),
        ("STARTED", {"pid": None, "hostname": "one@shop"}, "STARTED"),
        ("RETRY", ValueError("bad"), "RETRY"),
        ("PROGRESS", {"current": 1, "total": 4}, "PROGRESS [" + "#" * 8 + "-" * 24 + "] 1/4 (25%)"),
        ("PROGRESS", {"current": 9, "total": 4}, "PROGRESS [" + "#" * 32 + "] 9/4 (100%)"),
        ("PROGRESS", {"current": 7, "total": None}, "PROGRESS 7"),
        ("PROGRESS", {"current": 7, "total": 0}, "PROGRESS 7"),
        ("STEP\x1b", {"at": "\x1b[31m"}, "STEP\\x1b {'at': '\\x1b[31m'}"),
        ("LONG", "x" * 200, "LONG '" + "x" * 56 + "..."),
    ],
)
def test_lines(state: str, info: object, line: str) -> None:
    assert _line(state, info) == line


def test_follow(dbqueue: Commands) -> None:
    with opened(dbqueue.url) as store:
        job_id = enqueued(store)
        worker = TestWorker(store)
        job = worker.claim_one()
        errors = dbqueue.folder / "errors.txt"
        with errors.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "dbqueue.cli", "--database", dbqueue.url, "result", job_id, "--follow"],
                cwd=dbqueue.folder,
                env=dbqueue.environment,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        try:
            for current in (1, 2):
                meta = f'{{"current": {current}, "total": 2}}'
                worker.session.report([Progress(job.id, job.lease, "PROGRESS", meta)])
                wait_until(lambda text=f"{current}/2": text in errors.read_text(), TIMEOUT_SECONDS, "the bar")  # type: ignore[misc]
            worker.settle(Succeeded(job.id, job.lease, '"packed"', 0.1))
            assert process.communicate(timeout=TIMEOUT_SECONDS)[0] == "packed\n"
        finally:
            process.kill()
            process.wait(TIMEOUT_SECONDS)
            worker.close()
        assert process.returncode == 0
    bars = [line.partition("] ")[2] for line in errors.read_text().splitlines() if "]" in line]
    assert bars == ["1/2 (50%)", "2/2 (100%)"]


def test_follow_an_ended_or_unknown_job(dbqueue_sqlite: Commands) -> None:
    with opened(dbqueue_sqlite.url) as store:
        job_id = enqueued(store)
    waited = dbqueue_sqlite.here("result", job_id, "--follow", "--timeout", "0.01")
    assert (waited.returncode, waited.stdout) == (1, "PENDING: there is no result yet.\n")
    assert "there is no job 'unknown'" in dbqueue_sqlite.here("result", "unknown", "--follow").stderr
