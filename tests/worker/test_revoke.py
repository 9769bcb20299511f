"""Revoking, beside real workers: what waits, what runs, and what comes back."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from signal import SIGCONT
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue, signals
from dbqueue.errors import TaskRevokedError
from dbqueue.store import changes
from dbqueue.store.tables import jobs
from tests.waiting import wait_until
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
Send = Callable[..., Any]
NewPath = Callable[[str], str]
TIMEOUT = 60


def runs_in(path: str) -> int:
    """The pid in which `hold` runs, once it does."""
    wait_until(lambda: Path(path).exists() and Path(path).read_text(), TIMEOUT, "the start of the task")
    return int(Path(path).read_text().split()[0])


def holding(send: Send, path: NewPath, name: str = "hold") -> tuple[Any, int]:
    result = send(name, path("started"), path("release"))
    return result, runs_in(path("started"))


def refused(result: Any, why: str) -> None:
    with pytest.raises(TaskRevokedError, match=why):
        result.get(timeout=TIMEOUT)
    assert result.state == "REVOKED"


def lease(app: DBQueue, job_id: str) -> str | None:
    """Under which claim it is held."""
    with app.database.store.connect() as connection:
        query = sa.select(sa.cast(jobs.c.lease, sa.Text)).where(jobs.c.id == job_id)
        return connection.execute(query).scalar()


def test_what_waits_is_revoked_without_any_worker(app: DBQueue, send: Send) -> None:
    result = send("add", 1, 2)
    result.revoke()
    refused(result, "^revoked$")


def test_an_id_that_is_not_enqueued_yet(app: DBQueue, send: Send, database_url: str, start_worker: Start) -> None:
    app.control.revoke("early")
    send("add", 1, 2, task_id="early")
    other = send("add", 1, 2)
    start_worker(database_url)
    assert other.get(timeout=TIMEOUT) == 3
    refused(app.AsyncResult("early"), "^revoked$")


def test_many_by_their_ids(app: DBQueue, send: Send) -> None:
    results = [send("add", 1, number) for number in range(3)]
    app.control.revoke([results[0].id, results[1].id])
    assert [each.state for each in results] == ["REVOKED", "REVOKED", "PENDING"]


def test_the_signal_tells_of_what_waited(app: DBQueue, send: Send) -> None:
    told: list[tuple[Any, ...]] = []

    def tell(
        sender: Any = None,
        request: Any = None,
        terminated: Any = None,
        signum: Any = None,
        expired: Any = None,
        **_: Any,
    ) -> None:
        told.append((sender, request.id, terminated, signum, expired))

    signals.task_revoked.connect(tell)
    try:
        result = send("add", 1, 2)
        result.revoke()
        result.revoke()
    finally:
        signals.task_revoked.disconnect(tell)
    assert told == [(app.tasks["sample.add"], result.id, False, None, False)]


def test_what_runs_goes_on(app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start) -> None:
    start_worker(database_url)
    result, _ = holding(send, path)
    result.revoke(wait=True)
    assert result.state == "STARTED"
    Path(path("release")).touch()
    assert result.get(timeout=TIMEOUT) == "released"


@pytest.mark.parametrize("terminate", [False, True])
def test_what_runs_with_a_stamp(
    app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start, terminate: bool
) -> None:
    """As by its id: it goes on, unless it is terminated; either way it does not run again."""
    start_worker(database_url)
    stamps = {"stamped_headers": ["customer"], "customer": "acme"}
    result = send("hold_and_retry", path("started"), path("release"), **stamps)
    other = send("hold", path("other"), path("release"))
    runs_in(path("started"))
    runs_in(path("other"))
    app.control.revoke_by_stamped_headers({"customer": "acme"}, terminate=terminate, reply=True, timeout=TIMEOUT)
    if terminate:
        refused(result, "^terminated$")
    assert [result.state, other.state] == ["REVOKED" if terminate else "STARTED", "STARTED"]
    Path(path("release")).touch()
    assert other.get(timeout=TIMEOUT) == "released"
    refused(result, "^terminated$" if terminate else "^revoked$")
    assert len(Path(path("started")).read_text().split()) == 1


def test_a_retry_does_not_run_again(
    app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start
) -> None:
    start_worker(database_url)
    result = send("hold_and_retry", path("started"), path("release"))
    runs_in(path("started"))
    result.revoke()
    Path(path("release")).touch()
    refused(result, "^revoked$")
    assert len(Path(path("started")).read_text().split()) == 1


@pytest.mark.parametrize("signal", [None, "KILL", "SIGTERM", 9])
def test_terminate_ends_the_run(
    app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start, signal: Any
) -> None:
    worker = start_worker(database_url, concurrency=1)
    # One that ignores SIGTERM, where another signal is asked for.
    result, pid = holding(send, path, "hold_on" if signal in ("KILL", 9) else "hold")
    waiting = [send("add", 1, number) for number in range(3)]
    result.revoke(terminate=True, signal=signal)
    refused(result, "^terminated$")
    wait_until(lambda: pid not in worker.family(), TIMEOUT, "the end of the pool process")
    assert [each.get(timeout=TIMEOUT) for each in waiting] == [1, 2, 3]
    assert result.state == "REVOKED"
    assert len(Path(path("started")).read_text().split()) == 1
    assert "Terminating sample.hold" in worker.log
    assert worker.stop() == 0


@pytest.mark.parametrize("by", ["id", "stamp"])
def test_a_second_and_harder_signal(
    app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start, by: str
) -> None:
    """Also where the job is named by its stamp: its row has ended with the first one."""
    worker = start_worker(database_url, concurrency=1)
    result = send("hold_on", path("started"), path("release"), stamped_headers=["customer"], customer="acme")
    pid = runs_in(path("started"))
    result.revoke(terminate=True)
    refused(result, "^terminated$")
    worker.says("Terminating sample.hold_on")
    if by == "id":
        app.control.revoke(result.id, terminate=True, signal="KILL")
    else:
        app.control.revoke_by_stamped_headers({"customer": "acme"}, terminate=True, signal="KILL")
    wait_until(lambda: pid not in worker.family(), TIMEOUT, "the end of the pool process")
    assert send("add", 1, 2).get(timeout=TIMEOUT) == 3
    assert len(Path(path("started")).read_text().split()) == 1


def test_a_task_that_may_take_the_signal_is_revoked_all_the_same(
    app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start
) -> None:
    """SIGUSR1 raises SoftTimeLimitExceeded in the task, as in Celery."""
    worker = start_worker(database_url, concurrency=1)
    result, _ = holding(send, path, "hold_softly")
    result.revoke(terminate=True, signal="SIGUSR1")
    refused(result, "^terminated$")
    wait_until(lambda: "soft limit" in Path(path("started")).read_text(), TIMEOUT, "the exception in the task")
    assert send("add", 1, 2).get(timeout=TIMEOUT) == 3
    assert worker.alive


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_terminate_on_pools_of_one_process(
    app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start, pool: str
) -> None:
    worker = start_worker(database_url, pool=pool, concurrency=3)
    name = "ahold" if pool == "asyncio" else "hold"
    stays = send(name, path("stays"), path("release"))
    runs_in(path("stays"))
    result, pid = holding(send, path, name)
    result.revoke(terminate=True)
    refused(result, "^terminated$")
    assert send("add", 1, 2).get(timeout=TIMEOUT) == 3
    Path(path("release")).touch()
    assert stays.get(timeout=TIMEOUT) == "released"
    assert pid in worker.family()


@pytest.mark.parametrize("pool", ["threads", "asyncio"])
def test_a_run_that_takes_no_notice_has_no_second_one_beside_it(
    app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start, pool: str
) -> None:
    worker = start_worker(database_url, pool=pool, concurrency=2)
    result, _ = holding(send, path, "hold_stubbornly")
    result.revoke(terminate=True)
    refused(result, "^terminated$")
    wait_until(lambda: "told" in Path(path("started")).read_text(), TIMEOUT, "the exception in the task")
    assert changes.retry(app.database.store, [result.id]) == {result.id}
    wait_until(lambda: result.id in str(app.control.inspect().reserved()), TIMEOUT, "its second claim")
    second = lease(app, result.id)
    assert send("add", 1, 2).get(timeout=TIMEOUT) == 3
    wait_until(lambda: lease(app, result.id) not in (second, None), TIMEOUT, "its return, and its third claim")
    assert Path(path("started")).read_text().split().count("told") == 1
    result.revoke()
    refused(app.AsyncResult(result.id), "^revoked$")
    assert changes.retry(app.database.store, [result.id]) == {result.id}
    Path(path("release")).touch()
    assert app.AsyncResult(result.id).get(timeout=TIMEOUT) == "released"
    assert len(Path(path("started")).read_text().split()) == 3
    assert worker.stop() == 0


def test_what_is_retried_at_once_runs(app: DBQueue, send: Send, database_url: str, start_worker: Start) -> None:
    """A worker remembers what was revoked only as long as a claim of its own may have found it before."""
    start_worker(database_url)
    assert send("add", 1, 2).get(timeout=TIMEOUT) == 3
    result = send("add", 1, 2, queue="other")
    result.revoke(wait=True, timeout=TIMEOUT)
    refused(result, "^revoked$")
    app.control.add_consumer("other", reply=True, timeout=TIMEOUT)
    assert changes.retry(app.database.store, [result.id]) == {result.id}
    assert app.AsyncResult(result.id).get(timeout=TIMEOUT) == 3


def test_solo_goes_on(app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start) -> None:
    worker = start_worker(database_url, pool="solo")
    result, _ = holding(send, path)
    result.revoke(terminate=True, wait=True)
    wait_until(lambda: "cannot be terminated" in worker.log, TIMEOUT)
    Path(path("release")).touch()
    assert result.get(timeout=TIMEOUT) == "released"


def test_a_terminated_job_is_not_run_after_the_workers_death(
    app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start
) -> None:
    """The command never reaches the worker, which is dead; the row keeps the revoke."""
    worker = start_worker(database_url, settings={"worker_lease_seconds": 2.0})
    result, _ = holding(send, path)
    worker.kill()
    result.revoke(terminate=True)
    start_worker(database_url)
    refused(result, "^revoked$")
    assert len(Path(path("started")).read_text().split()) == 1


def test_what_is_claimed_and_not_started(
    app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start
) -> None:
    """Short jobs are sent ahead to a child; those that wait there behind a long one do not run."""
    start_worker(database_url, concurrency=1)
    for number in range(20):
        send("add", number, 0).get(timeout=TIMEOUT)
    jobs = [send("hold", path("started"), path("release")), *(send("record", path("runs"), n) for n in range(30))]
    runs_in(path("started"))
    app.control.revoke([each.id for each in jobs[1:]], reply=True, timeout=TIMEOUT)
    Path(path("release")).touch()
    assert jobs[0].get(timeout=TIMEOUT) == "released"
    for each in jobs[1:]:
        refused(each, "^revoked$")
    assert not Path(path("runs")).exists()


def test_what_waits_behind_another_is_not_terminated_with_it(
    app: DBQueue, path: NewPath, database_url: str, start_worker: Start
) -> None:
    """A process that is stopped gives nothing back; the job that it runs is not the one that was called off."""
    worker = start_worker(database_url, concurrency=1)
    freeze = app.tasks["sample.freeze"]
    Path(path("thawed")).touch()
    for result in freeze.enqueue_many([(path("thawed"),)] * 20):  # it is known as a short one from now on
        assert result.get(timeout=TIMEOUT) == "thawed"
    runs, waits, last = freeze.enqueue_many([(path("cold"),), (path("thawed"),), (path("thawed"),)])
    pid = runs_in(path("cold"))
    app.control.revoke(waits.id, terminate=True, reply=True, timeout=TIMEOUT)
    assert app.control.ping(timeout=TIMEOUT)  # answered after the loop has seen to the revoke
    assert "Terminating" not in worker.log
    os.kill(pid, SIGCONT)
    assert runs.get(timeout=TIMEOUT) == "thawed"
    waits.get(timeout=TIMEOUT, propagate=False)  # it may have begun before it was given back
    assert last.get(timeout=TIMEOUT) == "thawed"


def test_expiry_is_told_by_the_workers_signal(app: DBQueue, send: Send, database_url: str, start_worker: Start) -> None:
    result = send("add", 1, 2, expires=0.001)
    start_worker(database_url)
    refused(result, "^expired$")
