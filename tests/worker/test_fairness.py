"""What a job may wait for: what was claimed before it, and no more. The bounds are numbers of jobs, not times."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbqueue import DBQueue
from dbqueue.worker.supervising.dispatch import AHEAD_SECONDS, BUFFER_SECONDS
from tests.waiting import wait_until
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
Send = Callable[..., Any]
PathOf = Callable[[str], str]

JOB_SECONDS = 0.005
CLAIMED = 2 * round(BUFFER_SECONDS / JOB_SECONDS) + 4
"""Most jobs that one slot's worker has claimed: its buffer, and the claim that is under way."""
SENT_AHEAD = round(AHEAD_SECONDS / JOB_SECONDS) + 2


def lines(path: str) -> list[str]:
    return Path(path).read_text().split() if Path(path).exists() else []


def backlog(app: DBQueue, log: str, number: int, **options: Any) -> list[Any]:
    slowly = app.tasks["sample.record_slowly"]
    return slowly.enqueue_many([(log, f"backlog-{n}", JOB_SECONDS) for n in range(number)], **options)


def test_an_urgent_job_waits_for_what_is_claimed_and_no_more(
    app: DBQueue, start_worker: Start, send: Send, path: PathOf
) -> None:
    log = path("log")
    backlog(app, log, 600)
    start_worker(app.conf.broker_url, concurrency=1)
    wait_until(lambda: len(lines(log)) > 100, what="a buffer of measured jobs")
    urgent = send("record", log, "urgent", priority=9)
    begun = len(lines(log))
    assert urgent.get(timeout=60) == "urgent"
    assert lines(log).index("urgent") <= begun + CLAIMED


def test_small_queues_do_not_wait_for_a_large_one(app: DBQueue, start_worker: Start, send: Send, path: PathOf) -> None:
    log = path("log")
    large = backlog(app, log, 600, queue="q.large")
    start_worker(app.conf.broker_url, concurrency=1, queues="q.*")
    wait_until(lambda: len(lines(log)) > 50, what="a buffer of measured jobs")
    small = [send("record", log, f"small-{n}", queue=f"q.{n}") for n in range(40)]
    for result in small:
        result.get(timeout=60)
    done = lines(log)
    last = max(done.index(f"small-{n}") for n in range(40))
    assert last < len(large), "the large queue was finished first"
    assert [result.get(timeout=60) for result in large[-3:]] == ["backlog-597", "backlog-598", "backlog-599"]


@pytest.mark.parametrize("end", ["it goes on", "it is killed"])
def test_a_child_that_is_stuck_keeps_what_was_sent_to_it_and_no_more(
    app: DBQueue, start_worker: Start, send: Send, path: PathOf, end: str
) -> None:
    """It does not even hear that its jobs are recalled; the other child runs all others, and each job runs once."""
    log, frozen = path("log"), path("frozen")
    backlog(app, log, 200)
    start_worker(app.conf.broker_url, concurrency=2)
    wait_until(lambda: len(lines(log)) > 100, what="a buffer of measured jobs")
    stuck = send("freeze", frozen, priority=9)
    wait_until(lambda: lines(frozen), what="the job that stops its process")
    more = app.tasks["sample.record"].enqueue_many([(log, f"more-{n}") for n in range(200)])
    wait_until(lambda: len(set(lines(log))) >= 400 - SENT_AHEAD, what="the others")
    assert stuck.status == "STARTED"
    os.kill(int(lines(frozen)[0]), signal.SIGCONT if end == "it goes on" else signal.SIGKILL)
    assert stuck.get(timeout=60) == "thawed"
    assert [result.get(timeout=60) for result in more] == [f"more-{n}" for n in range(200)]
    wait_until(lambda: len(set(lines(log))) == 400, what="what the stuck child held")
    assert set(Counter(lines(log)).values()) == {1}
