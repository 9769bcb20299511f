"""Telling and asking workers that run: `app.control` and `app.control.inspect()`, on each database."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dbqueue import DBQueue
from dbqueue.contrib.testing import worker as embedded
from dbqueue.errors import TimeLimitExceeded
from dbqueue.store import queries
from dbqueue.store.reading import reading
from dbqueue.store.tables import control
from dbqueue.worker.supervising import supervisor
from tests.waiting import wait_until
from tests.workers import WorkerProcess

Start = Callable[..., WorkerProcess]
Send = Callable[..., Any]
NewPath = Callable[[str], str]
TIMEOUT = 60


@pytest.fixture
def worker(start_worker: Start, database_url: str) -> WorkerProcess:
    return start_worker(database_url, hostname="one@test")


def ask(app: DBQueue, **options: Any) -> Any:
    return app.control.inspect(**({"timeout": TIMEOUT} | options))


def tell(app: DBQueue, command: str, *arguments: Any, **options: Any) -> Any:
    """What the one worker replies."""
    (reply,) = getattr(app.control, command)(*arguments, reply=True, timeout=TIMEOUT, **options)
    return reply["one@test"]


def test_nobody_answers(app: DBQueue) -> None:
    began = time.monotonic()
    assert app.control.ping(timeout=TIMEOUT) == []
    assert ask(app).active() is None
    assert time.monotonic() - began < TIMEOUT


def test_a_revoke_of_many_jobs_is_told_in_parts(app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command for all would be longer than any may be, and the rows had changed by then."""
    monkeypatch.setattr("dbqueue.control.IDS_AT_ONCE", 2)
    assert app.control.revoke("edcba", terminate=True) is None
    assert app.control.revoke(list("edcba"), terminate=True, reply=True) == []
    with reading(app.database.store) as connection:
        told = [json.loads(body)["task_id"] for body in connection.scalars(sa.select(sa.cast(control.c.body, sa.Text)))]
    assert sorted(told) == [["a"], ["c", "b"], ["e", "d"], ["edcba"]]


def test_questions(app: DBQueue, worker: WorkerProcess, send: Send, path: NewPath) -> None:
    assert app.control.ping(timeout=TIMEOUT) == [{"one@test": {"ok": "pong"}}]
    assert ask(app).ping() == {"one@test": {"ok": "pong"}}
    assert ask(app).active() == {"one@test": []}
    send("add", 1, 2).get(timeout=TIMEOUT)
    running = [send("hold", path(f"started{n}"), path("release")) for n in range(2)]
    for n in range(2):
        wait_until(Path(path(f"started{n}")).exists)
    later = send("add", 1, 2, countdown=3600, priority=4)
    active = ask(app).active()["one@test"]
    assert {each["id"] for each in active} == {each.id for each in running}
    assert active[0]["name"] == active[0]["type"] == "sample.hold"
    assert active[0]["hostname"] == "one@test"
    assert active[0]["worker_pid"] in worker.family()
    assert abs(time.time() - active[0]["time_start"]) < 60
    assert active[0]["args"][1] == path("release")
    assert active[0]["delivery_info"] == {"exchange": "", "routing_key": "celery", "priority": 0, "redelivered": False}
    (scheduled,) = ask(app).scheduled()["one@test"]
    assert (scheduled["request"]["id"], scheduled["priority"]) == (later.id, 4)
    found = ask(app).query_task(running[0].id, "absent")["one@test"]
    assert found.keys() == {running[0].id}
    assert found[running[0].id][0] == "active"
    assert ask(app).reserved() == {"one@test": []}
    later.revoke()
    assert ask(app).revoked() == {"one@test": [later.id]}
    stats = ask(app).stats()["one@test"]
    assert (stats["total"], stats["pid"], stats["pool"]["max-concurrency"]) == ({"sample.add": 1}, worker.pid, 2)
    assert "sample.add" in ask(app).registered()["one@test"]
    assert "sample.hold_once [acks_late=False]" in ask(app).registered("acks_late")["one@test"]
    (queue,) = ask(app).active_queues()["one@test"]
    assert queue["name"] == "celery"
    assert ask(app).conf()["one@test"]["task_max_losses"] == 2
    assert "software -> dbqueue:" in ask(app).report()["one@test"]["ok"]
    assert ask(app).clock()["one@test"]["clock"] > 10
    Path(path("release")).touch()
    assert [each.get(timeout=TIMEOUT) for each in running] == ["released"] * 2


def test_answers_come_within_a_second(app: DBQueue, worker: WorkerProcess) -> None:
    # One of five, on a machine that may be busy with other things.
    assert any(app.control.inspect(timeout=1).ping() is not None for _ in range(5))


def test_a_command_that_comes_right_after_another_is_heard(app: DBQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop has seen to its clocks a moment ago, and sleeps for long where nothing is done."""
    monkeypatch.setattr(supervisor, "LOOK_AFTER_SECONDS", 0.5)
    monkeypatch.setattr(supervisor, "IDLE_TICK_SECONDS", 10.0 * TIMEOUT)
    monkeypatch.setattr(supervisor, "QUIET_TICK_SECONDS", 10.0 * TIMEOUT)
    with embedded.start_worker(app, perform_ping_check=False, shutdown_timeout=TIMEOUT):
        for _ in range(4):
            assert len(app.control.ping(timeout=TIMEOUT)) == 1


def test_some_of_the_workers(app: DBQueue, worker: WorkerProcess, start_worker: Start, database_url: str) -> None:
    start_worker(database_url, hostname="two@test", pool="threads")
    assert ask(app).ping().keys() == {"one@test", "two@test"}
    assert ask(app, destination=["two@test"]).ping().keys() == {"two@test"}
    assert ask(app, destination="two@test").ping().keys() == {"two@test"}
    assert ask(app, pattern="o*").ping().keys() == {"one@test"}
    assert len(ask(app, limit=1).ping()) == 1
    told: list[Any] = []
    app.control.broadcast("ping", reply=True, timeout=TIMEOUT, callback=told.append)
    assert len(told) == 2


def test_consumers(app: DBQueue, worker: WorkerProcess, send: Send) -> None:
    result = send("add", 1, 2, queue="mail")
    assert tell(app, "add_consumer", "mail") == {"ok": "add consumer mail"}
    assert result.get(timeout=TIMEOUT) == 3
    assert tell(app, "add_consumer", "mail") == {"ok": "already consuming from 'mail'"}
    wait_until(lambda: queries.open_workers(app.database.store)[0].queues == ("celery", "mail"), TIMEOUT)
    assert tell(app, "cancel_consumer", "celery") == {"ok": "no longer consuming from celery"}
    assert tell(app, "cancel_consumer", "mail") == {"ok": "no longer consuming from mail"}
    waits = send("add", 1, 2)
    assert ask(app).active_queues() == {"one@test": []}
    assert waits.state == "PENDING"
    tell(app, "add_consumer", "celery")
    assert waits.get(timeout=TIMEOUT) == 3


def test_time_limits(app: DBQueue, worker: WorkerProcess, send: Send, path: NewPath) -> None:
    assert tell(app, "time_limit", "sample.hold", hard=0.2) == {"ok": "time limits set successfully"}
    with pytest.raises(TimeLimitExceeded):
        send("hold", path("started"), path("release")).get(timeout=TIMEOUT)
    assert tell(app, "time_limit", "absent", hard=1) == {"error": "unknown task"}
    wrong = {"error": "soft time limit must be less than the hard one"}
    assert tell(app, "time_limit", "sample.add", hard=1, soft=2) == wrong


def test_what_is_not_here_says_so(app: DBQueue, worker: WorkerProcess) -> None:
    assert "this worker has no command 'nonsense'" in tell(app, "broadcast", "nonsense")["error"]
    assert "Autoscale not enabled" in tell(app, "autoscale", 3, 1)["error"]
    assert "TypeError" in tell(app, "broadcast", "add_consumer", {"wrong": 1})["error"]
    assert worker.alive


def test_the_pool_is_restarted(app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start) -> None:
    worker = start_worker(database_url, hostname="one@test", settings={"worker_pool_restarts": True}, concurrency=2)
    before = ask(app).stats()["one@test"]["pool"]["processes"]
    running = send("hold", path("started"), path("release"))
    wait_until(Path(path("started")).exists)
    held = int(Path(path("started")).read_text())
    said = tell(app, "pool_restart", modules=["colorsys", "no_such_module"])
    assert said == {"ok": "reload started"}

    def replaced() -> bool:
        now = set(ask(app).stats()["one@test"]["pool"]["processes"])
        return now & set(before) == {held}

    wait_until(replaced)  # all but the one that is busy
    Path(path("release")).touch()
    running.get(timeout=TIMEOUT)
    wait_until(lambda: held not in ask(app).stats()["one@test"]["pool"]["processes"])
    assert send("loaded", "colorsys").get(timeout=TIMEOUT) is True
    assert "The module no_such_module cannot be imported" in worker.log


def test_a_restart_must_be_allowed(app: DBQueue, worker: WorkerProcess) -> None:
    assert "Pool restarts not enabled" in tell(app, "pool_restart")["error"]
    assert worker.alive


def test_a_worker_that_obeys_nobody(app: DBQueue, send: Send, database_url: str, start_worker: Start) -> None:
    start_worker(database_url, hostname="one@test", settings={"worker_enable_remote_control": False})
    assert app.control.ping(timeout=1.5) == []
    assert send("add", 1, 2).get(timeout=TIMEOUT) == 3


def test_the_pool_grows_and_shrinks(app: DBQueue, worker: WorkerProcess, send: Send, path: NewPath) -> None:
    def processes() -> list[int | None]:
        found: list[int | None] = ask(app).stats()["one@test"]["pool"]["processes"]
        return found

    running = [send("hold", path(f"started{n}"), path("release")) for n in range(4)]
    assert tell(app, "pool_grow", 2) == {"ok": "pool will grow"}
    for n in range(4):
        wait_until(Path(path(f"started{n}")).exists, TIMEOUT)
    assert tell(app, "pool_shrink", 3) == {"ok": "pool will shrink"}
    assert ask(app).stats()["one@test"]["pool"]["max-concurrency"] == 1
    Path(path("release")).touch()
    assert [each.get(timeout=TIMEOUT) for each in running] == ["released"] * 4
    wait_until(lambda: len(processes()) == 1, TIMEOUT, "the end of three processes")
    assert "one must be left" in tell(app, "pool_shrink", 1)["error"]
    assert "may have 5000 at most" in tell(app, "pool_grow", 10**9)["error"]
    for command in ("pool_grow", "pool_shrink"):
        for nonsense in (-2, 0, "2", 1.5, True, None):
            assert "a whole number of processes from 1" in tell(app, command, nonsense)["error"]
    assert ask(app).stats()["one@test"]["pool"]["max-concurrency"] == 1
    assert send("add", 1, 2).get(timeout=TIMEOUT) == 3
    wait_until(lambda: queries.open_workers(app.database.store)[0].concurrency == 1, TIMEOUT)


def test_idle_processes_leave_first(app: DBQueue, worker: WorkerProcess, send: Send, path: NewPath) -> None:
    running = send("hold", path("started"), path("release"))
    wait_until(lambda: Path(path("started")).exists() and Path(path("started")).read_text(), TIMEOUT)
    busy = int(Path(path("started")).read_text())
    tell(app, "pool_shrink", 1)
    wait_until(lambda: ask(app).stats()["one@test"]["pool"]["processes"] == [busy], TIMEOUT, "the end of the idle one")
    Path(path("release")).touch()
    assert running.get(timeout=TIMEOUT) == "released"
    assert send("pid").get(timeout=TIMEOUT) == busy


def test_autoscale(app: DBQueue, send: Send, path: NewPath, database_url: str, start_worker: Start) -> None:
    worker = start_worker(database_url, hostname="one@test", autoscale=(3, 1), concurrency=None)
    running = [send("hold", path(f"started{n}"), path("release")) for n in range(3)]
    for n in range(3):
        wait_until(Path(path(f"started{n}")).exists, TIMEOUT)
    # As a page that polls would ask: while it runs there is a dict, as in Celery.
    assert [each.info for each in running] == [{"pid": None, "hostname": "one@test"}] * 3
    assert tell(app, "autoscale", 4, 2) == {"ok": "autoscale now max=4 min=2"}
    stats = app.control.inspect(timeout=TIMEOUT).stats() or {}
    assert stats["one@test"]["autoscaler"] == {"max": 4, "min": 2, "current": 4, "qty": 3}
    for nonsense in ((-1, None), (None, -1), ("5", None), (None, 1.5), (True, None)):
        assert "bounds are whole numbers from 0" in tell(app, "autoscale", *nonsense)["error"]
    assert "the maximum (1) is less than the minimum (2)" in tell(app, "autoscale", 1)["error"]
    assert "more than a worker may have (5000)" in tell(app, "autoscale", 10**9)["error"]
    assert ask(app).stats()["one@test"]["autoscaler"]["max"] == 4
    for command in ("pool_grow", "pool_shrink"):
        assert "not supported with autoscale" in tell(app, command)["error"]
    Path(path("release")).touch()
    assert [each.get(timeout=TIMEOUT) for each in running] == ["released"] * 3
    assert worker.stop() == 0


def test_shutdown(app: DBQueue, worker: WorkerProcess, start_worker: Start, database_url: str) -> None:
    other = start_worker(database_url, hostname="two@test")
    (reply,) = app.control.shutdown(destination=["one@test"], reply=True, timeout=TIMEOUT) or []
    assert reply.keys() == {"one@test"}
    assert worker.wait() == 0
    assert other.alive
    third = start_worker(database_url, hostname="one@test")
    assert ask(app).ping().keys() == {"one@test", "two@test"}
    assert third.alive


def test_a_shutdown_that_is_repeated_stays_warm(app: DBQueue, worker: WorkerProcess, send: Send, path: NewPath) -> None:
    held = send("hold", path("started"), path("release"))
    wait_until(Path(path("started")).exists, TIMEOUT)
    for _ in range(3):
        assert tell(app, "shutdown") == {"ok": "shutting down"}
    Path(path("release")).touch()
    assert held.get(timeout=TIMEOUT) == "released"
    assert worker.wait() == 0, worker.log


def test_a_pool_of_one_process_cannot_grow(app: DBQueue, start_worker: Start, database_url: str) -> None:
    start_worker(database_url, hostname="one@test", pool="threads")
    assert "cannot grow" in tell(app, "pool_grow")["error"]
